"""Windows over the frames of a block, and how they are blended. Pure.

All windows of a block have one length, so that they may share a batch: the model's norms hear a window as a whole, and
padding would be heard. The last one is moved left to end with the block. Where windows overlap, each counts with the
weight of a triangle, highest in its middle, so that none has a say at its own border, where it hears least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WindowPlan:
    """Windows of `length` frames at `starts`, over a block of `frames`."""

    frames: int
    length: int
    starts: tuple[int, ...]

    def weights(self) -> np.ndarray:
        """What each window counts at its frames, float32 [windows, length]: those that meet at a frame add up to 1."""
        triangle = np.minimum(np.arange(1, self.length + 1), np.arange(self.length, 0, -1)).astype(np.float64)
        total = np.zeros(self.frames)
        for start in self.starts:
            total[start : start + self.length] += triangle
        return np.stack([triangle / total[start : start + self.length] for start in self.starts]).astype(np.float32)


def plan(frames: int, length: int, overlap: int) -> WindowPlan:
    """Windows of `length` frames that overlap by at least `overlap`; one as long as the block where that is shorter.

    The last may overlap by more. Raises ValueError where the overlap leaves no way forward.
    """
    if frames < 1 or length < 1 or not 0 <= overlap < length:
        raise ValueError("a window needs a frame of its own, and a block needs frames")
    if frames <= length:
        return WindowPlan(frames, frames, (0,))
    starts = [*range(0, frames - length, length - overlap), frames - length]
    return WindowPlan(frames, length, tuple(starts))
