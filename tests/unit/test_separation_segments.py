"""Segments cover what is asked for, with weights that add up to one, wherever blocks are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.separation.segments import Segments


@st.composite
def grids(draw: Any) -> Segments:
    length = draw(st.integers(2, 60))
    return Segments(length, draw(st.integers(1, length // 2)), draw(st.integers(0, 40)))


@given(grids(), st.integers(0, 500), st.integers(1, 200))
def test_the_weights_of_the_needed_segments_add_up_to_one(segments: Segments, start: int, count: int) -> None:
    needed = segments.needed(start, start + count)
    weights = [segments.weights(index, start, start + count) for index in needed]
    assert np.allclose(sum(weights), 1, atol=1e-6)
    assert all(weight.any() for weight in weights), "none is computed for nothing"
    for index in (needed.start - 1, needed.stop):
        assert not segments.weights(index, start, start + count).any()


@given(grids(), st.integers(0, 300), st.integers(1, 200), st.integers(0, 80))
def test_a_segment_holds_all_that_it_has_weight_for(segments: Segments, low: int, count: int, inside: int) -> None:
    high = low + count
    for index in segments.needed(min(low + inside, high - 1), high):
        start, stop = segments.place(index, low, high)
        assert low <= start < stop <= high
        assert stop - start == min(segments.length, count)
        weights = segments.weights(index, low, high)
        weights[start - low : stop - low] = 0
        assert not weights.any()


@given(grids(), st.integers(1, 400), st.data())
def test_a_segment_is_the_same_for_every_block_that_hears_enough(segments: Segments, total: int, data: Any) -> None:
    """Enough: a segment's length more than what is asked for, on both sides."""
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    low, high = max(0, start - segments.length), min(total, stop + segments.length)
    for index in segments.needed(start, stop):
        assert segments.place(index, low, high) == segments.place(index, 0, total)


def test_blocks_of_whole_hops_share_one_segment() -> None:
    segments = Segments(length=100, lap=20, lead=10)
    assert segments.needed(0, 800) == range(11)
    assert segments.needed(800 - 5, 1600 + 5) == range(10, 21)


@pytest.mark.parametrize(("length", "lap", "lead"), [(10, 0, 0), (10, 6, 0), (10, 2, -1)])
def test_what_cannot_be_a_grid_is_refused(length: int, lap: int, lead: int) -> None:
    with pytest.raises(ValueError, match="lap"):
        Segments(length, lap, lead)
