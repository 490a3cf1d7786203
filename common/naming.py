"""Pure: the names of a batch's results, from a template such as `{show}/{date}-{title}.{stem}.{ext}`.

A name is a relative path that file systems and S3 alike can hold: Unicode in NFC, each part at most MAX_PART_BYTES,
no part empty, hidden or reserved. What fills a field keeps its letters and digits, of any script, and its case;
everything else becomes a hyphen. What is too long is cut, the fields of a name alike.

Names of one batch never collide, not even where case or Unicode's forms do not count. An item whose names would meet
another's gets a suffix, made from its identity alone: neither the order of the items nor that of finishing changes it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import NamedTuple

from common.digests import Digests
from common.errors import NightshiftError
from common.storage.keys import MAX_PART_BYTES

FIELDS = {
    "show": "title of the podcast",
    "title": "title of the episode",
    "date": "day it was published, YYYY-MM-DD",
    "year": "year it was published",
    "month": "month it was published, 01 to 12",
    "guid": "the feed's own id of the episode",
    "number": "number of the episode; {number:04} with zeros in front",
    "index": "position in the batch, from 1; {index:05} with zeros in front",
    "name": "file name of the input, without its ending",
    "batch": "name of the batch",
    "job": "id of the job",
    "stem": "name of the output",
    "ext": "ending of the format: flac, wav, mp3, opus",
}
EXAMPLE = "{show}/{date}-{title}.{stem}.{ext}"
MAX_TEXT = 300
# S3 allows 1,024; the caller's prefix needs some of it.
MAX_NAME_BYTES = 700

_PADDED = frozenset({"number", "index"})
_NOT_OF_ITEM = frozenset({"batch", "stem", "ext"})
# The most bytes of a field: the first limit under which all parts fit.
_LIMITS = (120, 80, 60, 40, 24, 12)
_STEM_BYTES = 80
_MOST = {"stem": _STEM_BYTES, "ext": 8}
# Hexadecimal digits: a suffix that still meets another name, because somebody chose it so, grows.
_SUFFIXES = (0, 8, 16, 32)
_ROUNDS = 6
_STEM = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_STEM_BYTES - 1}}}")
# So that nobody can choose names whose digests crowd together.
_KEY = secrets.token_bytes(16)
_NOT_ASCII_WORD = re.compile(r"[^A-Za-z0-9_]+")
# Letters that show nothing.
_FILLERS = "\u115f\u1160"
_UNSAFE = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f-\x9f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


class Item(NamedTuple):
    """identity: what tells it from every other item of the batch, and stays. fields: by name, empty or absent: none."""

    identity: str
    fields: Mapping[str, str]


class _Piece(NamedTuple):
    """Literal text and the field behind it, None at the end. width: zeros are put in front up to it."""

    literal: str
    field: str | None
    width: int


@dataclass(frozen=True)
class Template:
    """Made by `parse`."""

    text: str
    pieces: tuple[_Piece, ...]

    @classmethod
    def parse(cls, text: str, ext: str | None = None, pointer: str | None = None) -> Template:
        """ext: the ending all results will have, where it is known. Raises `invalid_template`."""
        try:
            return cls(text, _pieces(text, ext))
        except ValueError as error:
            raise NightshiftError(
                "invalid_template",
                f"The naming template {text[:100]!r} cannot be used: {error}.",
                hint=f"For instance {EXAMPLE}. Fields: {', '.join(FIELDS)}.",
                pointer=pointer,
            ) from error

    def render(self, fields: Mapping[str, str], stem: str, ext: str, suffix: str = "") -> str:
        """The name of one output of one item. suffix: from `suffixes`."""
        for limit in _LIMITS:
            name = self._filled({**fields, "stem": stem, "ext": ext}, suffix, limit)
            if fits(name):
                break
        return "/".join(f"_{part}" if _RESERVED.match(part) else part for part in name.split("/"))

    def _filled(self, fields: Mapping[str, str], suffix: str, limit: int) -> str:
        # The last field that tells items apart carries the suffix: 2026-01-01-title-1f0c22ab.voice.flac
        carrier = max(i for i, piece in enumerate(self.pieces) if _of_items([piece]))
        text = ""
        for i, (literal, field, width) in enumerate(self.pieces):
            text += literal
            if field is not None:
                value = fields.get(field, "")
                if width and value:
                    value = value.zfill(width)
                # A stem is a name already, and must stay apart from the others of its job.
                stem = field == "stem" and _STEM.fullmatch(value)
                text += value if stem else slug(value, _MOST.get(field, limit)) or f"no-{field}"
                if suffix and i == carrier:
                    text += f"-{suffix}"
        return unicodedata.normalize("NFC", text)


def slug(text: str, max_bytes: int) -> str:
    """Letters and digits of any script, with hyphens between; in NFC, at most `max_bytes` of UTF-8; empty for none."""
    if text.isascii():
        return _NOT_ASCII_WORD.sub("-", text.replace("'", "")).strip("-")[:max_bytes].strip("-")
    kept: list[str] = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if char in _FILLERS:
            continue
        if category[0] in "LN" or char == "_" or (category[0] == "M" and kept and kept[-1] != "-"):
            kept.append(char)
        elif category != "Cf" and char not in "'’" and kept and kept[-1] != "-":
            kept.append("-")
    return _cut(unicodedata.normalize("NFC", "".join(kept)).strip("-"), max_bytes).strip("-")


def same(name: str) -> str:
    """Equal for names that some file system takes for one: without regard to case and to Unicode's forms."""
    folded = unicodedata.normalize("NFKC", name).upper().casefold()
    return unicodedata.normalize("NFKC", folded)


def fits(name: str) -> bool:
    """Whether neither the name nor a part of it is too long."""
    parts = name.split("/")
    # One byte for the underscore in front of a reserved name.
    return len(name.encode()) + len(parts) <= MAX_NAME_BYTES and all(
        len(part.encode()) < MAX_PART_BYTES for part in parts
    )


def suffixes(
    template: Template, items: Collection[Item], stems: Sequence[str], ext: str, taken: Iterable[str] = ()
) -> Iterator[tuple[str, str]]:
    """The items that need a suffix, by identity; without it, no two names of the batch are the `same`.

    items: walked through more than once; identities are distinct.  stems: the outputs of every item, distinct.
    taken: names that are there already. Memory: some twenty bytes a name, and as much for an item that needs a suffix.
    """
    occupied = frozenset(_digest(name) for name in taken)
    levels, least = Digests(), 0
    names = len(occupied) + len(items) * len(stems)
    for turn in range(_ROUNDS + 2):
        if turn == _ROUNDS:
            # Only names chosen to meet get here: each of them costs the same from now on.
            least = len(_SUFFIXES) - 1
        seen, met = Digests(names), False
        for digest in occupied:
            seen[digest] = 1
        for item in items:
            level = max(least, levels[_digest_of(item.identity)])
            for digest in _digests(template, item, stems, ext, level):
                times = seen[digest]
                met = met or times > 0
                seen[digest] = min(times + 1, 2)
        if not met:
            return _suffixed(items, levels, least)
        for item in items:
            identity = _digest_of(item.identity)
            level = max(least, levels[identity])
            if any(seen[digest] > 1 for digest in _digests(template, item, stems, ext, level)):
                levels[identity] = min(level + 1, len(_SUFFIXES) - 1)
        del seen  # before there is another
    raise ValueError("two items have the same identity, or two stems the same name")


def _suffixed(items: Collection[Item], levels: Digests, least: int) -> Iterator[tuple[str, str]]:
    for item in items:
        level = max(least, levels[_digest_of(item.identity)])
        if level:
            yield item.identity, _suffix(item.identity, level)


def _digests(template: Template, item: Item, stems: Sequence[str], ext: str, level: int) -> list[int]:
    suffix = _suffix(item.identity, level)
    return [_digest(template.render(item.fields, stem, ext, suffix)) for stem in stems]


def _digest(name: str) -> int:
    return _digest_of(same(name))


def _digest_of(text: str) -> int:
    hashed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY)
    return int.from_bytes(hashed.digest(), "big")


def _suffix(identity: str, level: int) -> str:
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[: _SUFFIXES[level]]


def _cut(text: str, max_bytes: int) -> str:
    """The longest beginning of at most `max_bytes` of UTF-8 that takes no accent from its letter."""
    if len(text.encode()) <= max_bytes:
        return text
    kept = text.encode()[:max_bytes].decode("utf-8", "ignore")
    if len(kept) < len(text) and unicodedata.category(text[len(kept)])[0] == "M":
        kept = kept.rstrip("".join(char for char in set(kept) if unicodedata.category(char)[0] == "M"))[:-1]
    return kept


def _pieces(text: str, ext: str | None) -> tuple[_Piece, ...]:
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT} characters")
    text = unicodedata.normalize("NFC", text)
    pieces = []
    for literal, field, spec, conversion in Formatter().parse(text):
        if field is not None and field not in FIELDS:
            raise ValueError(f"there is no field {{{field}}}")
        if conversion:
            raise ValueError(f"{{{field}}} takes no conversion")
        if spec and (field not in _PADDED or not re.fullmatch(r"0?[1-9]", spec, re.ASCII)):
            raise ValueError(f"{{{field}}} takes no format {spec!r}")
        pieces.append(_Piece(literal, field, int(spec) if spec else 0))
    if not any(piece.field == "stem" for piece in pieces):
        raise ValueError("without {stem} the outputs of one job would have the same name")
    if not _of_items(pieces):
        raise ValueError("without a field of the item, such as {title}, all would have the same name")
    _check_literals(text, pieces)
    if not text.endswith((".{ext}", f".{ext}") if ext else ".{ext}"):
        raise ValueError("it does not end with .{ext}" + (f" or .{ext}" if ext else ""))
    return tuple(pieces)


def _of_items(pieces: Iterable[_Piece]) -> bool:
    """Whether one of them tells items apart."""
    return any(piece.field is not None and piece.field not in _NOT_OF_ITEM for piece in pieces)


def _check_literals(text: str, pieces: Sequence[_Piece]) -> None:
    literals = "".join(piece.literal for piece in pieces)
    if unsafe := _UNSAFE.search(literals):
        raise ValueError(f"it holds {unsafe[0]!r}, which not every file system can")
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in literals):
        raise ValueError("it holds characters that cannot be seen")
    # Fields are never empty, and neither begin nor end with what a part must not.
    shape = "".join(piece.literal + ("x" if piece.field else "") for piece in pieces)
    for part in shape.split("/"):
        if not part:
            raise ValueError("a part between slashes is empty, or it begins with a slash")
        if part[0] in ". " or part[-1] in ". ":
            raise ValueError("a part between slashes begins or ends with a dot or a space")
    longest = "".join(
        piece.literal + "x" * (_MOST.get(piece.field, _LIMITS[-1]) if piece.field else 0) for piece in pieces
    )
    # The suffix can stand in any part.
    if not all(fits(f"{part}-{'x' * _SUFFIXES[-1]}") for part in longest.split("/")) or not fits(longest):
        raise ValueError("it leaves too little room for what fills its fields")
