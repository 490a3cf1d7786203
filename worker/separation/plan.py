"""Where the blocks of a recording lie. Pure: samples in, sample positions out.

Blocks lie on an absolute grid in samples of the file's own rate, so that a block is the same on any machine, in any
batch and after any resume, and does not depend on the file's length beyond it. Block i is computed from

    [i*B - left, (i+1)*B + overlap + right)    what the separator hears,
    [i*B, (i+1)*B + overlap)                   what it gives,

each clipped to the recording. Over the overlap the next block is faded in, so that nothing clicks where two blocks
meet. Block i > 0 exists where the recording goes on past i*B + overlap: what would be a last block no longer than the
overlap has already been given by the block before it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """One block, in absolute samples: hears [start, stop), gives [give_start, give_stop)."""

    index: int
    start: int
    stop: int
    give_start: int
    give_stop: int

    @property
    def keep(self) -> slice:
        """What is given, as a slice of what is heard."""
        return slice(self.give_start - self.start, self.give_stop - self.start)


@dataclass(frozen=True)
class Grid:
    """Block length, context on both sides and overlap, all in samples."""

    block: int
    left: int
    right: int
    overlap: int

    def __post_init__(self) -> None:
        if self.block < 1 or min(self.left, self.right, self.overlap) < 0:
            raise ValueError("a block needs at least one sample, and nothing may be negative")
        if self.overlap > self.block:
            raise ValueError("the overlap must not be longer than the block")

    @classmethod
    def of_seconds(cls, rate: int, block: float, left: float, right: float, overlap: float) -> Grid:
        """The grid for a sample rate in Hz. An overlap longer than half a block is shortened to that."""
        length = max(1, round(block * rate))
        return cls(length, round(left * rate), round(right * rate), min(round(overlap * rate), length // 2))

    def window(self, index: int, total: int | None = None) -> Window:
        """Block `index`; clipped to a recording of `total` samples where that is known."""
        own = index * self.block
        end = own + self.block + self.overlap
        start, stop = max(0, own - self.left), end + self.right
        if total is None:
            return Window(index, start, stop, own, end)
        return Window(index, start, min(stop, total), own, min(end, total))

    def exists(self, index: int, total: int) -> bool:
        """Whether a recording of `total` samples has block `index`."""
        return total > (index * self.block + self.overlap if index else 0)

    def count(self, total: int) -> int:
        """Blocks of a recording of `total` samples; 0 for an empty one."""
        if total <= 0:
            return 0
        return max(1, -(-(total - self.overlap) // self.block))
