"""How well a separation did, against the truth."""

from __future__ import annotations

import math

import numpy as np


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, over all samples of both arrays (same shape).

    Le Roux, Wisdom, Erdogan, Hershey: "SDR - half-baked or well done?" (ICASSP 2019), equation 3: with s the reference
    and e the estimate, a = <e, s> / <s, s>, and the ratio of |a s|^2 to |a s - e|^2. Means are removed per channel, as
    is usual. inf where the estimate is the reference scaled, -inf where it has nothing of it; ValueError where the
    reference is silent.
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {estimate.shape}")
    s = reference.astype(np.float64)
    e = estimate.astype(np.float64)
    s = (s - s.mean(axis=-1, keepdims=True)).ravel()
    e = (e - e.mean(axis=-1, keepdims=True)).ravel()
    energy = float(s @ s)
    if energy == 0.0:
        raise ValueError("the reference is silent")
    target = (float(e @ s) / energy) * s
    wanted = float(target @ target)
    distortion = float(np.square(target - e).sum())
    if wanted == 0.0:
        return -math.inf
    return math.inf if distortion == 0.0 else 10 * math.log10(wanted / distortion)
