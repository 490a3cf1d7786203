"""Which channels a separator gets to hear, and how its stems become channels again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Policy = Literal["preserve", "mono"]


@dataclass(frozen=True)
class Layout:
    """source[c] is the row of the reduced samples that stands for channel c."""

    source: tuple[int, ...]

    def restore(self, stem: np.ndarray) -> np.ndarray:
        """[distinct, n] to [channels, n]."""
        if self.source == tuple(range(stem.shape[0])):
            return stem
        return stem[list(self.source)]


def reduce(samples: np.ndarray, policy: Policy) -> tuple[np.ndarray, Layout]:
    """What is to be computed of [channels, n], and how to undo it.

    `preserve`: each of the channels that differ once, so a stereo file with two equal channels costs one.
    `mono`: their average as the only channel.
    """
    if policy == "mono":
        # float64 keeps the mean of equal channels equal to them, whatever their number.
        mean = samples.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        return mean, Layout((0,))
    distinct: list[int] = []
    source = []
    for channel in range(samples.shape[0]):
        same = next((k for k, c in enumerate(distinct) if np.array_equal(samples[c], samples[channel])), None)
        if same is None:
            same = len(distinct)
            distinct.append(channel)
        source.append(same)
    reduced = samples if len(distinct) == samples.shape[0] else samples[distinct]
    return reduced, Layout(tuple(source))


def count(channels: int, policy: Policy) -> int:
    """Channels of a stem made from a recording of so many."""
    return 1 if policy == "mono" else channels
