"""What a synthesizer is: it speaks pieces; the pipeline around it does the rest."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.params import TtsParams
from worker.tts.script import Speaker


@dataclass(frozen=True)
class Said:
    """Something that was said before, or a recording of the voice. key: its name within the job.  samples: float32 [n]
    at the synthesizer's rate."""

    key: str
    speaker: Speaker
    text: str
    samples: np.ndarray


@dataclass(frozen=True)
class Line:
    """A piece to be spoken. reference: how the speaker sounds.  context: what was said before, the latest last.

    seed: of all that is drawn for this piece.
    """

    text: str
    speaker: Speaker
    seed: int
    reference: Said | None = None
    context: tuple[Said, ...] = ()


@dataclass(frozen=True)
class Take:
    """A piece as it was spoken. samples: float32 [n], n may be 0.  flaws: codes of what is not as it should be, see
    `FLAWS`.  tries: how often it was spoken until it was taken."""

    samples: np.ndarray
    flaws: tuple[str, ...] = ()
    tries: int = 1


FLAWS: dict[str, str] = {
    "cut_short": "ended before its text can have been spoken",
    "ran_on": "did not come to an end by itself and was cut",
    "silent": "has no sound: the voice has none for this text",
}
"""What may be wrong with a take, as the predicate of a sentence."""


class Synthesizer(Protocol):
    """version: changes whenever the same line would give another take.  rate: Hz.  longest: characters of a piece.
    together: lines that are given at once, at most.  context_turns: how many turns it hears before each, unless asked
    otherwise.  anchors: whether a speaker without a recording sounds like itself only by hearing its first piece."""

    name: str
    version: str
    rate: int
    longest: int
    together: int
    context_turns: int
    anchors: bool

    def voice(self, speaker: int, taken: frozenset[str]) -> str:
        """The name of the voice for a speaker that has none. taken: those that others have."""
        ...

    def language(self, voice: str) -> str:
        """BCP 47, of a voice it brings; of recordings it is the same."""
        ...

    def speak(
        self, lines: Sequence[Line], params: TtsParams, check: Callable[[], None]
    ) -> Generator[float, None, list[Take]]:
        """Yields how much is done, 0 to 1, and returns a take for each line. Calls `check` at least every second."""
        ...

    def memory_bytes(self) -> int: ...

    def close(self) -> None: ...
