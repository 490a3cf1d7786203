"""Joins blocks that overlap into one stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class Crossfade:
    """Takes blocks in order, each a stream of pieces, and gives one stream without seams.

    The end of a block, beyond what it owns, is faded out while the next block's beginning is faded in, with linear
    weights that add up to one: neighbours are computed from the same sound and are nearly equal, not independent.
    Where they are equal to the bit, so is the result.
    """

    def __init__(self) -> None:
        self._tail: np.ndarray | None = None

    def join(self, pieces: Iterable[np.ndarray], own: int) -> Iterator[np.ndarray]:
        """float32 [channels, n] pieces of the next block, which owns its first `own` samples.

        What lies beyond them is kept for the next call. The block must be at least as long as what was kept.
        """
        fading, beyond = self._tail, []
        at = 0
        for piece in pieces:
            if fading is not None and at < fading.shape[1]:
                piece = self._faded(piece, fading, at)
            cut = min(max(0, own - at), piece.shape[1])
            at += piece.shape[1]
            if cut:
                yield piece[:, :cut]
            if cut < piece.shape[1]:
                beyond.append(piece[:, cut:])
        self._tail = np.concatenate(beyond, axis=1) if beyond else None

    def rest(self) -> Iterator[np.ndarray]:
        """What the last block gave beyond what it owns."""
        if self._tail is not None:
            yield self._tail
        self._tail = None

    @staticmethod
    def _faded(piece: np.ndarray, fading: np.ndarray, at: int) -> np.ndarray:
        length = fading.shape[1]
        n = min(piece.shape[1], length - at)
        rise = ((np.arange(at, at + n) + 0.5) / length).astype(np.float32)
        old = fading[:, at : at + n]
        return np.concatenate((old + (piece[:, :n] - old) * rise, piece[:, n:]), axis=1)
