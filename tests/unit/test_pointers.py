"""JSON pointers: to the right place, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pointers import located, pointer, walk

values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("a/~0 1", max_size=3), inner, max_size=4),
    max_leaves=20,
)


def resolve(value: Any, text: str) -> Any:
    """RFC 6901, section 4."""
    for part in text.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


@given(value=values)
def test_every_place_has_a_pointer_that_leads_to_it(value: Any) -> None:
    found = list(walk(value))
    assert found[0] == ((), value)
    assert all(resolve(value, pointer(way)) is part for way, part in found)
    assert len({pointer(way) for way, _ in found}) == len(found)


@given(value=values)
def test_what_pydantic_names_beside_the_value_is_left_out(value: Any) -> None:
    for way, _ in walk(value):
        if way:
            assert located(("function-before", *way), {"function-before": 1} | {"x": value}) != ""
            assert located((*way[:-1], "tagged-union[A]", way[-1]), value) == pointer(way)


@pytest.mark.parametrize(
    ("loc", "expected"),
    [
        (("input", "url"), "/input/url"),
        (("input", "str", "url"), "/input/url"),
        (("input", "missing"), "/input/missing"),
        (("prompts", 0, "name"), "/prompts/0/name"),
        (("prompts", 9), "/prompts/9"),
        (("a/b",), "/a~1b"),
        (("separation", "input", "url"), "/input/url"),
        (("input", "function-after[check()]", "url"), "/input/url"),
        (("a/b", "inner"), "/a~1b"),
        ((), ""),
    ],
)
def test_places(loc: tuple[Any, ...], expected: str) -> None:
    value = {"input": {"url": 5}, "prompts": [{"name": 1}], "a/b": 1}
    assert located(loc, value) == expected
