"""The limiter: nothing passes the ceiling, nothing else changes, and blocks do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.media.limiter import Limiter

RATE = 8000


def limited(samples: np.ndarray, cuts: list[int], ceiling: float = 0.5) -> tuple[np.ndarray, float]:
    limiter = Limiter(RATE, ceiling)
    parts = [limiter.push(part) for part in np.split(samples, sorted(cuts), axis=1)]
    return np.concatenate([*parts, limiter.finish()], axis=1), limiter.least


@given(st.integers(0, 2000), st.lists(st.integers(0, 2000), max_size=8), st.integers(0, 99), st.floats(0.01, 4))
def test_no_sample_passes_and_none_is_lost(length: int, cuts: list[int], seed: int, level: float) -> None:
    samples = np.random.default_rng(seed).uniform(-level, level, (1, length)).astype(np.float32)
    out, least = limited(samples, cuts)
    assert out.shape == samples.shape and out.dtype == np.float32
    assert np.abs(out).max(initial=0) <= 0.5 + 1e-6
    np.testing.assert_allclose(out, limited(samples, [])[0], atol=1e-6)
    assert least <= 1.0 and (out == samples).all() == (least == 1.0)


def test_what_lies_more_than_ten_milliseconds_from_a_peak_is_not_touched() -> None:
    samples = np.full((1, RATE), 0.2, np.float32)
    samples[0, 4000] = 1.0
    out, least = limited(samples, [100, 4001])
    assert out[0, 4000] == pytest.approx(0.5, abs=1e-6) and least == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(out[0, :3919], 0.2, atol=1e-7)
    np.testing.assert_allclose(out[0, 4081:], 0.2, atol=1e-7)
    assert np.abs(np.diff(out[0, 3900:4000])).max() < 0.005, "the gain has no corner"
