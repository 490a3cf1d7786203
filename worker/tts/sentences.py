"""Pure: a long text as pieces that a model can speak, cut where a reader would breathe.

Nothing is lost and nothing doubled: what the pieces hold together, white space apart, is what `clean` gives, less
stretches without any letter or digit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import sentencex

# They join letters of scripts that are read so; other invisible characters say nothing.
_KEPT_INVISIBLE = "\u200c\u200d"
_PARAGRAPH = re.compile(r"\n\s*\n|[\u2029\f]")
# Behind a clause: what closes it, and any quotes or brackets after that.
_CLAUSE = re.compile(r"[,;:،؛、，；：…–—][\"'”’»)\]]*")


def clean(text: str) -> str:
    """The text in Unicode's composed form, with control characters as spaces, and without invisible ones."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(_cleaned(character) for character in text)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a clean text, parted by blank lines, each with single spaces; those with nothing to speak are
    left out."""
    found = (" ".join(part.split()) for part in _PARAGRAPH.split(text))
    return [part for part in found if speakable(part)]


def pieces(paragraph: str, longest: int, language: str = "en") -> list[str]:
    """A paragraph's sentences, together where they are short, parted where they are long.

    Each has at most `longest` characters and something to speak.  language: BCP 47, decides what is an abbreviation.
    """
    if longest < 1:
        raise ValueError("a piece has at least one character")
    parts = [part for sentence in sentences(paragraph, language) for part in divide(sentence, longest)]
    return [piece for piece in _together(parts, longest) if speakable(piece)]


def sentences(paragraph: str, language: str = "en") -> list[str]:
    """The sentences, without the spaces around them."""
    found = sentencex.segment(language, paragraph)
    return [sentence.strip() for sentence in found if not sentence.isspace() and sentence]


def divide(sentence: str, longest: int) -> Iterator[str]:
    """Parts of at most `longest` characters: cut after a clause, else at a space, else between two characters that are
    seen as two."""
    rest = sentence.strip()
    while len(rest) > longest:
        at = _cut(rest, longest)
        if part := rest[:at].strip():
            yield part
        rest = rest[at:].strip()
    if rest:
        yield rest


def halves(text: str) -> list[str]:
    """Two parts of about the same length, each with something to speak; the text alone where there are none."""
    found = [part for part in divide(text, max(1, (len(text) * 3 + 4) // 5)) if speakable(part)]
    return [found[0], " ".join(found[1:])] if len(found) > 1 else [text]


def speakable(text: str) -> bool:
    """Whether there is a letter or a digit."""
    return any(character.isalnum() for character in text)


def _cleaned(character: str) -> str:
    category = unicodedata.category(character)
    if character == "\n" or character in _KEPT_INVISIBLE:
        return character
    if category in ("Zp",) or character == "\f":
        return "\n\n"
    if category == "Cc" or category[0] == "Z":
        return " "
    return "" if category in ("Cf", "Cs", "Co", "Cn") else character


def _cut(text: str, longest: int) -> int:
    """Where to cut, 1 to `longest`."""
    # A part of a few words is read badly: better a cut without a comma than one far to the left.
    least = longest // 3
    clauses = [end for match in _CLAUSE.finditer(text, 0, longest) if least <= (end := match.end())]
    # "1,000" and "10:30" have no clause behind the sign.
    clauses = [end for end in clauses if not (text[end - 1 : end + 1].isdigit() or text[end : end + 1].isdigit())]
    if clauses:
        return clauses[-1]
    space = text.rfind(" ", 1, longest + 1)
    if space > 0:
        return space
    at = longest
    while at > 1 and _continues(text[at], text[at - 1]):
        at -= 1
    return at if at > 1 or not _continues(text[at], text[at - 1]) else longest


def _continues(character: str, before: str) -> bool:
    """Whether a character is seen as one with what stands before it."""
    return unicodedata.category(character)[0] == "M" or character == "\u200d" or before == "\u200d"


def _together(parts: Sequence[str], longest: int) -> Iterator[str]:
    held = ""
    for part in parts:
        joined = f"{held} {part}" if held else part
        if len(joined) <= longest:
            held = joined
            continue
        yield held
        held = part
    if held:
        yield held
