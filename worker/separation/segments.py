"""Where the segments of a network with a short memory lie, and how they fade into each other. Pure.

Segments of one length lie on an absolute grid in samples of the network's rate. Segment i fades into the next over
the `lap` samples before boundary i + 1; boundary k lies `lead` samples before k * hop. So a segment is the same
whatever block asks for it, and blocks of whole hops share as few segments as can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segments:
    """length of a segment; lap: samples over which two neighbours are faded; lead: how early the boundaries lie."""

    length: int
    lap: int
    lead: int

    def __post_init__(self) -> None:
        if not 0 < self.lap <= self.length // 2 or self.lead < 0:
            raise ValueError("the lap must be positive and at most half a segment, the lead not negative")

    @property
    def hop(self) -> int:
        return self.length - self.lap

    def needed(self, start: int, stop: int) -> range:
        """Indices of the segments that have weight somewhere in [start, stop), 0 <= start < stop."""
        return range((start + self.lead) // self.hop, -(-(stop + self.lead + self.lap) // self.hop))

    def place(self, index: int, low: int, high: int) -> tuple[int, int]:
        """The samples to compute a segment from, where there is sound in [low, high).

        One that would reach beyond is moved inside, so that no network has to hear silence that is not there; where
        there is less sound than a segment, it is all of it.
        """
        nominal = self._boundary(index) - self.lap
        start = max(low, min(nominal, high - self.length))
        return start, min(start + self.length, high)

    def weights(self, index: int, start: int, stop: int) -> np.ndarray:
        """The weight of a segment over [start, stop), float32: over all segments they add up to one from 0 on."""
        at = np.arange(start, stop) + 0.5
        rise = (at - self._boundary(index)) / self.lap + 1
        fall = (self._boundary(index + 1) - at) / self.lap
        return np.clip(np.minimum(rise, fall), 0, 1).astype(np.float32)

    def _boundary(self, index: int) -> int:
        return index * self.hop - self.lead
