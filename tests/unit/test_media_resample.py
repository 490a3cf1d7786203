from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import media
from worker.media.resample import Resampler, resampled_length

RATES = st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 96_000])


def run(samples: np.ndarray, source: int, target: int, cuts: list[int]) -> np.ndarray:
    resampler = Resampler(source, target, samples.shape[0])
    out = [resampler.push(part) for part in np.split(samples, cuts, axis=1)]
    return np.concatenate([*out, resampler.finish()], axis=1)


@settings(max_examples=60)
@given(RATES, RATES, st.integers(1, 2), st.integers(0, 20_000), st.lists(st.integers(0, 20_000), max_size=4))
def test_the_length_is_exact_however_the_stream_is_cut(
    source: int, target: int, channels: int, count: int, cuts: list[int]
) -> None:
    samples = np.random.default_rng(count).uniform(-1, 1, (channels, count)).astype(np.float32)
    out = run(samples, source, target, sorted(min(c, count) for c in cuts))
    assert out.shape == (channels, resampled_length(count, source, target))
    assert out.dtype == np.float32


@given(st.integers(0, 10**10), RATES, RATES)
def test_the_length_is_the_nearest_whole_number(count: int, source: int, target: int) -> None:
    exact = Fraction(count * target, source)
    length = resampled_length(count, source, target)
    assert abs(length - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(("source", "target"), [(44_100, 48_000), (96_000, 48_000), (16_000, 48_000)])
def test_a_tone_stays_that_tone_in_its_place(source: int, target: int) -> None:
    out = run(media.signal(source, 2, 1.0), source, target, [7_000, 7_001])
    expected = media.signal(target, 2, 1.0)
    np.testing.assert_allclose(out[:, 500:-500], expected[:, 500:-500], atol=1e-3)
