from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.separation.crossfade import Crossfade
from worker.separation.plan import Grid


def joined(blocks: list[np.ndarray], own: int, chop: int) -> np.ndarray:
    fade = Crossfade()
    out = []
    for block in blocks:
        out += fade.join((block[:, i : i + chop] for i in range(0, block.shape[1], chop)), own)
    return np.concatenate([*out, *fade.rest()], axis=1)


@given(st.integers(1, 300), st.integers(1, 40), st.data(), st.integers(1, 50))
def test_blocks_that_agree_join_to_the_bit(total: int, block: int, data: st.DataObject, chop: int) -> None:
    grid = Grid(block, 0, 0, data.draw(st.integers(0, block)))
    whole = np.random.default_rng(total).standard_normal((2, total)).astype(np.float32)
    windows = [grid.window(i, total) for i in range(grid.count(total))]
    pieces = [whole[:, w.give_start : w.give_stop] for w in windows]
    assert np.array_equal(joined(pieces, block, chop), whole)


def test_blocks_that_differ_are_blended_evenly() -> None:
    before, after = np.zeros((1, 14), np.float32), np.ones((1, 10), np.float32)
    out = joined([before, after], own=10, chop=3)
    assert out.shape == (1, 20)
    assert np.allclose(out[0, 10:14], [0.125, 0.375, 0.625, 0.875])
    assert not out[0, :10].any()
    assert (out[0, 14:] == 1).all()
