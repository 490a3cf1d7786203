"""Streaming resampling with an exact total length."""

from __future__ import annotations

import numpy as np
import soxr


class Resampler:
    """Turns float32 [channels, n] at one rate (Hz) into another, block by block; round(n * to / from) samples."""

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        self._from, self._to, self._channels = source_rate, target_rate, channels
        self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", quality="HQ")
        self._taken = 0
        self._given = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples [channels, m]; m may be 0 while the filter fills."""
        self._taken += samples.shape[1]
        out = self._run(samples, last=False)
        self._given += out.shape[1]
        return out

    def finish(self) -> np.ndarray:
        """The last samples [channels, m]."""
        total = resampled_length(self._taken, self._from, self._to)
        out = self._run(np.zeros((self._channels, 0), np.float32), last=True)
        missing = total - self._given
        out = out[:, :missing]
        self._given = total
        return np.pad(out, ((0, 0), (0, missing - out.shape[1])))

    def _run(self, samples: np.ndarray, *, last: bool) -> np.ndarray:
        block = np.ascontiguousarray(samples.T, dtype=np.float32)
        if self._channels == 1:
            block = block[:, 0]
        out = self._stream.resample_chunk(block, last=last)
        return out.reshape(-1, self._channels).T


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """round(samples * target / source), halves upwards, in whole numbers."""
    return (2 * samples * target_rate + source_rate) // (2 * source_rate)
