"""A stream of decoded chunks, cut into blocks with their context."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from worker.separation.plan import Grid, Window


@dataclass(frozen=True)
class Block:
    """A block of the stream. samples: float32 [channels, window.stop - window.start]; None where it was passed over."""

    window: Window
    samples: np.ndarray | None


def cut(chunks: Iterable[np.ndarray], grid: Grid, passed: Container[int] = frozenset()) -> Iterator[Block]:
    """Gives each block as soon as its right context is there, the last ones when the stream ends.

    chunks: float32 [channels, n], of any lengths; the blocks do not depend on them.  passed: indices of blocks whose
    samples nobody needs.  At any time one block is held here, beside the one given last.
    """
    held = np.empty((0, 0), np.float32)
    window = grid.window(0)
    read = 0
    for chunk in chunks:
        if not held.size:
            held = np.empty((chunk.shape[0], window.stop - window.start), np.float32)
        taken = 0
        while taken < chunk.shape[1]:
            step = min(chunk.shape[1] - taken, window.stop - read)
            held[:, read - window.start : read - window.start + step] = chunk[:, taken : taken + step]
            taken += step
            read += step
            if read == window.stop:
                yield Block(window, None if window.index in passed else held)
                window, held = _advance(grid, window, held, read)
    while grid.exists(window.index, read):
        last = grid.window(window.index, read)
        yield Block(last, None if last.index in passed else held[:, : last.stop - last.start])
        window, held = _advance(grid, window, held, read)


def _advance(grid: Grid, window: Window, held: np.ndarray, read: int) -> tuple[Window, np.ndarray]:
    """The next block's window and its samples as far as they were read, in an array of its own."""
    following = grid.window(window.index + 1)
    fresh = np.empty((held.shape[0], following.stop - following.start), np.float32)
    carried = max(0, read - following.start)
    if carried:
        fresh[:, :carried] = held[:, following.start - window.start : read - window.start]
    return following, fresh
