"""Pure: JSON pointers (RFC 6901) to places in a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def pointer(parts: Sequence[int | str]) -> str:
    """`/a~1b/0` for the member `a/b` and its first element; empty for the whole."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def located(loc: Sequence[int | str], value: Any) -> str:
    """The pointer to the place in `value` that pydantic's `loc` means.

    pydantic also names validators and members of unions in `loc`: what is not in the value is left out, except a last
    part, which is a member that is missing.
    """
    parts: list[int | str] = []
    for position, part in enumerate(loc):
        if isinstance(value, Mapping) and isinstance(part, str):
            if part not in value and position < len(loc) - 1:
                continue
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            continue
        parts.append(part)
    return pointer(parts)


def walk(value: Any) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    """Every value in `value`, itself first, each with the way to it; members before what follows their object."""
    stack: list[tuple[tuple[int | str, ...], Any]] = [((), value)]
    while stack:
        way, value = stack.pop()
        yield way, value
        inner: list[tuple[int | str, Any]] = []
        if isinstance(value, Mapping):
            inner = list(value.items())
        elif isinstance(value, list):
            inner = list(enumerate(value))
        stack.extend(((*way, key), one) for key, one in reversed(inner))
