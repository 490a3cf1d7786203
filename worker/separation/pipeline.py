"""The engine around a separator: a recording of any length in, block by block, stems of exactly its length out.

Decoding runs ahead of the computing, saving and assembling behind it; memory depends on the block, not on the file.
The stems of a block depend on the job's parameters, the file and the block's index alone, so a job may stop after any
block and go on elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from typing import cast

import numpy as np

from common.errors import NightshiftError
from common.params import SeparationParams
from worker.engine import Artifact, BlockDone, Demand, Event, Metrics, Note, Progress, Work, alone
from worker.media.decode import AudioReader
from worker.media.formats import block_format, output_plan
from worker.media.overlap import ahead
from worker.media.waveform import PeaksAccumulator
from worker.separation import channels, spans
from worker.separation.assemble import StemTrack
from worker.separation.checkpoint import BlockFiles
from worker.separation.finishing import Finishing
from worker.separation.picture import pictures
from worker.separation.plan import Grid, Window
from worker.separation.separator import BlockAudio, Separator, Stems, wanted
from worker.separation.stream import Block, cut

PIPELINE_VERSION = "1"
"""Part of every engine's version: to be raised when blocks are cut, stored or faded in another way."""

_TELL_SECONDS = 0.5
_KEPT_TAGS = ("title", "artist", "album", "date", "genre", "copyright")


class SeparationEngine:
    """A separator as an engine of the registry."""

    def __init__(self, separator: Separator) -> None:
        self.separator = separator
        self.name = separator.name
        self.version = f"{separator.version}+blocks-{PIPELINE_VERSION}"

    @property
    def shares(self) -> bool:
        """See `worker.engine.Sharing`."""
        return self.separator.shares

    def run(self, work: Work) -> Generator[Event, None, None]:
        """The events of `steps`, what is wanted computed by itself."""
        return alone(self.steps(work))

    def steps(self, work: Work) -> Generator[Event | Demand, None, None]:
        """Closing the iterator ends all threads and child processes and removes what is not finished.

        Work.params are SeparationParams. Raises what decoding and the separator raise, `unsupported_output`, and
        `storage_failed` for an earlier block that is not what it should be.
        """
        with ExitStack() as opened:
            yield from _Run(self.separator.for_job(), work, opened).steps()

    def memory_bytes(self) -> int:
        return self.separator.memory_bytes()

    def close(self) -> None:
        self.separator.close()


class _Run:
    """One job on its way through the blocks."""

    def __init__(self, separator: Separator, work: Work, opened: ExitStack) -> None:
        params = cast(SeparationParams, work.params)
        work.check()
        self._started = time.monotonic()
        self._separator, self._work, self._params = separator, work, params
        self._reader = opened.enter_context(AudioReader(work.source.path, work.limits))
        info = self._reader.info
        self._rate = rate = info.sample_rate
        count = channels.count(info.channels, params.channels)
        self._plan = output_plan(info, params.output, count)
        self._grid = Grid.of_seconds(
            rate,
            work.block_seconds or separator.block_seconds,
            *separator.context_seconds,
            separator.overlap_seconds,
        )
        self._names = tuple(stem.name for stem in wanted(params))
        self._folder = work.scratch / "result"
        self._folder.mkdir(parents=True, exist_ok=True)
        tags = {key: value for key, value in info.tags.items() if key in _KEPT_TAGS}
        self._tracks: dict[str, StemTrack] = {}
        for name in self._names:
            self._tracks[name] = StemTrack(self._folder, name, rate, self._plan, self._grid.block, tags)
            opened.callback(self._tracks[name].abort)
        files = BlockFiles(work.scratch / "blocks", block_format(info, params.output), rate, count)
        self._mix = PeaksAccumulator(rate, info.channels)
        self._finishing = opened.enter_context(Finishing(files, work.blocks, self._tracks))
        # Two: the block that is computed, and the one that is decoded meanwhile.
        self._blocks = ahead(cut(self._heard(), self._grid, work.blocks.finished), depth=2)
        opened.callback(self._blocks.close)
        # Before the thread that waits for the decoder is waited for, the decoder ends.
        opened.callback(self._reader.close)

        self._expected = info.samples or 0
        self._block = 0
        self._told = -_TELL_SECONDS
        self._compute_seconds = 0.0
        self._channels_computed = 0
        self._resumed = 0

    def steps(self) -> Iterator[Event | Demand]:
        yield from self._spans()
        yield self._progress("separate", 0)
        for block in self._blocks:
            self._work.check()
            window = block.window
            self._expected = max(self._expected, window.give_stop)
            if block.samples is None:
                self._finishing.add_finished(window)
                self._resumed += 1
            else:
                yield from self._separate(block)
            self._block = window.index + 1
            yield from self._saved()
            yield from self._tell("separate", min(self._block * self._grid.block, window.give_stop))
        self._expected = self._reader.samples_read
        if not self._expected:
            raise NightshiftError("no_samples")
        yield from self._notes()
        while not self._finishing.wait(_TELL_SECONDS):
            self._work.check()
            yield from self._saved()
            yield self._progress("assemble", self._finishing.assembled)
        yield from self._saved()
        yield from self._results()

    def _spans(self) -> Iterator[Event]:
        """Looks at the spans before anything is computed. Only where one reaches beyond the declared end, or none is
        declared, is it worth to count."""
        declared = -1.0 if self._reader.info.estimated else self._reader.info.duration or -1.0
        if any(spans.beyond(self._params, declared)):
            seconds = spans.length(self._work.source.path, self._work.limits, self._work.check)
            for sentence in spans.clamped(self._params, seconds):
                yield Note("info", "span_clamped", sentence)

    def _heard(self) -> Iterator[np.ndarray]:
        """The decoded chunks, drawn as they pass; on the decoding thread."""
        for chunk in self._reader:
            self._mix.add(chunk)
            yield chunk

    def _separate(self, block: Block) -> Iterator[Event | Demand]:
        window, samples = block.window, block.samples
        assert samples is not None
        reduced, layout = channels.reduce(samples, self._params.channels)
        audio = BlockAudio(window.index, reduced, self._rate, window.start, window.keep)
        self._channels_computed += reduced.shape[0]
        own = min(self._grid.block, window.give_stop - window.give_start)
        with closing(self._separator.separate(audio, self._params, self._work.check)) as steps:
            while True:
                began = time.monotonic()
                try:
                    step = next(steps)
                except StopIteration as finished:
                    stems = cast(Stems, finished.value)
                    break
                finally:
                    self._compute_seconds += time.monotonic() - began
                if isinstance(step, Demand):
                    had = step.seconds
                    yield step
                    self._compute_seconds += step.seconds - had
                else:
                    yield from self._saved()
                    yield from self._tell("separate", window.give_start + step * own)
        self._check_stems(window, reduced.shape[0], stems)
        while not self._finishing.has_room(_TELL_SECONDS):
            self._work.check()
            yield from self._tell("separate", window.give_start + own)
        self._finishing.add_computed(window, {name: layout.restore(stems[name]) for name in self._names})

    def _check_stems(self, window: Window, count: int, stems: Stems) -> None:
        """A separator's mistake must end the job here, not lie in a user's file."""
        shape = (count, window.give_stop - window.give_start)
        for name in self._names:
            stem = stems[name]
            if stem.shape != shape or stem.dtype != np.float32:
                raise NightshiftError(
                    "engine_failed",
                    f"The engine gave {name} as {stem.dtype} {list(stem.shape)} instead of float32 {list(shape)}.",
                )
            if not np.isfinite(stem).all():
                second = window.give_start / self._rate
                raise NightshiftError(
                    "engine_failed", f"The engine gave samples that are not numbers in the block at {second:.0f} s."
                )

    def _saved(self) -> Iterator[Event]:
        for index, files in self._finishing.saved():
            yield BlockDone(index, self._block_count(), files)

    def _tell(self, phase: str, done: float) -> Iterator[Event]:
        if time.monotonic() - self._told >= _TELL_SECONDS:
            yield self._progress(phase, done)

    def _progress(self, phase: str, done: float) -> Progress:
        self._told = time.monotonic()
        total = max(self._expected, done)
        return Progress(phase, done / self._rate, total / self._rate, "s", self._block, self._block_count())

    def _block_count(self) -> int:
        """Of the length that is known or, before the end, declared."""
        return self._grid.count(self._expected)

    def _notes(self) -> Iterator[Event]:
        shortfall = self._reader.shortfall
        if shortfall is not None:
            yield Note(
                "warning",
                "shortfall",
                f"The file declares {shortfall.declared_seconds:.2f} s but holds {shortfall.decoded_seconds:.2f} s: "
                "it is truncated or damaged. What is there was processed.",
            )
            for span in spans.beyond(self._params, shortfall.decoded_seconds):
                if span.end <= shortfall.declared_seconds:
                    yield Note(
                        "warning",
                        "span_clamped",
                        f"The span of {span.prompt.name!r} from {span.start:g} to {span.end:g} s reaches into what is "
                        "missing, and had no effect there.",
                    )
        for change in self._plan.changes:
            yield Note("info", "output_changed", change)

    def _results(self) -> Iterator[Event]:
        stems: list[Artifact] = list(self._finishing.finish())
        for name, track in self._tracks.items():
            if track.samples != self._expected:
                raise NightshiftError(
                    "internal", f"The stem {name} has {track.samples} samples, the recording {self._expected}."
                )
        yield from stems
        drawn = [(name, track.peaks.result()) for name, track in self._tracks.items()]
        yield from pictures(self._folder, self._mix.result(), drawn)
        wall = time.monotonic() - self._started
        audio = self._expected / self._rate
        yield Metrics(
            {
                "audio_seconds": round(audio, 6),
                "samples": self._expected,
                "sample_rate": self._rate,
                "channels": self._reader.info.channels,
                "blocks": self._block,
                "blocks_resumed": self._resumed,
                "channels_computed": self._channels_computed,
                **{name: round(value, 6) for name, value in self._separator.figures().items()},
                "compute_seconds": round(self._compute_seconds, 3),
                "wall_seconds": round(wall, 3),
                "compute_share": round(self._compute_seconds / wall, 4) if wall else 0.0,
                "times_real_time": round(audio / wall, 2) if wall else 0.0,
            }
        )
        yield self._progress("assemble", self._expected)
