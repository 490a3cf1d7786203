"""Sample-rate conversion inside a block, with exact lengths."""

from __future__ import annotations

import numpy as np
import soxr

from worker.media.resample import resampled_length


def convert(samples: np.ndarray, rate: int, to: int, length: int | None = None) -> np.ndarray:
    """One channel, float32 [n], from `rate` to `to` Hz: float32 [length], by default `resampled_length`.

    Linear phase, delay compensated; beyond its ends the signal counts as silent.
    """
    if length is None:
        length = resampled_length(samples.shape[0], rate, to)
    if rate == to:
        converted = samples
    else:
        converted = soxr.resample(np.ascontiguousarray(samples), rate, to, quality="HQ")
    if converted.shape[0] >= length:
        return converted[:length]
    return np.pad(converted, (0, length - converted.shape[0]))
