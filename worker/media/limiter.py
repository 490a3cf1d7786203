"""A peak limiter that looks ahead, as a stream: the same however the samples are cut into blocks."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import minimum_filter1d

LOOK_SECONDS = 0.005


class Limiter:
    """Holds float32 [1, n] below `ceiling` (1.0 at full scale) without a corner in its gain.

    Each sample's gain is the mean, over the 5 ms before and the 5 ms after it, of the least gain needed within 5 ms of
    there; so none passes the ceiling. Gives as many samples as it takes, later.
    """

    def __init__(self, sample_rate: int, ceiling: float) -> None:
        self._ceiling = ceiling
        self._reach = max(1, round(LOOK_SECONDS * sample_rate))
        # What lies before the first sample needs no gain.
        self._held = np.zeros(2 * self._reach, np.float32)
        self._before = 2 * self._reach
        self.least = 1.0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples [1, m] that are ready."""
        self._held = np.concatenate([self._held, samples[0]])
        return self._take(self._held.size - 2 * self._before)

    def finish(self) -> np.ndarray:
        """The last samples [1, m]."""
        left = self._held.size - self._before
        self._held = np.concatenate([self._held, np.zeros(self._before, np.float32)])
        return self._take(left)

    def _take(self, count: int) -> np.ndarray:
        """`count` samples after the first `_before`, with as many known after them."""
        if count <= 0:
            return np.zeros((1, 0), np.float32)
        span = 2 * self._reach + 1
        heard = self._held[: count + 2 * self._before].astype(np.float64)
        needed = np.minimum(1.0, self._ceiling / np.maximum(np.abs(heard), 1e-12))
        least = minimum_filter1d(needed, span, mode="nearest")[self._reach : heard.size - self._reach]
        sums = np.concatenate([[0.0], np.cumsum(least)])
        gain = (sums[span:] - sums[:-span]) / span
        self.least = min(self.least, float(gain.min()))
        out = heard[self._before : self._before + count] * gain
        self._held = self._held[count:]
        return out.astype(np.float32)[None]
