from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.parsing import pointer

names = st.text(max_size=5) | st.sampled_from(["a/b", "a~b", "~1", "", "0"])
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, loc: tuple[int | str, ...] = ()) -> list[tuple[tuple[int | str, ...], Any]]:
    found: list[tuple[tuple[int | str, ...], Any]] = [(loc, value)]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        found += places(part, (*loc, name))
    return found


def resolved(text: str, value: Any) -> Any:
    """RFC 6901, section 4, read the other way round."""
    for part in text.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


@given(values)
def test_a_pointer_leads_to_the_place(value: Any) -> None:
    for loc, part in places(value):
        assert resolved(pointer(loc, value), value) is part


@pytest.mark.parametrize(
    ("loc", "value", "expected"),
    [
        ((), {}, ""),
        (("a", "b"), {"a": {}}, "/a/b"),
        (("separation", "input", "url"), {"input": {"url": "x"}}, "/input/url"),
        (("input", "function-after[check()]", "url"), {"input": {"url": "x"}}, "/input/url"),
        (("a", 0, 1), {"a": [["x"]]}, "/a/0/1"),
        (("a", "b"), {"a": "text"}, "/a"),
        (("a",), [], ""),
    ],
)
def test_what_is_not_in_the_body_is_left_out(loc: tuple[int | str, ...], value: Any, expected: str) -> None:
    assert pointer(loc, value) == expected
