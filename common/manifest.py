"""A manifest, one JSON object a line, read as a stream: memory holds one line, whatever the length of the whole.

A line that is wrong is given back as such, with its number and where in it, and reading goes on behind it: whether the
others still count is the caller's to say. Lines end with LF or CRLF; empty ones are passed over, and counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from common.errors import NightshiftError
from common.pointers import located, pointer, walk

MAX_LINE_BYTES = 64 * 1024
MAX_LINES = 1_000_000
MAX_PROBLEMS = 5
_BOM = b"\xef\xbb\xbf"
# More than what does not count: a byte order mark at the very beginning, and the first half of CRLF.
_SLACK = 8
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")

_ESCAPED = re.compile(rb"\\u(0000|[dD][89a-fA-F])")

T = TypeVar("T")


@dataclass(frozen=True)
class Line(Generic[T]):
    """number: from 1."""

    number: int
    item: T


@dataclass(frozen=True)
class Problem:
    """pointer: JSON pointer within the line, empty for the whole of it.  detail: a sentence."""

    pointer: str
    detail: str


@dataclass(frozen=True)
class WrongLine:
    """problems: at least one, MAX_PROBLEMS at most."""

    number: int
    problems: tuple[Problem, ...]
    code: str = "invalid_manifest"
    hint: str = ""

    def error(self) -> NightshiftError:
        """As an error, for a manifest that is to be right as a whole."""
        first = self.problems[0]
        return NightshiftError(
            self.code,
            f"Line {self.number}: {first.detail}",
            hint=self.hint or 'Mend the line, or send on_error "skip" to go on without it.',
            pointer=first.pointer,
            extra={"line": self.number},
        )


def read(
    chunks: Iterable[bytes],
    parse: Callable[[dict[str, Any]], T],
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    max_lines: int = MAX_LINES,
) -> Iterator[Line[T] | WrongLine]:
    """The items of a manifest as `chunks` come in.

    parse: from a line's object; what it raises as pydantic's ValidationError or NightshiftError makes the line wrong.
    Raises `too_large` at the line after the last that is allowed.
    """
    for number, raw in enumerate(_lines(chunks, max_line_bytes), 1):
        if number > max_lines:
            raise NightshiftError("too_large", f"A manifest has at most {max_lines} lines.", hint="Send several.")
        if raw is None:
            yield WrongLine(number, (Problem("", f"It has more than {max_line_bytes} bytes."),))
        elif raw.strip():
            yield _parsed(number, raw, parse)


def _lines(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    """The lines without their ends; None for one that is longer than `limit` bytes."""
    held = bytearray()
    first, dropping = True, False
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            held += chunk[start : min(end, start + limit + _SLACK)]
            yield None if dropping else _line(held, first, limit)
            held.clear()
            first = dropping = False
            start = end + 1
        held += chunk[start : start + limit + _SLACK]
        if len(held) >= limit + _SLACK:
            dropping = True
            held.clear()
    if held or dropping:
        yield None if dropping else _line(held, first, limit)


def _line(held: bytearray, first: bool, limit: int) -> bytes | None:
    line = bytes(held).removesuffix(b"\r")
    if first:
        line = line.removeprefix(_BOM)
    return line if len(line) <= limit else None


def _parsed(number: int, raw: bytes, parse: Callable[[dict[str, Any]], T]) -> Line[T] | WrongLine:
    try:
        value = _object(raw)
        return Line(number, parse(value))
    except _Wrong as wrong:
        return WrongLine(number, (wrong.problem,))
    except ValidationError as error:
        problems = [Problem(located(item["loc"], value), _sentence(item["msg"])) for item in error.errors()]
        return WrongLine(number, tuple(problems[:MAX_PROBLEMS]))
    except NightshiftError as error:
        return WrongLine(number, (Problem(error.pointer or "", error.detail),), error.code, error.hint)


class _Wrong(Exception):
    def __init__(self, detail: str, place: tuple[int | str, ...] = ()) -> None:
        self.problem = Problem(pointer(place), detail)


class _Twice(dict[str, Any]):
    """An object with a member named more than once."""

    name = ""


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Wrong(f"The number {text[:40]} is too large.")
    return value


def _constant(text: str) -> float:
    raise _Wrong(f"{text} is not JSON.")


def _object(raw: bytes) -> dict[str, Any]:
    """The object in a line. Raises _Wrong."""
    twice: list[_Twice] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        names = [name for name, _ in pairs]
        twice.append(_Twice(found))
        twice[-1].name = next(name for i, name in enumerate(names) if name in names[:i])
        return twice[-1]

    if raw.startswith(_WIDE_BOMS) or b"\0" in raw:
        raise _Wrong("It is not UTF-8; a manifest in UTF-16 cannot be read.")
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=members, parse_float=_number, parse_constant=_constant
        )
    except UnicodeDecodeError as error:
        raise _Wrong(f"It is not UTF-8: byte {error.start + 1} is wrong.") from error
    except json.JSONDecodeError as error:
        raise _Wrong(f"It is not valid JSON: {error.msg} at character {error.pos + 1}.") from error
    except RecursionError as error:
        raise _Wrong("It is nested too deeply.") from error
    except ValueError as error:
        raise _Wrong("It holds a number with too many digits.") from error
    if not isinstance(value, dict):
        raise _Wrong("It is not an object in braces.")
    # Only an escape can stand for what UTF-8 cannot hold, and most lines have none.
    if twice or _ESCAPED.search(raw):
        _look_closely(value)
    return value


def _look_closely(value: dict[str, Any]) -> None:
    for place, part in walk(value):
        if isinstance(part, _Twice):
            raise _Wrong(f"The member {part.name!r} is there twice.", (*place, part.name))
        texts = [part] if isinstance(part, str) else list(part) if isinstance(part, dict) else []
        if not all(_storable(text) for text in texts):
            raise _Wrong("Text must hold neither the character NUL nor half of a surrogate pair.", place)


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
