"""The plan of windows: every frame is covered, weights add up, nothing depends on chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.separation.sam_audio.windows import plan


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    length = draw(st.integers(1, 120))
    return draw(st.integers(1, 1500)), length, draw(st.integers(0, length - 1))


@given(plans())
def test_windows_are_equal_and_cover_the_block_with_their_overlap(given: tuple[int, int, int]) -> None:
    frames, length, overlap = given
    windows = plan(frames, length, overlap)
    assert windows.length == min(frames, length)
    assert windows.starts[0] == 0 and windows.starts[-1] + windows.length == frames
    gaps = np.diff(windows.starts)
    assert (gaps > 0).all() and (gaps <= length - overlap).all()
    assert (gaps[:-1] == length - overlap).all()


@given(plans())
def test_weights_add_up_to_one_at_every_frame(given: tuple[int, int, int]) -> None:
    windows = plan(*given)
    weights, total = windows.weights(), np.zeros(windows.frames)
    assert weights.shape == (len(windows.starts), windows.length) and (weights > 0).all()
    for start, row in zip(windows.starts, weights, strict=True):
        total[start : start + windows.length] += row
    assert total == pytest.approx(np.ones(windows.frames), abs=1e-6)


def test_a_window_says_least_at_its_border() -> None:
    first, second, _ = plan(250, 100, 25).weights()
    assert (first[:75] == 1).all()
    assert (np.diff(first[75:]) < 0).all() and first[-1] == pytest.approx(1 / 26, abs=1e-6)
    assert (np.diff(second[:25]) > 0).all()


def test_the_first_windows_do_not_depend_on_the_length_of_the_block() -> None:
    assert plan(1000, 100, 20).starts[:11] == plan(5000, 100, 20).starts[:11]


@pytest.mark.parametrize(("frames", "length", "overlap"), [(0, 10, 5), (10, 0, 0), (10, 10, 10), (10, 5, -1)])
def test_plans_that_go_nowhere_are_refused(frames: int, length: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="window"):
        plan(frames, length, overlap)
