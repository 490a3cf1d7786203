"""Pure: which keys of a bucket, or files of a folder, a glob means.

    *        any run of characters within one part of the path      [a-z] [!0-9]  one of these, none of these
    ?        one character, not /                                   {mp3,flac}    either
    **       as a whole part: any number of parts, also none        \\*            the character itself

Case counts, and a leading dot is a character like any other. A pattern becomes one expression for RE2, whose time is
linear in the key: with a backtracking engine a few stars are enough to keep a machine busy for a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import re2

from common.errors import NightshiftError

MAX_PATTERN = 500
EXAMPLE = "s3://archive/shows/2026/**/*.{mp3,flac}"
_MAGIC = frozenset("*?[{\\")
_PROGRAM_BYTES = 8 << 20


class Listed(NamedTuple):
    """An object as a listing tells of it. size: bytes."""

    key: str
    size: int


class Lister(Protocol):
    """What a store offers: all objects whose key begins with a text, in the order of their keys."""

    def list(self, prefix: str) -> Iterator[Listed]: ...


class Why(StrEnum):
    """Why an object that was listed is left out."""

    FOLDER = "folder_marker"
    EMPTY = "empty_object"
    BAD_KEY = "unusable_key"
    EXCLUDED = "excluded"


class LeftOut(NamedTuple):
    key: str
    why: Why


@dataclass(frozen=True)
class Glob:
    """Made by `Glob.parse`."""

    text: str
    literal: str
    _expression: Any

    @classmethod
    def parse(cls, text: str, pointer: str | None = None) -> Glob:
        """Raises `invalid_pattern`."""
        try:
            if not text or len(text) > MAX_PATTERN:
                raise ValueError(f"it has {len(text)} characters, not 1 to {MAX_PATTERN}")
            return cls(text, _literal(text), _compiled(_translated(text)))
        except ValueError as error:
            raise NightshiftError(
                "invalid_pattern",
                f"The pattern {text[:100]!r} cannot be used: {error}.",
                hint=r"Use * ? ** [a-z] and {a,b}; write \ before a character that is meant as it is.",
                pointer=pointer,
            ) from error

    def matches(self, path: str) -> bool:
        """Whether it means this path, as a whole. Parts are separated by `/`."""
        # A file name that is not UTF-8 has a byte for a character.
        text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return self._expression.fullmatch(text) is not None


@dataclass(frozen=True)
class Selection:
    """Objects of a bucket by patterns over whole keys. Made by `Selection.parse`."""

    bucket: str
    include: Glob
    exclude: tuple[Glob, ...]

    @classmethod
    def parse(cls, uri: str, exclude: Iterable[str] = (), pointer: str | None = None) -> Selection:
        """uri: `s3://bucket/` and a pattern; without one of its signs, a prefix: everything that begins so.

        Raises `invalid_pattern`.
        """
        bucket, slash, rest = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket or not slash or _MAGIC & set(bucket):
            raise NightshiftError(
                "invalid_pattern",
                f"{uri[:100]!r} is not a place in a bucket.",
                hint=f"Write the bucket, a slash, and a prefix or pattern: {EXAMPLE}",
                pointer=pointer,
            )
        include = Glob.parse(rest if _MAGIC & set(rest) else f"{rest}**", pointer)
        return cls(bucket, include, tuple(Glob.parse(text, pointer) for text in exclude))

    def choose(self, lister: Lister) -> Iterator[Listed | LeftOut]:
        """What the patterns mean, in the order of the keys, and what of it cannot be an input. Reads as it is listed.

        Only what begins with the pattern's own beginning is listed.
        """
        for found in lister.list(self.include.literal):
            if not self.include.matches(found.key):
                continue
            why = self._unwanted(found)
            yield found if why is None else LeftOut(found.key, why)

    def _unwanted(self, found: Listed) -> Why | None:
        if found.key.endswith("/"):
            return Why.FOLDER
        if any(glob.matches(found.key) for glob in self.exclude):
            return Why.EXCLUDED
        # What an `s3://` input may not be named.
        if {".", ".."} & set(found.key.split("/")) or not found.key.isprintable():
            return Why.BAD_KEY
        return Why.EMPTY if found.size == 0 else None


def _literal(text: str) -> str:
    """The characters before the first sign: every key that matches begins with them."""
    return text[: next((i for i, char in enumerate(text) if char in _MAGIC), len(text))]


def _translated(text: str) -> str:
    """The same as a regular expression. Raises ValueError."""
    out: list[str] = []
    braces = 0
    i = 0
    while i < len(text):
        char = text[i]
        if text.startswith("**", i):
            i += 2
            if text.startswith("/", i) and (i == 2 or text[i - 3] in "/{,"):
                out.append("(?:[^/]*/)*")
                i += 1
            elif i == len(text) or (braces and text[i] in ",}"):
                out.append(".*")
            else:
                raise ValueError("** stands for whole parts: write a/**/b, or ** at the end")
        elif char == "*":
            out.append("[^/]*")
            i += 1
        elif char == "?":
            out.append("[^/]")
            i += 1
        elif char == "[":
            group, i = _class(text, i)
            out.append(group)
        elif char == "{":
            braces += 1
            out.append("(?:")
            i += 1
        elif char == "}" and braces:
            braces -= 1
            out.append(")")
            i += 1
        elif char == "," and braces:
            out.append("|")
            i += 1
        elif char == "\\":
            if i + 1 == len(text):
                raise ValueError(r"it ends with \ and nothing behind it")
            out.append(re2.escape(text[i + 1]))
            i += 2
        else:
            out.append(re2.escape(char))
            i += 1
    if braces:
        raise ValueError("a { is not closed")
    return "".join(out)


def _class(text: str, start: int) -> tuple[str, int]:
    """The set of characters that begins at `start`, as an expression, and where it ends."""
    i = start + 1
    negated = text.startswith(("!", "^"), i)
    i += negated
    # A closing bracket that comes first is one of the characters.
    end = text.find("]", i + 1)
    if end < 0:
        raise ValueError("a [ is not closed")
    inside = text[i:end]
    if "/" in inside or "\\" in inside:
        raise ValueError("a set in brackets holds neither / nor \\")
    parts: list[str] = []
    j = 0
    while j < len(inside):
        if inside[j + 1 : j + 2] == "-" and j + 2 < len(inside):
            if inside[j] > inside[j + 2]:
                raise ValueError(f"the range {inside[j : j + 3]} goes backwards")
            # A range such as +-9 goes over the slash, which a set never means.
            below, above = min(inside[j + 2], "."), max(inside[j], "0")
            for first, last in ((inside[j], below), (above, inside[j + 2])):
                parts += [f"{re2.escape(first)}-{re2.escape(last)}"] if first <= last else []
            j += 3
        else:
            parts.append(re2.escape(inside[j]))
            j += 1
    return f"[{'^/' if negated else ''}{''.join(parts)}]", end + 1


def _compiled(expression: str) -> Any:
    options = re2.Options()
    options.max_mem = _PROGRAM_BYTES
    options.log_errors = False
    options.dot_nl = True
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        raise ValueError("it is too large") from error
