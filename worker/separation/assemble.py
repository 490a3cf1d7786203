"""One stem, put together from its blocks: written, measured and drawn in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from worker.engine import Artifact
from worker.media.encode import AudioWriter
from worker.media.formats import CONTENT_TYPES, EXTENSIONS, OutputPlan
from worker.media.loudness import Loudness
from worker.media.resample import Resampler
from worker.media.waveform import PeaksAccumulator
from worker.separation.crossfade import Crossfade

# A block stored with 24 bits cannot hold more than this; what reaches it was cut off there.
_HIGHEST = np.float32(1 - 2.0**-23)


class StemTrack:
    """The file of a stem as it grows; of one thread at a time.

    samples: per channel so far, at the recording's own rate `rate`. The file may have another where its format lacks
    that one.
    """

    def __init__(
        self, folder: Path, name: str, rate: int, plan: OutputPlan, own: int, tags: dict[str, str] | None = None
    ) -> None:
        """own: samples that a block owns; what it gives beyond them is faded into the next."""
        self.name = name
        self.samples = 0
        self.peaks = PeaksAccumulator(rate, plan.channels)
        self._plan = plan
        self._rate = rate
        self._own = own
        self._joints = Crossfade()
        self._loudness = Loudness(rate, plan.channels)
        self._clipped = 0
        self._resampler = None if plan.sample_rate == rate else Resampler(rate, plan.sample_rate, plan.channels)
        self._writer = AudioWriter(
            folder / f"{name}{EXTENSIONS[plan.format]}",
            plan.sample_rate,
            plan.channels,
            plan.format,
            bit_depth=plan.bit_depth,
            floating=plan.floating,
            bitrate_kbps=plan.bitrate_kbps,
            tags=tags,
        )

    def append(self, pieces: Iterable[np.ndarray], stopped: Callable[[], bool]) -> None:
        """Joins the next block, given as float32 [channels, n] pieces. Leaves off once `stopped`."""
        for piece in self._joints.join(pieces, self._own):
            if stopped():
                return
            self._take(piece)

    def finish(self) -> Artifact:
        """Ends the file; the stem with what a user wants to know of it."""
        for piece in self._joints.rest():
            self._take(piece)
        if self._resampler is not None:
            self._writer.write(self._resampler.finish())
        self._writer.close()
        plan, loudness = self._plan, self._loudness.as_dict()
        return Artifact(
            self.name,
            self._writer.path,
            CONTENT_TYPES[plan.format],
            "stem",
            {
                "samples": self._writer.written,
                "sample_rate": plan.sample_rate,
                "channels": plan.channels,
                "duration": round(self.samples / self._rate, 6),
                "format": plan.format,
                "bit_depth": plan.bit_depth,
                "loudness_lufs": loudness["integrated_lufs"],
                "peak_dbfs": loudness["peak_dbfs"],
                "clipped": self._clipped,
                "changes": list(plan.changes),
            },
        )

    def abort(self) -> None:
        """Removes the file unless it was finished."""
        self._writer.abort()

    def _take(self, piece: np.ndarray) -> None:
        self.samples += piece.shape[1]
        self._loudness.add(piece)
        self.peaks.add(piece)
        if not self._plan.floating:
            self._clipped += int(np.count_nonzero(piece >= _HIGHEST) + np.count_nonzero(piece <= -1))
        self._writer.write(piece if self._resampler is None else self._resampler.push(piece))
