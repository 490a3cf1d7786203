"""Spans to marks on frames: the official rule where it holds, refusals where it is silent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import NightshiftError
from worker.separation.sam_audio.anchors import NULL, UNWANTED, WANTED, anchors, marks

second = st.floats(0, 40, allow_nan=False).map(lambda value: round(value, 3))
span = st.tuples(st.sampled_from("+-"), second, second).filter(lambda s: s[1] < s[2])


def official(spans: list[tuple[str, float, float]], frames: int) -> np.ndarray:
    """The published rule: ids in the order of the spans, frames from ceil(start) to ceil(end) point at them."""
    ids, alignment = [0, 3], np.zeros(frames, int)
    for sign, start, end in spans:
        alignment[math.ceil(start * 48000 / 1920) : math.ceil(end * 48000 / 1920)] = len(ids)
        ids.append({"+": 1, "-": 2}[sign])
    return np.array(ids)[alignment]


def lasting(spans: list[tuple[str, float, float]]) -> bool:
    return all(math.ceil(s * 48000 / 1920) < math.ceil(e * 48000 / 1920) for _, s, e in spans)


@given(st.lists(span, max_size=6).filter(lasting), st.integers(1, 1200))
def test_marks_are_the_official_ones(spans: list[tuple[str, float, float]], frames: int) -> None:
    assert marks(anchors(spans), 0, frames).tolist() == official(spans, frames).tolist()


@given(st.lists(span, max_size=6), st.integers(0, 900), st.integers(0, 300))
def test_a_window_sees_its_part_of_the_whole(spans: list[tuple[str, float, float]], start: int, frames: int) -> None:
    whole = marks(anchors(spans), 0, 1200)
    assert marks(anchors(spans), start, frames).tolist() == whole[start : start + frames].tolist()


@given(span)
def test_every_span_marks_a_frame_that_it_touches(one: tuple[str, float, float]) -> None:
    (anchor,) = anchors([one])
    assert anchor.stop > anchor.start
    assert anchor.mark == (WANTED if one[0] == "+" else UNWANTED)
    assert anchor.start / 25 < one[2] and anchor.stop / 25 > one[1] - 1e-9


def test_a_span_inside_a_frame_marks_that_frame() -> None:
    row = marks(anchors([("+", 0.29, 0.31)]), 0, 12)
    assert row.tolist() == [NULL] * 7 + [WANTED] + [NULL] * 4


def test_a_span_of_no_measurable_length_marks_one_frame() -> None:
    (anchor,) = anchors([("-", 0.04, math.nextafter(0.04, 1))])
    assert (anchor.start, anchor.stop) == (1, 2)


def test_the_later_span_holds() -> None:
    row = marks(anchors([("+", 0.0, 0.4), ("-", 0.2, 0.6)]), 0, 20)
    assert row.tolist() == [WANTED] * 5 + [UNWANTED] * 10 + [NULL] * 5


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (("+", -0.1, 1.0), "before the recording"),
        (("+", 1.0, 1.0), "must end after"),
        (("-", 2.0, 1.0), "must end after"),
        (("*", 0.0, 1.0), "sign"),
        (("+", math.nan, 1.0), "numbers"),
        (("+", 0.0, math.inf), "numbers"),
        (("+", 10.0, 11.0), "after the recording's end"),
    ],
)
def test_what_the_official_code_takes_in_silence_is_refused(bad: tuple[str, float, float], says: str) -> None:
    with pytest.raises(NightshiftError) as refused:
        anchors([("+", 0.0, 1.0), bad], seconds=10.0, pointer="/params/prompts/0/spans")
    assert refused.value.code == ("span_outside" if bad[1] == 10.0 else "invalid_request")
    assert says in refused.value.detail
    assert refused.value.pointer == "/params/prompts/0/spans/1"
