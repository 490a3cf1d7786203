from __future__ import annotations

import json

import numpy as np
import pyloudnorm
import pytest

from tests import media
from worker.media.loudness import Loudness, k_weighting


def measured(samples: np.ndarray, rate: int, step: int = 48_000) -> Loudness:
    loudness = Loudness(rate, samples.shape[0])
    for start in range(0, samples.shape[1], step):
        loudness.add(samples[:, start : start + step])
    return loudness


def programme(rate: int, channels: int, seed: int) -> np.ndarray:
    """Noise that swells and pauses, so that both gates matter."""
    rng = np.random.default_rng(seed)
    count = rate * 20
    levels = np.repeat(10 ** (rng.uniform(-90, -6, 40) / 20), count // 40)
    return (levels * rng.standard_normal((channels, count)) * 0.3).astype(np.float32)


def test_the_filters_are_those_the_standard_tabulates_for_48_khz() -> None:
    shelf, high_pass = k_weighting(48_000)
    expected = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585]
    np.testing.assert_allclose(shelf, expected, atol=1e-8)
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621], atol=1e-8)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_agrees_with_pyloudnorm(rate: int, channels: int) -> None:
    samples = programme(rate, channels, seed=rate + channels)
    expected = pyloudnorm.Meter(rate).integrated_loudness(samples.T.astype(np.float64))
    assert measured(samples, rate).integrated_lufs == pytest.approx(expected, abs=0.1)


def test_the_standards_own_example() -> None:
    """BS.1770-5: a 997 Hz sine of 0 dBFS in one channel reads -3.01 LKFS."""
    time = np.arange(48_000 * 5) / 48_000
    tone = np.stack([np.sin(2 * np.pi * 997 * time), np.zeros_like(time)]).astype(np.float32)
    assert measured(tone, 48_000).integrated_lufs == pytest.approx(-3.01, abs=0.02)


@pytest.mark.parametrize("step", [1, 997, 4_800, 10**9])
def test_the_cut_of_the_stream_does_not_matter(step: int) -> None:
    samples = programme(8_000, 2, 1)[:, : 8_000 if step == 1 else None]
    whole = measured(samples, 8_000, 10**9)
    assert measured(samples, 8_000, step).integrated_lufs == pytest.approx(whole.integrated_lufs, abs=1e-6)


def test_silence_and_a_moment_have_no_loudness() -> None:
    silent = measured(np.zeros((2, 96_000), np.float32), 48_000)
    assert silent.as_dict() == {"integrated_lufs": None, "peak_dbfs": None}
    json.dumps(silent.as_dict(), allow_nan=False)
    brief = measured(media.signal(48_000, 1, 0.3), 48_000)
    assert brief.integrated_lufs is None
    assert brief.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert Loudness(48_000, 1).as_dict() == {"integrated_lufs": None, "peak_dbfs": None}


def test_the_peak_is_the_largest_sample_of_either_sign() -> None:
    samples = np.zeros((2, 1000), np.float32)
    samples[1, 500], samples[0, 3] = -0.5, 0.25
    assert measured(samples, 48_000).as_dict()["peak_dbfs"] == -6.02


def test_the_low_frequency_channel_does_not_count() -> None:
    samples = np.zeros((6, 48_000 * 2), np.float32)
    samples[3] = media.signal(48_000, 1, 2)[0]
    assert measured(samples, 48_000).integrated_lufs is None


@pytest.mark.parametrize("channels", range(1, 10))
def test_any_number_of_channels(channels: int) -> None:
    assert measured(media.signal(48_000, channels, 2, "noise"), 48_000).integrated_lufs is not None
