"""Pure: where somebody speaks, by the level alone; no model, no language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import NightshiftError

HOP = 0.01
"""Seconds of a frame."""

# Shorter than the first is the closure of a plosive or a breath, shorter than the second a click.
_SHORTEST_PAUSE, _SHORTEST_SPEECH = 0.15, 0.08
_SILENCE_DB = -60.0
# Between the pauses and the loud vowels of speech lie 20 dB and more; a hum or a hiss stays within a few.
_LEAST_CONTRAST_DB = 6.0
_FULL_SCALE = 0.999


@dataclass(frozen=True)
class Activity:
    """A recording in frames of `HOP` seconds.

    level: float64 [n], dB relative to full scale.  speech: bool [n].  clipped: int64 [n], samples at full scale.
    floor: the level of its pauses, dB.
    """

    level: np.ndarray
    speech: np.ndarray
    clipped: np.ndarray
    floor: float

    @property
    def seconds(self) -> float:
        return self.level.size * HOP

    def phrases(self) -> list[tuple[float, float]]:
        """Stretches of speech between pauses: start and end, seconds."""
        return [(start * HOP, stop * HOP) for start, stop in _runs(self.speech)]

    def quietest(self, start: float, end: float) -> float:
        """The instant of the least level between two others, seconds."""
        low = min(max(0, int(start / HOP)), self.level.size - 1)
        high = max(low + 1, min(self.level.size, int(end / HOP) + 1))
        return (low + int(np.argmin(self.level[low:high])) + 0.5) * HOP


def measure(samples: np.ndarray, rate: int) -> Activity:
    """Looks at a recording, float32 mono [n]. Raises `no_speech` where nothing in it can be speech.

    The threshold lies 30 % of the way from the level of the pauses (the 10th percentile of the frames) up to that of
    the loud vowels (the 95th), in dB.
    """
    count = int(samples.size / rate / HOP)
    if count == 0:
        raise _silent("It is empty.")
    # At rates such as 22,050 Hz frames differ by a sample, lest they drift away from the seconds.
    edges = np.rint(np.arange(count + 1) * (HOP * rate)).astype(int)
    framed = samples[: edges[-1]]
    power = np.add.reduceat(np.square(framed, dtype=np.float64), edges[:-1]) / np.diff(edges)
    level = 10 * np.log10(power + 1e-10)
    if level.max() < _SILENCE_DB:
        raise _silent("It is silent.")
    loud = float(np.percentile(level, 95))
    floor = max(float(np.percentile(level, 10)), loud - 60.0)
    if loud - floor < _LEAST_CONTRAST_DB:
        raise _silent("Its level hardly changes, as that of a tone or of noise.")
    speech = level > max(_SILENCE_DB, floor + 0.3 * (loud - floor))
    for value, shortest in ((False, _SHORTEST_PAUSE), (True, _SHORTEST_SPEECH)):
        for start, stop in _runs(speech == value):
            inner = value or (start > 0 and stop < count)
            if inner and (stop - start) * HOP < shortest:
                speech[start:stop] = not value
    if not speech.any():
        raise _silent("Nothing in it lasts long enough to be speech.")
    clipped = np.add.reduceat((np.abs(framed) >= _FULL_SCALE).astype(np.int64), edges[:-1])
    return Activity(level, speech, clipped, floor)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Where the mask is true: start and stop of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _silent(why: str) -> NightshiftError:
    return NightshiftError(
        "no_speech",
        f"No speech was found in the recording. {why}",
        hint="Send 5 to 180 seconds of one person speaking, without music.",
        pointer="/inputs/0",
    )
