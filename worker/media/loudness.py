"""Integrated loudness by ITU-R BS.1770-5 and the sample peak, as a stream in constant memory."""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import sosfilt

_ABSOLUTE_GATE = -70.0
_RELATIVE_GATE = -10.0
_STEPS_PER_BLOCK = 4
# Blocks are counted by loudness in bins of 0.01 LU, with the exact power summed in each: only the relative gate's place
# is rounded, to a hundredth.
_BINS_PER_LU = 100
_TOP = 40.0

# Weights in the order of FFmpeg's default layouts (BS.1770-5 tables 3 and 4): surrounds at the sides or behind 60-120
# degrees count 1.41, the low-frequency channel does not count.
_WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, 1.0),
    3: (1.0, 1.0, 1.0),
    4: (1.0, 1.0, 1.0, 1.0),
    5: (1.0, 1.0, 1.0, 1.41, 1.41),
    6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41),
    7: (1.0, 1.0, 1.0, 0.0, 1.0, 1.41, 1.41),
    8: (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.41, 1.41),
}


def k_weighting(sample_rate: int) -> np.ndarray:
    """The two filters of BS.1770-5 annex 1 as second-order sections [2, 6], for any rate.

    The standard tabulates 48 kHz only; the analogue parameters that give its table are from B. De Man, "Evaluation of
    implementations of the EBU R128 loudness measurement" (AES 145, 2018).
    """
    gain, quality, frequency = 3.999843853973347, 0.7071752369554196, 1681.974450955533
    k = math.tan(math.pi * frequency / sample_rate)
    high = 10 ** (gain / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / quality + k * k
    shelf = [
        (high + band * k / quality + k * k) / a0,
        2 * (k * k - high) / a0,
        (high - band * k / quality + k * k) / a0,
        1.0,
        2 * (k * k - 1) / a0,
        (1 - k / quality + k * k) / a0,
    ]
    quality, frequency = 0.5003270373238773, 38.13547087602444
    k = math.tan(math.pi * frequency / sample_rate)
    a0 = 1 + k / quality + k * k
    high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0]
    return np.array([shelf, high_pass])


class Loudness:
    """Accumulates float32 [channels, n] and gives the loudness and the peak of all of it."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._sections = k_weighting(sample_rate)
        self._state = np.zeros((2, channels, 2))
        self._weights = np.array(_WEIGHTS.get(channels, (1.0,) * channels))
        self._step = round(0.1 * sample_rate)
        self._step_power = 0.0
        self._step_filled = 0
        self._recent: list[float] = []
        bins = round((_TOP - _ABSOLUTE_GATE) * _BINS_PER_LU) + 1
        self._counts = np.zeros(bins, np.int64)
        self._powers = np.zeros(bins)
        self._peak = 0.0

    def add(self, samples: np.ndarray) -> None:
        """Takes the next block."""
        if samples.shape[1] == 0:
            return
        self._peak = max(self._peak, float(samples.max()), -float(samples.min()))
        # A second at a time: the intermediate arrays stay in the processor's cache.
        for start in range(0, samples.shape[1], 10 * self._step):
            self._weigh(samples[:, start : start + 10 * self._step])

    def _weigh(self, samples: np.ndarray) -> None:
        weighted, self._state = sosfilt(self._sections, samples.astype(np.float64), axis=1, zi=self._state)
        position = 0
        while position < weighted.shape[1]:
            part = weighted[:, position : position + self._step - self._step_filled]
            self._step_power += float(self._weights @ np.einsum("cs,cs->c", part, part))
            self._step_filled += part.shape[1]
            position += part.shape[1]
            if self._step_filled == self._step:
                self._end_step()

    def _end_step(self) -> None:
        self._recent.append(self._step_power)
        self._step_power, self._step_filled = 0.0, 0
        if len(self._recent) < _STEPS_PER_BLOCK:
            return
        mean = sum(self._recent) / (_STEPS_PER_BLOCK * self._step)
        self._recent.pop(0)
        loudness = _lufs(mean)
        if loudness > _ABSOLUTE_GATE:
            place = min(int((loudness - _ABSOLUTE_GATE) * _BINS_PER_LU), self._counts.size - 1)
            self._counts[place] += 1
            self._powers[place] += mean

    @property
    def integrated_lufs(self) -> float | None:
        """Gated loudness, LUFS; None for silence and for less than 0.4 s."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        gate = _lufs(float(self._powers.sum()) / total) + _RELATIVE_GATE
        first = max(0, math.ceil((gate - _ABSOLUTE_GATE) * _BINS_PER_LU))
        counts, powers = self._counts[first:], self._powers[first:]
        return _lufs(float(powers.sum()) / int(counts.sum()))

    @property
    def peak_dbfs(self) -> float | None:
        """Highest sample, dB relative to full scale; None for digital silence."""
        return 20 * math.log10(self._peak) if self._peak > 0 else None

    def as_dict(self) -> dict[str, float | None]:
        """Both figures, rounded for people: `integrated_lufs`, `peak_dbfs`."""
        lufs, peak = self.integrated_lufs, self.peak_dbfs
        return {
            "integrated_lufs": None if lufs is None else round(lufs, 2),
            "peak_dbfs": None if peak is None else round(peak, 2),
        }


def _lufs(power: float) -> float:
    return -0.691 + 10 * math.log10(power) if power > 0 else -math.inf
