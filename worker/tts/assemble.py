"""The whole, put together from its pieces in two passes: how loud it is, then the file at the loudness asked for."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.params import TtsParams
from worker.engine import Artifact
from worker.media.encode import AudioWriter
from worker.media.formats import CONTENT_TYPES, EXTENSIONS, OutputPlan, output_plan
from worker.media.limiter import Limiter
from worker.media.loudness import Loudness
from worker.media.probe import AudioInfo
from worker.media.resample import Resampler
from worker.media.waveform import Peaks, PeaksAccumulator
from worker.tts.script import Piece
from worker.tts.takes import Kept, Takes
from worker.tts.timing import Spoken

CEILING_DBFS = -1.0
"""No sample is made louder than this: lossy codecs need some room above it."""
MOST_LIMITED_DB = 9.0
"""Peaks are held down by so much at most; more would be heard."""

# By so much a resampled peak may be higher than its samples were.
_OVERSHOOT_DB = 1.0

_CHUNK_SECONDS = 10


@dataclass(frozen=True)
class Whole:
    """The finished file. gain_db: that was applied to all of it.  limited_db: by how much the highest peak was held
    down."""

    artifact: Artifact
    peaks: Peaks
    gain_db: float
    limited_db: float


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
        gain_db, limited = _gain(params.loudness_lufs, loudness)
        plan = plan_of(params)
        path = folder / f"speech{EXTENSIONS[plan.format]}"
        out = _Out(path, self._rate, plan, 10 ** (gain_db / 20), limited, tags)
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
        return Whole(out.artifact(), out.peaks.result(), gain_db, out.limited_db)

    def _pause(self, piece: Piece) -> int:
        return round(piece.pause * self._rate)


def _gain(target: float | None, loudness: Loudness) -> tuple[float, bool]:
    """dB to apply, and whether peaks need to be held down then; nothing where there is too little to measure."""
    integrated, peak = loudness.integrated_lufs, loudness.peak_dbfs
    if target is None or integrated is None or peak is None:
        return 0.0, False
    gain = min(target - integrated, CEILING_DBFS + MOST_LIMITED_DB - peak)
    return gain, peak + gain > CEILING_DBFS - _OVERSHOOT_DB


def plan_of(params: TtsParams) -> OutputPlan:
    """What the file asked for can be. Raises `unsupported_output`."""
    return output_plan(AudioInfo(params.sample_rate, 1, None, None, "", "", 16, False), params.output)


class _Out:
    """The file as it grows."""

    def __init__(
        self, path: Path, rate: int, plan: OutputPlan, gain: float, limited: bool, tags: Mapping[str, str]
    ) -> None:
        self.peaks = PeaksAccumulator(plan.sample_rate, 1)
        self._plan, self._gain = plan, np.float32(gain)
        self._loudness = Loudness(plan.sample_rate, 1)
        self._resampler = None if plan.sample_rate == rate else Resampler(rate, plan.sample_rate, 1)
        self._limiter = Limiter(plan.sample_rate, 10 ** (CEILING_DBFS / 20)) if limited else None
        self._writer = AudioWriter(
            path, plan.sample_rate, 1, plan.format, bit_depth=plan.bit_depth, bitrate_kbps=plan.bitrate_kbps, tags=tags
        )

    @property
    def limited_db(self) -> float:
        return -20 * math.log10(self._limiter.least) if self._limiter is not None else 0.0

    def take(self, chunk: np.ndarray) -> None:
        self._level(chunk if self._resampler is None else self._resampler.push(chunk))

    def finish(self) -> None:
        if self._resampler is not None:
            self._level(self._resampler.finish())
        if self._limiter is not None:
            self._give(self._limiter.finish())
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

    def _level(self, samples: np.ndarray) -> None:
        louder = samples * self._gain
        self._give(louder if self._limiter is None else self._limiter.push(louder))

    def _give(self, samples: np.ndarray) -> None:
        self._loudness.add(samples)
        self.peaks.add(samples)
        self._writer.write(samples)
