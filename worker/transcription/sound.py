"""A recording as what a transcriber hears: mono at 16 kHz, block by block, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from worker.engine import Limits
from worker.media.decode import AudioReader
from worker.media.resample import Resampler

RATE = 16_000


class Sound:
    """Gives blocks that begin where the one before was left, never earlier. A context manager.

    check: called while it decodes.
    """

    def __init__(self, path: Path, limits: Limits, check: Callable[[], None]) -> None:
        self.reader = AudioReader(path, limits)
        self._resampler = Resampler(self.reader.info.sample_rate, RATE, 1)
        self._chunks = self._decoded()
        self._held = np.zeros(0, np.float32)
        self._start = 0
        self._check = check
        self._ended = False

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.reader.close()

    @property
    def seconds(self) -> float:
        """What the file declares; what it holds, once that is known."""
        known = self.reader.samples_read / self.reader.info.sample_rate
        return known if self._ended else max(known, self.reader.info.duration or 0.0)

    def block(self, start: float, seconds: float) -> tuple[np.ndarray, bool]:
        """float32 [n] from `start` on, at most `seconds` long; and whether the recording ends there."""
        first = round(start * RATE)
        self._forget(first)
        stop = first + round(seconds * RATE)
        # One sample more tells whether anything follows.
        while not self._ended and self._start + self._held.size <= stop:
            self._check()
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
            else:
                self._held = np.concatenate((self._held, chunk))
                self._forget(first)
        samples = self._held[max(0, first - self._start) : stop - self._start]
        return samples, self._ended and self._start + self._held.size <= stop

    def _forget(self, first: int) -> None:
        gone = min(max(0, first - self._start), self._held.size)
        self._held = self._held[gone:]
        self._start += gone

    def _decoded(self) -> Iterator[np.ndarray]:
        for chunk in self.reader:
            yield self._resampler.push(chunk.mean(axis=0, keepdims=True))[0]
        yield self._resampler.finish()[0]
