"""CSM as a synthesizer: prompts that fit its positions, takes that are tried again where they went wrong."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from common.errors import NightshiftError
from common.params import TtsParams
from worker.batches import MOST, Batches
from worker.tts import sentences
from worker.tts.csm.model import FRAME, RATE, Codes, Csm, Prompt
from worker.tts.csm.sampling import TEMPERATURE
from worker.tts.csm.text import readable
from worker.tts.synthesizer import Line, Said, Take

IMPLEMENTATION = "1"
"""To be raised when the same weights would give another take."""

# Reading: the slowest and the fastest pace that is still speech, characters a second; the usual one is 15.
_SLOWEST, _FASTEST = 7.0, 40.0
_FRAMES_PER_SECOND = RATE / FRAME
_LEAD_SECONDS = 2.0
_MOST_FRAMES = 375
_LEAST_FRAMES = 2
_ATTEMPTS = 3
_REMEMBERED = 32
_PREFIX = "csm:"
# What the shares of the attempts and of the halves add up to.
_SHARES = (0.0, 0.9, 0.97, 0.99, 1.0)


@dataclass(frozen=True)
class _Row:
    """A text to be spoken in one go. least: frames of a reading that left nothing out."""

    text: str
    embeddings: Tensor
    cap: int
    least: int
    seed: int


@dataclass(frozen=True)
class _Spoken:
    """What came of a row. flaw: None where nothing is wrong."""

    codes: Codes
    flaw: str | None

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """The higher the better; of texts cut short, the one that came further."""
        return self.flaw is None, self.flaw != "cut_short", len(self.codes.codes)


class CsmSynthesizer:
    """`worker.tts.synthesizer.Synthesizer` over a loaded model.

    together: rows side by side; a text's take is the same with any others beside it up to the rounding of the device,
    so the pipeline always forms the same groups.
    """

    rate = RATE
    longest = 220
    context_turns = 2
    anchors = True

    def __init__(self, name: str, model: Csm, batches: Batches) -> None:
        self.name, self.model = name, model
        self.version = f"{IMPLEMENTATION}-{model.version}"
        self.together = 1 if model.device.type == "cpu" else MOST
        self._batches = batches
        self._special = tuple(map(str, model.processor.tokenizer.get_added_vocab()))
        self._heard: OrderedDict[str, Tensor] = OrderedDict()

    def voice(self, speaker: int, taken: frozenset[str]) -> str:
        free = (f"{_PREFIX}{part}" for part in range(10) if f"{_PREFIX}{part}" not in taken)
        return next(free, f"{_PREFIX}{speaker % 10}")

    def language(self, voice: str) -> str:
        return "en"

    def speak(
        self, lines: Sequence[Line], params: TtsParams, check: Callable[[], None]
    ) -> Generator[float, None, list[Take]]:
        """A take that goes wrong is tried with other noise, then in two halves; the best is taken."""
        temperature = TEMPERATURE if params.temperature is None else params.temperature
        texts = [readable(line.text, self._special) for line in lines]
        rows = {
            number: self._row(line, text)
            for number, (line, text) in enumerate(zip(lines, texts, strict=True))
            if sentences.speakable(text)
        }
        best: dict[int, _Spoken] = {}
        tries = dict.fromkeys(rows, 0)
        pending = list(rows)
        # Without noise every attempt would be the same.
        for attempt in range(_ATTEMPTS if temperature else 1):
            if not pending:
                break
            spoken = yield from self._attempt([rows[n] for n in pending], attempt, temperature, check)
            for number, one in zip(pending, spoken, strict=True):
                tries[number] += 1
                if number not in best or one.rank > best[number].rank:
                    best[number] = one
            pending = [number for number in pending if best[number].flaw is not None]
        sounds = {number: self.model.decode(one.codes.codes) for number, one in best.items()}
        flaws = {number: (one.flaw,) if one.flaw else () for number, one in best.items()}
        for number in pending:
            halves = yield from self._halves(lines[number], texts[number], temperature, check)
            tries[number] += len(halves)
            if halves and all(half.flaw is None for half in halves):
                sounds[number] = np.concatenate([self.model.decode(half.codes.codes) for half in halves])
                flaws[number] = ()
        nothing = np.zeros(0, np.float32)
        return [Take(sounds.get(n, nothing), flaws.get(n, ()), max(1, tries.get(n, 1))) for n in range(len(lines))]

    def memory_bytes(self) -> int:
        return self.model.bytes

    def close(self) -> None:
        self._heard.clear()
        self.model.network.to("meta")

    def _attempt(
        self, rows: Sequence[_Row], attempt: int, temperature: float, check: Callable[[], None]
    ) -> Generator[float, None, list[_Spoken]]:
        low, high = _SHARES[min(attempt, _ATTEMPTS)], _SHARES[min(attempt, _ATTEMPTS) + 1]

        def compute(some: Sequence[_Row]) -> Generator[float, None, list[Codes]]:
            prompts = [Prompt(row.embeddings, row.cap, row.seed, attempt) for row in some]
            return (yield from self.model.generate(prompts, temperature, check))

        steps = self._batches.stepwise(rows, compute)
        try:
            while True:
                yield low + (high - low) * next(steps)
        except StopIteration as ended:
            codes = [one for part in ended.value for one in part]
        finally:
            steps.close()
        return [_Spoken(one, _flaw(one, row)) for row, one in zip(rows, codes, strict=True)]

    def _halves(
        self, line: Line, text: str, temperature: float, check: Callable[[], None]
    ) -> Generator[float, None, list[_Spoken]]:
        parts = sentences.halves(text)
        if len(parts) < 2:
            return []
        rows = [self._row(replace(line, seed=line.seed + number), part) for number, part in enumerate(parts)]
        return (yield from self._attempt(rows, _ATTEMPTS, temperature, check))

    def _row(self, line: Line, text: str) -> _Row:
        """The prompt with as much of what was said before as there is room for."""
        cap, least = frames_of(text)
        room = self.model.positions - cap
        earlier = list(line.context)
        while True:
            heard = ([line.reference] if line.reference else []) + earlier
            codes = [self._codes(said) for said in heard]
            turns: list[tuple[int, str, int | None]] = [
                (said.speaker.part, readable(said.text, self._special), len(c))
                for said, c in zip(heard, codes, strict=True)
            ]
            tokens = self.model.tokens([*turns, (line.speaker.part, text, None)])
            if len(tokens) <= room:
                break
            if not earlier:
                raise NightshiftError(
                    "engine_unsupported",
                    f"The voice {line.speaker.voice} takes {len(tokens)} places of the model, which has {room} beside "
                    "what it is to say.",
                    hint="Make the voice again of a shorter recording, 5 to 15 s, with the exact words spoken in it.",
                )
            earlier.pop(0)
        return _Row(text, self.model.embed(tokens, codes), cap, least, line.seed)

    def _codes(self, said: Said) -> Tensor:
        key = hashlib.sha256(said.samples.tobytes()).hexdigest()
        if key not in self._heard:
            self._heard[key] = self.model.encode(said.samples)
            while len(self._heard) > _REMEMBERED:
                self._heard.popitem(last=False)
        self._heard.move_to_end(key)
        return self._heard[key]


def frames_of(text: str) -> tuple[int, int]:
    """Frames that a text may take at most, and that it takes at least."""
    letters = sum(_letters(character) for character in text)
    cap = math.ceil(_FRAMES_PER_SECOND * (_LEAD_SECONDS + letters / _SLOWEST))
    return min(cap, _MOST_FRAMES), max(_LEAST_FRAMES, math.floor(_FRAMES_PER_SECOND * letters / _FASTEST))


def _letters(character: str) -> int:
    """As how many letters a character is read: a digit is a word, a Chinese character a syllable."""
    if character.isdigit():
        return 4
    return 3 if unicodedata.east_asian_width(character) in "WF" else 1


def _flaw(codes: Codes, row: _Row) -> str | None:
    if not codes.ended:
        return "ran_on"
    return "cut_short" if len(codes.codes) < row.least else None
