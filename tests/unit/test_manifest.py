"""Manifests: every right line an item, every wrong one said where, and memory for one line at a time."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from common.errors import NightshiftError
from common.manifest import MAX_LINE_BYTES, MAX_PROBLEMS, Line, WrongLine, read


class Source(BaseModel):
    url: Annotated[str, Field(pattern="^https://")]


class Episode(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: Source
    title: str = ""


def anything(value: dict[str, Any]) -> dict[str, Any]:
    return value


def items(data: bytes, **options: Any) -> list[Line[dict[str, Any]] | WrongLine]:
    return list(read([data], anything, **options))


def wrong(data: bytes) -> tuple[str, str]:
    """Pointer and detail of the one line's first problem."""
    (line,) = items(data)
    assert isinstance(line, WrongLine) and line.number == 1
    return line.problems[0].pointer, line.problems[0].detail


# --- Lines -------------------------------------------------------------------------------------------------------

objects = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=4),
    st.one_of(st.integers(-(2**63), 2**63), st.text(st.characters(exclude_categories=("Cs", "Cc"))), st.none()),
    max_size=3,
)
ends = st.sampled_from(("\n", "\r\n", "\n\n", "\n \t\r\n"))


@given(
    objects=st.lists(st.tuples(objects, ends, st.booleans()), max_size=8),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    bom=st.booleans(),
    last=st.booleans(),
)
def test_the_same_items_however_the_bytes_come(
    objects: list[tuple[dict[str, Any], str, bool]], sizes: list[int], bom: bool, last: bool
) -> None:
    text = "".join(json.dumps(value, ensure_ascii=ascii) + end for value, end, ascii in objects)
    data = (b"\xef\xbb\xbf" if bom else b"") + (text if last else text.rstrip()).encode()
    chunks, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)] + (turn % len(sizes) == 0)
        chunks.append(data[at : at + size])
        at, turn = at + size, turn + 1
    found = list(read(chunks, anything))
    assert [line.item for line in found if isinstance(line, Line)] == [value for value, *_ in objects]
    lines = data.decode("utf-8-sig").split("\n")
    assert [line.number for line in found] == [i for i, line in enumerate(lines, 1) if line.strip()]


@given(data=st.binary(max_size=300), size=st.integers(1, 40))
def test_any_bytes_give_lines_and_never_another_error(data: bytes, size: int) -> None:
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    found = list(read(chunks, anything, max_line_bytes=50))
    assert found == items(data, max_line_bytes=50)
    assert [line.number for line in found] == sorted({line.number for line in found})
    assert all(line.number <= data.count(b"\n") + 1 for line in found)


@given(
    spare=st.integers(-3, 20),
    limit=st.integers(12, 40),
    size=st.integers(1, 50),
    end=st.sampled_from((b"", b"\n", b"\r\n")),
    bom=st.booleans(),
)
@example(spare=1, limit=20, size=12, end=b"\r\n", bom=True)
def test_a_line_may_be_as_long_as_the_limit_and_not_a_byte_longer(
    spare: int, limit: int, size: int, end: bytes, bom: bool
) -> None:
    line = b'{"a":' + b"1" * (limit + spare - 6) + b"}"
    data = (b"\xef\xbb\xbf" if bom else b"") + line + end
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    first, *rest = read([*chunks, *([b'{"b":2}'] if end else [])], anything, max_line_bytes=limit)
    assert isinstance(first, WrongLine if spare > 0 else Line)
    assert rest == ([Line(2, {"b": 2})] if end else [])


def test_a_carriage_return_where_a_long_line_is_cut_does_not_make_it_a_short_one() -> None:
    for length in range(1, 40):
        data = b"\xef\xbb\xbf" + b'{"a":1}' + b" " * 9 + b"\r" * length + b"x\n"
        (line,) = items(data, max_line_bytes=16)
        assert isinstance(line, WrongLine)


# --- What is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "pointer", "part"),
    [
        (b"{", "", "character 2"),
        (b"[1]", "", "braces"),
        (b'"text"', "", "braces"),
        (b'{"a": 1} {"b": 2}', "", "Extra data"),
        (b'{"a": "\xff"}', "", "byte 8"),
        ('{"a": 1}'.encode("utf-16"), "", "UTF-16"),
        (b'{"a": {"b/c": [1, {"d": 1, "e": 2, "d": 3}]}}', "/a/b~1c/1/d", "'d' is there twice"),
        (b'{"a": ["x", "\\u0000"]}', "/a/1", "NUL"),
        (b'{"a": {"\\u0000": 1}}', "/a", "NUL"),
        (b'{"a": "\\ud800"}', "/a", "surrogate"),
        (b'{"a": NaN}', "", "NaN is not JSON"),
        (b'{"a": -Infinity}', "", "-Infinity is not JSON"),
        (b'{"a": 1e999}', "", "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "", "too many digits"),
        (b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "", "too deeply"),
        (b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}', "", f"more than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_where_a_line_is_wrong(line: bytes, pointer: str, part: str) -> None:
    place, detail = wrong(line)
    assert place == pointer
    assert part in detail and detail[0] in "ITN-1" and detail.endswith(".")


def test_wrong_lines_stand_among_right_ones_with_their_numbers() -> None:
    data = b'{"a":1}\n\n{"a":\n{"a":2}\r\n[]\n{"a":3}'
    assert [(line.number, isinstance(line, Line)) for line in items(data)] == [
        (1, True), (3, False), (4, True), (5, False), (6, True),
    ]  # fmt: skip


def test_a_byte_order_mark_belongs_at_the_beginning_only() -> None:
    first, second = items(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"a":2}\n')
    assert first == Line(1, {"a": 1})
    assert isinstance(second, WrongLine) and second.number == 2


def test_what_a_model_finds_wrong_is_pointed_at() -> None:
    data = b'{"input":{"url":"https://e.example"}}\n{"input":{"url":"ftp://e"},"titel":"x"}\n{"title":"x"}'
    right, both, missing = read([data], Episode.model_validate)
    assert isinstance(right, Line) and right.item == Episode(input=Source(url="https://e.example"))
    assert isinstance(both, WrongLine) and isinstance(missing, WrongLine)
    assert [problem.pointer for problem in both.problems] == ["/input/url", "/titel"]
    assert [problem.pointer for problem in missing.problems] == ["/input"]
    assert missing.problems[0].detail == "Field required."


def test_a_line_with_very_many_faults_names_the_first() -> None:
    data = json.dumps({"input": {"url": "https://e"}} | {f"x{i}": i for i in range(100)}).encode()
    (line,) = read([data], Episode.model_validate)
    assert isinstance(line, WrongLine) and len(line.problems) == MAX_PROBLEMS


def test_an_error_of_ours_keeps_its_code_and_hint() -> None:
    def refuse(value: dict[str, Any]) -> None:
        raise NightshiftError("unknown_engine", "There is no engine x.", hint="Use y.", pointer="/engine")

    (line,) = read([b"{}"], refuse)
    assert isinstance(line, WrongLine)
    error = line.error()
    assert (error.code, error.detail, error.hint) == ("unknown_engine", "Line 1: There is no engine x.", "Use y.")
    assert (error.pointer, error.extra) == ("/engine", {"line": 1})


def test_as_an_error_a_wrong_line_says_its_number_and_what_to_do() -> None:
    (line,) = items(b"{")
    assert isinstance(line, WrongLine)
    error = line.error()
    assert error.code == "invalid_manifest" and error.detail.startswith("Line 1: It is not valid JSON")
    assert "skip" in error.hint and error.extra == {"line": 1}


def test_what_goes_wrong_in_parsing_by_our_fault_is_not_taken_for_the_line_s() -> None:
    def broken(value: dict[str, Any]) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        list(read([b"{}"], broken))


def test_more_lines_than_allowed_end_the_reading() -> None:
    lines = read([b"{}\n" * 4], anything, max_lines=3)
    assert [next(lines).number for _ in range(3)] == [1, 2, 3]
    with pytest.raises(NightshiftError) as caught:
        next(lines)
    assert caught.value.code == "too_large"


# --- Memory ------------------------------------------------------------------------------------------------------


def peak(chunks: Iterator[bytes]) -> tuple[int, int, int]:
    """Items, wrong lines, and the most memory while they were read, bytes."""
    right = bad = 0
    tracemalloc.start()
    try:
        for line in read(chunks, anything):
            right, bad = right + isinstance(line, Line), bad + isinstance(line, WrongLine)
        return right, bad, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_hundred_thousand_lines_take_the_memory_of_a_few() -> None:
    def body() -> Iterator[bytes]:
        for i in range(1000):
            yield b"".join(
                b'{"input":{"url":"https://cdn.example/%d.mp3"},"title":"Episode %d"}\n' % (i, j) for j in range(100)
            )

    right, bad, most = peak(body())
    assert (right, bad) == (100_000, 0)
    assert most < 300_000


def test_a_line_without_end_takes_no_memory() -> None:
    right, bad, most = peak(b"x" * 65_536 if i else b'{"a":1}\n' for i in range(1000))
    assert (right, bad) == (1, 1)
    assert most < 1_000_000
