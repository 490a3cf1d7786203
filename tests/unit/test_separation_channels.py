from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.separation import channels


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_preserve_computes_each_differing_channel_once_and_restores_all(rows: list[int], seed: int) -> None:
    kinds = np.random.default_rng(seed).standard_normal((4, 50)).astype(np.float32)
    samples = kinds[rows]
    reduced, layout = channels.reduce(samples, "preserve")
    assert reduced.shape[0] == len(set(rows))
    assert np.array_equal(layout.restore(reduced), samples)


def test_channels_that_differ_in_one_sample_are_both_computed() -> None:
    samples = np.zeros((2, 1000), np.float32)
    samples[1, 999] = 2**-24
    assert channels.reduce(samples, "preserve")[0].shape[0] == 2


def test_samples_that_all_differ_are_not_copied() -> None:
    samples = np.arange(20, dtype=np.float32).reshape(2, 10)
    reduced, layout = channels.reduce(samples, "preserve")
    assert reduced is samples
    assert layout.restore(reduced) is samples


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_mono_of_equal_channels_is_that_channel(count: int, seed: int) -> None:
    row = np.random.default_rng(seed).standard_normal((1, 50)).astype(np.float32)
    reduced, layout = channels.reduce(np.repeat(row, count, axis=0), "mono")
    assert np.array_equal(reduced, row)
    assert layout.restore(reduced).shape == (1, 50)


def test_mono_averages() -> None:
    reduced, _ = channels.reduce(np.array([[1, 0.5], [0, -0.5]], np.float32), "mono")
    assert reduced.tolist() == [[0.5, 0.0]]
    assert reduced.dtype == np.float32


def test_count() -> None:
    assert channels.count(6, "preserve") == 6
    assert channels.count(6, "mono") == 1
