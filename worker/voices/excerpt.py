"""Pure: which seconds of a recording models are to hear.

Every stretch of 5 to 15 seconds that begins and ends between two utterances is a candidate. An utterance is a segment
that a transcription gave, or, without one, a phrase between pauses. The best candidate is the one with the most speech
in it, the greatest distance between speech and background, a length of ten seconds or more, and no clipping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from worker.voices.activity import HOP, Activity

SHORTEST, LONGEST = 5.0, 15.0
"""Seconds of an excerpt."""

_ENOUGH = 10.0
# Share of speech in speech that has its pauses.
_TALKATIVE = 0.7
# Room left before and after the words, where the pause has it.
_ROOM = 0.15
# How far a transcription's times may be off.
_TOLERANCE = 0.2


@dataclass(frozen=True)
class Excerpt:
    """A stretch of the recording, seconds.

    first, last: its utterances, by their number.  speech: share of it that is speech.  contrast_db: speech above
    background.  clipped: samples at full scale.
    """

    start: float
    end: float
    first: int
    last: int
    speech: float
    contrast_db: float
    clipped: int

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def score(self) -> float:
        contrast = min(max(self.contrast_db, 0.0), 40.0) / 40.0
        speech = min(self.speech, _TALKATIVE) / _TALKATIVE
        return speech + contrast + min(self.seconds, _ENOUGH) / _ENOUGH - (1.0 if self.clipped else 0.0)


def whole(activity: Activity, seconds: float) -> Excerpt:
    """From the first word to the last, where all of it is to be heard."""
    phrases = activity.phrases()
    start = max(0.0, phrases[0][0] - _ROOM)
    end = min(seconds, phrases[-1][1] + _ROOM)
    return _excerpt(activity, start, end, 0, len(phrases) - 1)


def between_pauses(activity: Activity) -> list[Excerpt]:
    """Candidates between pauses, the best first. Of speech without a pause, those between its quietest instants."""
    phrases = activity.phrases()
    cuts = [max(0.0, phrases[0][0] - _ROOM)]
    for (_, end), (start, _) in pairwise(phrases):
        room = min(_ROOM, (start - end) / 2)
        cuts += [end + room, start - room]
    cuts.append(min(activity.seconds, phrases[-1][1] + _ROOM))
    return _ranked(activity, cuts[::2], cuts[1::2]) or _at_any_cost(activity)


def between_utterances(activity: Activity, utterances: Sequence[tuple[float, float]]) -> list[Excerpt]:
    """Candidates between utterances (start and end, seconds), the best first; each is cut at the quietest instant
    between the two."""
    starts, ends = [], []
    for i, (start, end) in enumerate(utterances):
        before = utterances[i - 1][1] if i else start - _ROOM
        after = utterances[i + 1][0] if i + 1 < len(utterances) else end + _ROOM
        starts.append(_cut(activity, before, start))
        ends.append(_cut(activity, end, after))
    return _ranked(activity, starts, ends)


def _cut(activity: Activity, end: float, start: float) -> float:
    low, high = sorted((end, start))
    return activity.quietest(max(0.0, low - _TOLERANCE), high + _TOLERANCE)


def _ranked(activity: Activity, starts: Sequence[float], ends: Sequence[float]) -> list[Excerpt]:
    found = [
        _excerpt(activity, start, ends[j], i, j)
        for i, start in enumerate(starts)
        for j in range(i, len(ends))
        if SHORTEST <= ends[j] - start <= LONGEST
    ]
    return sorted(found, key=lambda excerpt: -excerpt.score)


def _at_any_cost(activity: Activity) -> list[Excerpt]:
    """Where no two pauses are 5 to 15 seconds apart: between the quietest instants of every second."""
    seconds = np.arange(0.0, activity.seconds, 1.0)
    cuts = [activity.quietest(second, min(second + 1.0, activity.seconds)) for second in seconds]
    return _ranked(activity, cuts, cuts)


def _excerpt(activity: Activity, start: float, end: float, first: int, last: int) -> Excerpt:
    frames = slice(round(start / HOP), max(round(start / HOP) + 1, round(end / HOP)))
    speech, level = activity.speech[frames], activity.level[frames]
    # Against its own background: one part of a recording may be noisier than another.
    background = float(np.percentile(level, 5)) if level.size else 0.0
    loud = float(np.median(level[speech])) if speech.any() else background
    return Excerpt(
        start,
        end,
        first,
        last,
        float(speech.mean()) if speech.size else 0.0,
        loud - background,
        int(activity.clipped[frames].sum()),
    )
