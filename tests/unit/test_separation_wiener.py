from __future__ import annotations

import numpy as np
import pytest

from worker.separation.wiener import FFT, wiener

LENGTHS = [1, 2, 255, 256, 257, FFT - 1, FFT, FFT + 1, 48_000, 512 * 256 + 3]


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_estimate_that_is_the_mix_gives_the_mix(length: int) -> None:
    mix = noise(length)
    assert np.abs(wiener(mix, mix) - mix).max() < 2e-6


@pytest.mark.parametrize("length", LENGTHS)
def test_no_estimate_gives_silence(length: int) -> None:
    assert not wiener(noise(length), np.zeros(length, np.float32)).any()


def test_silence_stays_silence() -> None:
    silence = np.zeros(5000, np.float32)
    assert np.array_equal(wiener(silence, silence), silence)


def test_half_the_mix_is_masked_by_half() -> None:
    """|X/2|^2 / (|X/2|^2 + |X/2|^2) = 1/2, everywhere."""
    mix = noise(20_000)
    assert np.abs(wiener(mix, mix / 2) - mix / 2).max() < 2e-6


def test_two_tones_are_told_apart() -> None:
    time = np.arange(48_000) / 48_000
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (500, 5000))
    inner = slice(2 * FFT, -2 * FFT)
    assert np.abs(wiener(low + high, low) - low)[inner].max() < 0.01


def test_chunks_leave_no_seam() -> None:
    """Whether a stretch is masked at once or over two chunks makes no difference inside it."""
    mix, estimate = noise(300_000), noise(300_000, seed=1)
    whole = wiener(mix, estimate)
    shift = 300 * 256
    part = wiener(mix[shift:], estimate[shift:])
    assert np.abs(part[FFT:] - whole[shift + FFT :]).max() < 1e-5
    assert whole.dtype == np.float32
