"""Spoken passages for tests: espeak's sentences with pauses between them, and what was said when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.media.speech import speech

RATE = 22_050
SENTENCES = (
    "The night shift begins when the last of the trams has gone home.",
    "Rain falls on the roof of the workshop, and nobody minds it.",
    "A kettle sings in the corner while the machines count their blocks.",
    "By four the first baker opens his door, and the street smells of bread.",
    "Whoever walks past at that hour nods, and says nothing at all.",
)


@dataclass(frozen=True)
class Passage:
    """samples: float32 mono [n] at `RATE`.  spoken: start and end of each sentence, seconds, and its words."""

    samples: np.ndarray
    spoken: list[tuple[float, float, str]]

    @property
    def text(self) -> str:
        return " ".join(text for _, _, text in self.spoken)


def passage(sentences: tuple[str, ...] = SENTENCES, pause: float = 0.5, noise: float = 1e-4) -> Passage:
    """The sentences, one after the other, over a little noise."""
    pieces: list[np.ndarray] = []
    spoken = []
    at = 0
    for sentence in sentences:
        samples, rate = speech(sentence, words_per_minute=150)
        assert rate == RATE
        heard = np.flatnonzero(np.abs(samples) > 0.01)
        samples = samples[heard[0] : heard[-1]]
        gap = np.zeros(round(pause * RATE), np.float32)
        pieces += [gap, samples]
        at += gap.size
        spoken.append((at / RATE, (at + samples.size) / RATE, sentence))
        at += samples.size
    whole = np.concatenate([*pieces, np.zeros(round(pause * RATE), np.float32)])
    whole += np.random.default_rng(0).normal(0, noise, whole.size).astype(np.float32)
    return Passage(whole.astype(np.float32), spoken)
