"""Helpers for speaking: a synthesizer whose takes are known, and jobs run through the pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from common.params import TtsParams
from worker.engine import Artifact, BlockDone, Blocks, Event, Work
from worker.tts.synthesizer import Line, Take

RATE = 16_000


class Tones:
    """A tone for each line, whose pitch depends on all that the line is made of; 1 ms a character."""

    name = "tones"
    version = "1"
    rate = RATE
    longest = 40

    def __init__(self, together: int = 3, context_turns: int = 0, anchors: bool = False) -> None:
        self.together, self.context_turns, self.anchors = together, context_turns, anchors
        self.groups: list[list[Line]] = []
        self.flaws: dict[str, tuple[str, ...]] = {}
        self.silent: frozenset[str] = frozenset()

    def voice(self, speaker: int, taken: frozenset[str]) -> str:
        return f"tone:{speaker}"

    def language(self, voice: str) -> str:
        return "en"

    def speak(
        self, lines: Sequence[Line], params: TtsParams, check: Callable[[], None]
    ) -> Generator[float, None, list[Take]]:
        self.groups.append(list(lines))
        takes = []
        for number, line in enumerate(lines):
            check()
            yield number / len(lines)
            takes.append(Take(self.tone(line, len(lines)), self.flaws.get(line.text, ())))
        return takes

    def tone(self, line: Line, together: int) -> np.ndarray:
        """Also of how many are spoken at once, as in a model whose sums depend on the shape of a batch."""
        heard = [line.reference, *line.context]
        of = [line.text, line.seed, line.speaker.number, together, *(said and said.samples.tobytes() for said in heard)]
        digest = hashlib.sha256(repr(of).encode()).digest()
        time = np.arange(len(line.text) * RATE // 100) / RATE
        level = 0.0 if line.text in self.silent else 0.3
        return (level * np.sin(2 * np.pi * (200 + digest[0]) * time)).astype(np.float32)

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None: ...


class Kept(Blocks):
    """Pieces that an earlier attempt announced."""

    def __init__(self, events: Sequence[Event], which: set[int] | None = None) -> None:
        done = [event for event in events if isinstance(event, BlockDone)]
        self.files = {event.index: event.files for event in done if which is None or event.index in which}

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self.files)

    def fetch(self, index: int) -> Mapping[str, Path]:
        return self.files[index]


def params(**given: Any) -> TtsParams:
    return TtsParams.model_validate(given)


def work(scratch: Path, made: TtsParams, **given: Any) -> Work:
    scratch.mkdir(parents=True, exist_ok=True)
    return Work("job_1", made, (), scratch, **given)


def of(kind: type[Any], events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def artifacts(events: Sequence[Event]) -> dict[str, Artifact]:
    return {artifact.name: artifact for artifact in of(Artifact, events)}


def heard(events: Sequence[Event]) -> tuple[np.ndarray, int]:
    """float32 [n] and Hz."""
    samples, rate = soundfile.read(artifacts(events)["speech"].path, dtype="float32")
    return samples, rate
