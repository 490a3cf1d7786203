"""Noise by seed and frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.separation.sam_audio.noise import noise


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**7), st.integers(0, 120), st.integers(0, 60), st.integers(0, 60))
def test_any_window_has_the_same_noise_at_a_frame(seed: int, start: int, frames: int, left: int, right: int) -> None:
    outer_start = max(0, start - left)
    outer = noise(seed, outer_start, start - outer_start + frames + right, 6)
    inner = noise(seed, start, frames, 6)
    assert inner.shape == (frames, 6) and inner.dtype == np.float32
    assert np.array_equal(inner, outer[start - outer_start :][:frames])


def test_it_is_standard_normal() -> None:
    drawn = noise(5, 0, 2000, 256).astype(float)
    assert abs(drawn.mean()) < 0.005
    assert drawn.std() == pytest.approx(1, abs=0.005)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.05)
    assert np.isfinite(drawn).all() and np.abs(drawn).max() > 4.5


def test_frames_and_channels_are_independent() -> None:
    drawn = noise(5, 0, 1000, 64)
    assert abs((drawn[:-1] * drawn[1:]).mean()) < 0.02
    assert abs((drawn[:, :-1] * drawn[:, 1:]).mean()) < 0.02
    assert abs((drawn[:-25] * drawn[25:]).mean()) < 0.02
    assert abs((drawn[:, :32] * drawn[:, 32:]).mean()) < 0.02


def test_another_seed_is_other_noise() -> None:
    assert abs((noise(1, 0, 500, 64) * noise(2, 0, 500, 64)).mean()) < 0.02


def test_it_never_changes() -> None:
    """Results of earlier releases must be repeatable: these numbers are for good."""
    pinned = [[0.6069252, -0.0856302], [0.267119, 0.9911259], [0.8459549, -0.4822132]]
    drawn = noise(7, 24, 3, 256)
    assert drawn[:, :2] == pytest.approx(np.array(pinned), abs=1e-6)


@pytest.mark.parametrize(("start", "frames"), [(-1, 5), (0, -1)])
def test_there_is_nothing_before_the_file(start: int, frames: int) -> None:
    with pytest.raises(ValueError, match="beginning"):
        noise(0, start, frames, 4)
