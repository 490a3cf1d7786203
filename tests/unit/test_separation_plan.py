"""The grid of blocks: every sample owned once, nothing depends on how the stream is chopped."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.separation.plan import Grid
from worker.separation.stream import cut


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    block = draw(st.integers(1, 40))
    return Grid(
        block,
        draw(st.integers(0, 60)),
        draw(st.integers(0, 60)),
        draw(st.integers(0, block)),
    )


def lengths(grid: Grid) -> st.SearchStrategy[int]:
    """Any length, with those around the borders of blocks and overlaps drawn often."""
    borders = [k * grid.block + extra for k in range(4) for extra in (0, grid.overlap, grid.overlap + grid.right)]
    near = st.sampled_from(borders).flatmap(lambda at: st.integers(max(1, at - 1), at + 1))
    return near | st.integers(1, 200)


@given(st.data(), grids())
def test_every_sample_is_given_by_one_block_or_faded_between_two(data: st.DataObject, grid: Grid) -> None:
    total = data.draw(lengths(grid))
    windows = [grid.window(i, total) for i in range(grid.count(total))]
    assert windows[0].give_start == 0
    assert windows[-1].give_stop == total
    for before, after in pairwise(windows):
        assert after.give_start == before.index * grid.block + grid.block
        assert before.give_stop - after.give_start == grid.overlap
        assert after.give_stop > before.give_stop, "a block that adds nothing"
    for window in windows:
        assert 0 <= window.start <= window.give_start < window.give_stop <= window.stop <= total
        assert window.give_start - window.start == min(grid.left, window.give_start)
        assert window.stop - window.give_stop == min(grid.right, total - window.give_stop)


@given(grids(), st.integers(0, 200))
def test_count_agrees_with_exists(grid: Grid, total: int) -> None:
    count = grid.count(total)
    assert [grid.exists(i, total) for i in range(count + 2)] == [True] * count + [False, False]


@given(st.data(), grids())
def test_blocks_do_not_depend_on_the_chunks(data: st.DataObject, grid: Grid) -> None:
    total = data.draw(lengths(grid))
    whole = np.arange(2 * total, dtype=np.float32).reshape(2, total)
    borders = sorted(data.draw(st.lists(st.integers(0, total), max_size=12)))
    passed = frozenset(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    blocks = [
        (block.window, None if block.samples is None else block.samples.copy())
        for block in cut(np.split(whole, borders, axis=1), grid, passed)
    ]
    assert [window.index for window, _ in blocks] == list(range(grid.count(total)))
    for window, samples in blocks:
        clipped = grid.window(window.index, total)
        assert window.keep == clipped.keep
        assert (window.start, window.stop) == (clipped.start, clipped.stop)
        if window.index in passed:
            assert samples is None
        else:
            assert np.array_equal(samples, whole[:, clipped.start : clipped.stop])


def test_a_block_comes_as_soon_as_its_right_context_is_there() -> None:
    grid = Grid(block=10, left=3, right=2, overlap=1)
    fed = 0

    def chunks():
        nonlocal fed
        for _ in range(40):
            fed += 1
            yield np.zeros((1, 1), np.float32)

    seen = []
    for block in cut(chunks(), grid):
        seen.append((block.window.index, fed))
    assert seen == [(0, 13), (1, 23), (2, 33), (3, 40)]


def test_blocks_keep_their_samples_after_the_next_was_made() -> None:
    whole = np.random.default_rng(0).standard_normal((1, 100)).astype(np.float32)
    blocks = list(cut([whole], Grid(block=10, left=30, right=5, overlap=2)))
    for block in blocks:
        assert np.array_equal(block.samples, whole[:, block.window.start : block.window.stop])


def test_an_empty_stream_has_no_blocks() -> None:
    grid = Grid(10, 1, 1, 1)
    assert list(cut([], grid)) == []
    assert list(cut([np.zeros((2, 0), np.float32)], grid)) == []
    assert grid.count(0) == 0


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_whole_seconds_lie_on_whole_samples_of_any_other_rate(rate: int) -> None:
    grid = Grid.of_seconds(rate, 60.0, 10.0, 1.0, 0.1)
    for index in range(4):
        window = grid.window(index)
        assert window.start * 48000 % rate == 0
        assert window.give_start * 48000 % rate == 0


def test_an_overlap_never_outgrows_a_short_block() -> None:
    grid = Grid.of_seconds(8000, 0.05, 1.0, 1.0, 0.1)
    assert (grid.block, grid.overlap) == (400, 200)


@pytest.mark.parametrize("bad", [(0, 0, 0, 0), (10, -1, 0, 0), (10, 0, -1, 0), (10, 0, 0, 11)])
def test_impossible_grids_are_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError):
        Grid(*bad)
