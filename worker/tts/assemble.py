"""The whole, put together from its pieces in two passes: how loud it is, then the file at the loudness asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.params import TtsParams
from worker.engine import Artifact
from worker.media.encode import AudioWriter
from worker.media.formats import CONTENT_TYPES, EXTENSIONS, OutputPlan, output_plan
from worker.media.loudness import Loudness
from worker.media.probe import AudioInfo
from worker.media.resample import Resampler
from worker.media.waveform import Peaks, PeaksAccumulator
from worker.tts.script import Piece
from worker.tts.takes import Kept, Takes
from worker.tts.timing import Spoken

CEILING_DBFS = -1.0
"""No sample is made louder than this: resampling and lossy codecs need some room above it."""

_CHUNK_SECONDS = 10


@dataclass(frozen=True)
class Whole:
    """The finished file. gain_db: that was applied.  short_db: by how much the loudness asked for was missed, because
    the peaks allow no more; 0 where it was not."""

    artifact: Artifact
    peaks: Peaks
    gain_db: float
    short_db: float


class Assembly:
    """Pieces and the pauses between them as one stream of samples. rate: Hz of the takes."""

    def __init__(self, takes: Takes, pieces: Sequence[Piece], kept: Mapping[int, Kept], rate: int) -> None:
        self._takes, self._pieces, self._kept, self._rate = takes, pieces, kept, rate

    def spoken(self) -> list[Spoken]:
        """Where each piece lies."""
        found, at = [], 0
        for piece in self._pieces:
            at += self._pause(piece)
            end = at + self._kept[piece.index].samples
            found.append(Spoken(piece, at / self._rate, end / self._rate))
            at = end
        return found

    @property
    def samples(self) -> int:
        """In all, at the rate of the takes."""
        return sum(self._pause(piece) + self._kept[piece.index].samples for piece in self._pieces)

    def stream(self) -> Iterator[np.ndarray]:
        """float32 [1, n], ten seconds at most."""
        step = _CHUNK_SECONDS * self._rate
        for piece in self._pieces:
            if pause := self._pause(piece):
                yield np.zeros((1, pause), np.float32)
            samples = self._takes.read(piece.index, self._kept[piece.index])
            for start in range(0, samples.size, step):
                yield samples[None, start : start + step]

    def write(self, folder: Path, params: TtsParams, tags: Mapping[str, str]) -> Generator[float, None, Whole]:
        """Writes `speech` in the format asked for. Yields the share that is done, 0 to 1; closed, it leaves no file."""
        total = max(1, self.samples)
        loudness, done = Loudness(self._rate, 1), 0
        if params.loudness_lufs is not None:
            for chunk in self.stream():
                loudness.add(chunk)
                done += chunk.shape[1]
                yield done / total / 2
        gain_db, short_db = _gain(params.loudness_lufs, loudness)
        plan = plan_of(params)
        out = _Out(folder / f"speech{EXTENSIONS[plan.format]}", self._rate, plan, 10 ** (gain_db / 20), tags)
        try:
            done = 0
            for chunk in self.stream():
                out.take(chunk)
                done += chunk.shape[1]
                yield 0.5 + done / total / 2
            out.finish()
        except BaseException:
            out.abort()
            raise
        return Whole(out.artifact(), out.peaks.result(), gain_db, short_db)

    def _pause(self, piece: Piece) -> int:
        return round(piece.pause * self._rate)


def _gain(target: float | None, loudness: Loudness) -> tuple[float, float]:
    """dB to apply, and dB that are missing then; nothing where there is too little to measure."""
    integrated, peak = loudness.integrated_lufs, loudness.peak_dbfs
    if target is None or integrated is None or peak is None:
        return 0.0, 0.0
    wanted = target - integrated
    given = min(wanted, CEILING_DBFS - peak)
    return given, wanted - given


def plan_of(params: TtsParams) -> OutputPlan:
    """What the file asked for can be. Raises `unsupported_output`."""
    return output_plan(AudioInfo(params.sample_rate, 1, None, None, "", "", 16, False), params.output)


class _Out:
    """The file as it grows."""

    def __init__(self, path: Path, rate: int, plan: OutputPlan, gain: float, tags: Mapping[str, str]) -> None:
        self.peaks = PeaksAccumulator(plan.sample_rate, 1)
        self._plan, self._gain = plan, np.float32(gain)
        self._loudness = Loudness(plan.sample_rate, 1)
        self._resampler = None if plan.sample_rate == rate else Resampler(rate, plan.sample_rate, 1)
        self._writer = AudioWriter(
            path, plan.sample_rate, 1, plan.format, bit_depth=plan.bit_depth, bitrate_kbps=plan.bitrate_kbps, tags=tags
        )

    def take(self, chunk: np.ndarray) -> None:
        self._give(chunk if self._resampler is None else self._resampler.push(chunk))

    def finish(self) -> None:
        if self._resampler is not None:
            self._give(self._resampler.finish())
        self._writer.close()

    def abort(self) -> None:
        self._writer.abort()

    def artifact(self) -> Artifact:
        plan, loudness = self._plan, self._loudness.as_dict()
        return Artifact(
            "speech",
            self._writer.path,
            CONTENT_TYPES[plan.format],
            "speech",
            {
                "samples": self._writer.written,
                "sample_rate": plan.sample_rate,
                "channels": 1,
                "duration": round(self._writer.written / plan.sample_rate, 6),
                "format": plan.format,
                "bit_depth": plan.bit_depth,
                "loudness_lufs": loudness["integrated_lufs"],
                "peak_dbfs": loudness["peak_dbfs"],
                "clipped": self._writer.clipped,
                "changes": list(plan.changes),
            },
        )

    def _give(self, samples: np.ndarray) -> None:
        louder = samples * self._gain
        self._loudness.add(louder)
        self.peaks.add(louder)
        self._writer.write(louder)
