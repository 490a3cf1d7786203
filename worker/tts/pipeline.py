"""The engine around a synthesizer: a text of any length in; speech, its timing and its picture out, piece by piece.

What a piece sounds like depends on the request and on the pieces it hears, never on when it was spoken: a job may stop
after any piece and go on elsewhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import cast

import numpy as np

from common.errors import NightshiftError
from worker.engine import BlockDone, Event, Metrics, Note, Progress, Voice, Work
from worker.tts import script as scripts
from worker.tts.assemble import Assembly, Whole, plan_of
from worker.tts.cast import cast_of, reference
from worker.tts.results import provenance, results, tags
from worker.tts.script import Group, Piece
from worker.tts.synthesizer import FLAWS, Line, Said, Synthesizer, Take
from worker.tts.takes import Kept, Takes
from worker.tts.text import written

PIPELINE_VERSION = "1"
"""Part of every engine's version: to be raised when texts are cut, or takes stored, in another way."""

_TELL_SECONDS = 0.5
_SHOWN_CHARACTERS = 60
_NEAR_LU = 0.5


class SpeechEngine:
    """A synthesizer as an engine of the registry."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.synthesizer = synthesizer
        self.name = synthesizer.name
        self.version = f"{synthesizer.version}+pieces-{PIPELINE_VERSION}"

    def run(self, work: Work) -> Generator[Event, None, None]:
        """Closing the iterator stops the synthesizer and removes what is not finished.

        Work.params are TtsParams; the text may be the job's source instead. Raises what `written` and the synthesizer
        raise, `invalid_request` where nothing is left to speak, `unsupported_output`, `too_long`, and `storage_failed`
        for an earlier piece that is not what it should be.
        """
        yield from _Run(self, work).events()

    def memory_bytes(self) -> int:
        return self.synthesizer.memory_bytes()

    def close(self) -> None:
        self.synthesizer.close()


class _Run:
    """One job on its way through its pieces."""

    def __init__(self, engine: SpeechEngine, work: Work) -> None:
        work.check()
        self._started = time.monotonic()
        self._engine, self._synthesizer, self._work = engine, engine.synthesizer, work
        self._params = params = written(work)
        synthesizer = self._synthesizer
        plan_of(params)  # What cannot be written is refused before an hour is spoken.
        speakers = cast_of(params, synthesizer)
        languages = [synthesizer.language(speaker.voice) for speaker in speakers]
        self._script = scripts.write(params, speakers, synthesizer.longest, languages)
        turns = synthesizer.context_turns if params.context_turns is None else params.context_turns
        self._context_turns = turns if len(params.turns()) > 1 else 0
        self._references: dict[int, Said] = {}
        self._earlier: tuple[Said, ...] = ()
        self._takes = Takes(work.scratch / "takes", synthesizer.rate)
        self._kept: dict[int, Kept] = {}
        self._told = -_TELL_SECONDS
        self._characters = 0
        self._seconds = 0.0
        self._compute_seconds = 0.0
        self._resumed = 0

    def events(self) -> Iterator[Event]:
        yield self._progress()
        self._listen()
        anchored = frozenset(s.number for s in self._script.speakers if not s.cloned) if self._anchors else frozenset()
        groups = scripts.groups(
            self._script, self._synthesizer.together, anchored, in_turn=self._context_turns > 0
        )  # fmt: skip
        for group in groups:
            self._work.check()
            yield from self._speak(group)
        yield from self._flaws()
        yield from self._finish()

    @property
    def _anchors(self) -> bool:
        return self._synthesizer.anchors

    def _listen(self) -> None:
        """Reads the recordings of the speakers that have one."""
        for speaker in self._script.speakers:
            if speaker.cloned:
                voice = self._work.voices[speaker.voice]
                self._references[speaker.number] = reference(
                    voice, speaker, self._synthesizer.rate, self._work.limits, self._work.check
                )
        if self._synthesizer.context_turns and self._params.context_turns != 0:
            self._earlier = tuple(self._said_earlier(number) for number in range(len(self._work.earlier)))

    def _said_earlier(self, number: int) -> Said:
        said, speaker = self._work.earlier[number], self._script.speakers[0]
        recording = Voice(f"earlier {number}", speaker.name, said.audio, said.text)
        return reference(recording, speaker, self._synthesizer.rate, self._work.limits, self._work.check)

    def _speak(self, group: Group) -> Iterator[Event]:
        """Speaks a group as a whole where any of it is missing: alone, a piece may come out otherwise."""
        finished = self._work.blocks.finished
        missing = [index for index in group.pieces if index not in finished]
        takes: list[Take | None] = [None] * len(group.pieces)
        if missing:
            takes[:] = yield from self._spoken(group)
        for index, take in zip(group.pieces, takes, strict=True):
            if index in finished:
                self._keep(index, self._takes.kept(index, self._work.blocks.fetch(index)))
                self._resumed += 1
            else:
                assert take is not None
                self._check_take(index, take)
                files = self._takes.write(index, take)
                self._keep(index, self._takes.kept(index, files))
                yield BlockDone(index, len(self._script.pieces), files)
            yield from self._tell()

    def _spoken(self, group: Group) -> Generator[Event, None, list[Take]]:
        """Progress; returns the takes."""
        lines = [self._line(self._script.pieces[index]) for index in group.pieces]
        own = sum(len(line.text) for line in lines)
        with closing(self._synthesizer.speak(lines, self._params, self._work.check)) as steps:
            while True:
                began = time.monotonic()
                try:
                    share = next(steps)
                except StopIteration as ended:
                    return cast("list[Take]", ended.value)
                finally:
                    self._compute_seconds += time.monotonic() - began
                yield from self._tell(share * own)

    def _line(self, piece: Piece) -> Line:
        speaker = self._script.speakers[piece.speaker]
        mark = self._references.get(piece.speaker) or self._anchor(piece)
        first = piece.turn - self._context_turns
        earlier = () if not self._context_turns else self._script.pieces[: piece.index]
        context = tuple(
            self._said(other) for other in earlier if other.turn >= first and (mark is None or mark.key != _key(other))
        )
        return Line(piece.text, speaker, _seed(self._params.seed, piece.index), mark, (*self._earlier, *context))

    def _anchor(self, piece: Piece) -> Said | None:
        """What the speaker said first, where that is what makes it sound like itself."""
        index = scripts.anchor(self._script, piece.speaker) if self._anchors else None
        return None if index is None or index == piece.index else self._said(self._script.pieces[index])

    def _said(self, piece: Piece) -> Said:
        samples = self._takes.read(piece.index, self._kept[piece.index])
        return Said(_key(piece), self._script.speakers[piece.speaker], piece.text, samples)

    def _keep(self, index: int, kept: Kept) -> None:
        self._kept[index] = kept
        piece = self._script.pieces[index]
        self._characters += len(piece.text)
        self._seconds += piece.pause + kept.samples / self._synthesizer.rate
        limit = self._work.limits.duration_seconds
        if self._seconds > limit:
            raise NightshiftError(
                "too_long",
                f"The speech is longer than {limit:g} s, the most this service makes.",
                hint="Cut the text into several jobs, or ask the operator to raise NIGHTSHIFT_MAX_DURATION_SECONDS.",
            )

    def _check_take(self, index: int, take: Take) -> None:
        """A synthesizer's mistake must end the job here, not lie in a user's file."""
        samples = take.samples
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise NightshiftError(
                "engine_failed", f"The engine gave {samples.dtype} {list(samples.shape)} instead of float32 samples."
            )
        if not np.isfinite(samples).all():
            raise NightshiftError("engine_failed", f"The engine gave samples that are not numbers for piece {index}.")

    def _flaws(self) -> Iterator[Event]:
        """What a user should listen to again; raises where there is nothing to hear at all."""
        for flaw, predicate in FLAWS.items():
            found = [index for index in sorted(self._kept) if flaw in self._kept[index].flaws]
            if not found:
                continue
            if flaw == "silent" and len(found) == len(self._kept):
                voices = ", ".join(sorted({speaker.voice for speaker in self._script.speakers}))
                raise NightshiftError(
                    "engine_failed",
                    f"The voice {voices} had no sound for any of the text.",
                    hint="Choose a voice that speaks the text's language.",
                )
            text = self._script.pieces[found[0]].text[:_SHOWN_CHARACTERS]
            others = f", and {len(found) - 1} other pieces" if len(found) > 1 else ""
            yield Note("warning", f"speech_{flaw}", f"A piece {predicate}: “{text}”{others}.")

    def _finish(self) -> Iterator[Event]:
        work, synthesizer, params = self._work, self._synthesizer, self._params
        folder = work.scratch / "result"
        folder.mkdir(parents=True, exist_ok=True)
        assembly = Assembly(self._takes, self._script.pieces, self._kept, synthesizer.rate)
        origin = provenance(self._engine.name, self._engine.version, self._script, work.job_id)
        with closing(assembly.write(folder, params, tags(origin))) as steps:
            while True:
                try:
                    share = next(steps)
                except StopIteration as ended:
                    whole = cast(Whole, ended.value)
                    break
                work.check()
                if self._due():
                    yield self._progress("assemble", share * self._script.characters)
        for change in whole.artifact.meta["changes"]:
            yield Note("info", "output_changed", change)
        reached, target = whole.artifact.meta["loudness_lufs"], params.loudness_lufs
        if target is not None and reached is not None and abs(target - reached) > _NEAR_LU:
            yield Note(
                "info",
                "loudness_missed",
                f"The speech has {reached:g} LUFS instead of {target:g}: its peaks allow no more.",
            )
        yield from results(folder, self._script, assembly, whole, origin)
        yield self._metrics(whole)
        yield self._progress("assemble", self._script.characters)

    def _metrics(self, whole: Whole) -> Metrics:
        wall = time.monotonic() - self._started
        audio = whole.artifact.meta["duration"]
        return Metrics(
            {
                "audio_seconds": audio,
                "characters": self._script.characters,
                "turns": len(self._params.turns()),
                "speakers": len(self._script.speakers),
                "blocks": len(self._kept),
                "blocks_resumed": self._resumed,
                "retries": sum(kept.tries - 1 for kept in self._kept.values()),
                "gain_db": round(whole.gain_db, 2),
                "limited_db": round(whole.limited_db, 2),
                "compute_seconds": round(self._compute_seconds, 3),
                "wall_seconds": round(wall, 3),
                "times_real_time": round(audio / wall, 2) if wall else 0.0,
            }
        )

    def _tell(self, more: float = 0.0) -> Iterator[Event]:
        self._work.check()
        if self._due():
            yield self._progress("speak", self._characters + more)

    def _due(self) -> bool:
        return time.monotonic() - self._told >= _TELL_SECONDS

    def _progress(self, phase: str = "speak", done: float = 0.0) -> Progress:
        self._told = time.monotonic()
        total = self._script.characters
        return Progress(phase, min(done, total), total, "characters", len(self._kept), len(self._script.pieces))


def _key(piece: Piece) -> str:
    return f"piece {piece.index}"


def _seed(seed: int, index: int) -> int:
    """Of a piece, 63 bits: neighbours share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8], "big") >> 1
