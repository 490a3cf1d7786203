"""Pure: when waiting work will be done, and how much of it by the time its window closes, from measured speeds.

The cards' time for a job is taken as proportional to its audio: `r` seconds a second, the ratio of what was measured.
What a total of X seconds in N jobs then takes is r·X, give or take t·sqrt(X²·s²/(n·m²) + N·s²): the uncertainty of the
ratio, and what single jobs stray from it (n jobs of mean length m measured, s their residual deviation; Cochran,
Sampling Techniques, chapter 6). On several cards the whole ends between the bounds of list scheduling (Graham 1969):
not before its share, nor before the longest job; not after the share and that job one behind the other. The likely end
is half way. The interval is meant to hold nine times in ten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from common.pace import Claimant, Pace
from common.windows import Windows

HORIZON = timedelta(days=3650)

# Of audio whose length nobody knows yet, relative to the mean: podcasts differ by about this much.
_LENGTHS_SPREAD = 0.7
# Of a speed that was measured once or never.
_UNKNOWN_SPREAD = 0.5
# Student's t, two-sided 90 %, by degrees of freedom; the row below where there is none.
_STUDENT = (
    (1, 6.314),
    (2, 2.920),
    (3, 2.353),
    (4, 2.132),
    (5, 2.015),
    (7, 1.895),
    (10, 1.812),
    (15, 1.753),
    (30, 1.697),
)


class Estimate(NamedTuple):
    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Speed:
    """How fast an engine is on one card of a lane.

    ratio: seconds of the card for a second of audio.  jobs: how many were measured, 0 for an assumption.
    mean: their mean length, seconds of audio.  deviation: of a job's time from ratio·length, seconds of the card.
    """

    ratio: float
    jobs: int
    mean: float
    deviation: float

    @classmethod
    def of_sums(cls, jobs: int, x: float, y: float, xx: float, xy: float, yy: float) -> Speed | None:
        """From sums over finished jobs, x: seconds of audio, y: seconds of the card; None where there are none."""
        if jobs < 1 or x <= 0 or y <= 0:
            return None
        ratio, mean = y / x, x / jobs
        if jobs == 1:
            return cls(ratio, 1, mean, _UNKNOWN_SPREAD * y)
        residual = max(0.0, yy - 2 * ratio * xy + ratio * ratio * xx)
        return cls(ratio, jobs, mean, math.sqrt(residual / (jobs - 1)))

    @classmethod
    def measured(cls, jobs: Iterable[tuple[float, float]]) -> Speed | None:
        """From (seconds of audio, seconds of the card) of each finished job."""
        n, x, y, xx, xy, yy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for audio, card in jobs:
            n, x, y = n + 1, x + audio, y + card
            xx, xy, yy = xx + audio * audio, xy + audio * card, yy + card * card
        return cls.of_sums(n, x, y, xx, xy, yy)

    @classmethod
    def assumed(cls, ratio: float, mean: float = 3600.0) -> Speed:
        """Before anything was measured; the interval is then wide."""
        return cls(ratio, 0, mean, _UNKNOWN_SPREAD * ratio * mean)


@dataclass(frozen=True)
class Work:
    """Jobs of one engine and lane that are not finished.

    jobs: with known length.  audio: what is left of them, seconds together.  longest: of one of them, seconds.
    unknown: further jobs, whose length nobody knows.  typical: what to take for one of those, seconds; None: the mean
    of the known ones.  heard: how many lengths `typical` is the mean of; None: as many as are known.
    """

    engine: str
    lane: str
    jobs: int
    audio: float
    longest: float
    unknown: int = 0
    typical: float | None = None
    heard: int | None = None


class Why(StrEnum):
    """Why there is no forecast."""

    NO_CARDS = "no_cards"
    NOT_MEASURED = "not_measured"
    LENGTHS_UNKNOWN = "lengths_unknown"
    BEYOND_HORIZON = "beyond_horizon"


class Missing(NamedTuple):
    why: Why
    engine: str
    lane: str


class Risk(StrEnum):
    """Of missing a deadline: none, within the interval, likely, or nobody can tell."""

    ON_TIME = "on_time"
    AT_RISK = "at_risk"
    LATE = "late"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Forecast:
    """earliest, likely, latest: of the end, UTC; None where it cannot be told, of which `missing` says why.

    card_seconds: what all of it takes, on all cards together.  closes: when the window closes that is open or opens
    next; None where there is none.  by_close: the share done by then, 0 to 1.  nights: openings until the likely end.
    """

    earliest: datetime | None
    likely: datetime | None
    latest: datetime | None
    card_seconds: Estimate
    closes: datetime | None
    by_close: Estimate | None
    nights: int | None
    missing: tuple[Missing, ...]

    def risk(self, deadline: datetime) -> Risk:
        """Whether the work is done by `deadline`."""
        if self.likely is not None and self.likely > deadline:
            return Risk.LATE
        if self.missing or self.likely is None:
            return Risk.UNKNOWN
        return Risk.AT_RISK if self.latest is None or self.latest > deadline else Risk.ON_TIME


def forecast(
    now: datetime,
    work: Sequence[Work],
    speeds: Mapping[tuple[str, str], Speed],
    cards: Mapping[str, float],
    windows: Windows | None = None,
    paces: Mapping[str, Pace] | None = None,
) -> Forecast:
    """When `work` is done, if the windows stay as they are.

    speeds: by engine and lane.  cards: of each lane.  windows: when it may run; None: always.
    paces: of the lanes whose cards it has not to itself, how fast it goes on there.
    """
    now = now.astimezone(UTC)
    missing: list[Missing] = []
    needs: list[Estimate] = []
    ends: list[tuple[Pace, Estimate]] = []
    alone = Pace(now, Claimant("", 1.0, 1.0, 0.0, windows))
    # Each lane has cards of its own, so they work side by side.
    for lane, group in groupby(sorted(work, key=lambda one: one.lane), key=lambda one: one.lane):
        loads = []
        for one in group:
            if one.jobs + one.unknown == 0:
                continue
            why, load = _load(one, speeds.get((one.engine, lane)))
            if load is not None:
                loads.append(load)
            if why is None and cards.get(lane, 0) <= 0:
                why = Why.NO_CARDS
            if why is not None:
                missing.append(Missing(why, one.engine, lane))
        need, end = _lane(loads, cards.get(lane, 0))
        needs.append(need)
        if end is not None:
            ends.append(((paces or {}).get(lane, alone), end))
    total = Estimate(*(math.fsum(need[i] for need in needs) for i in range(3)))
    earliest, likely, latest = (
        None if missing else _last(now, [(pace, end[i]) for pace, end in ends]) for i in range(3)
    )
    if likely is None and not missing:
        missing = [Missing(Why.BEYOND_HORIZON, one.engine, one.lane) for one in work if one.jobs + one.unknown]
    closes = windows.next_change(windows.next_opening(now)) if windows is not None else None
    return Forecast(
        earliest=earliest,
        likely=likely,
        latest=latest,
        card_seconds=total,
        closes=closes,
        by_close=None if missing or closes is None or windows is None else _share(closes, ends),
        nights=None if likely is None or windows is None else sum(1 for _ in windows.intervals(now, likely)),
        missing=tuple(missing),
    )


def likely_seconds(work: Work, speed: Speed | None) -> float | None:
    """What it takes one card, about; None where that cannot be told."""
    _, load = _load(work, speed)
    return load.seconds if load is not None else None


class _Load(NamedTuple):
    """Seconds of one card: of all jobs, its variance, and of the longest job; and t for that many measurements."""

    seconds: float
    variance: float
    longest: Estimate
    t: float


def _load(work: Work, speed: Speed | None) -> tuple[Why | None, _Load | None]:
    if speed is None:
        return Why.NOT_MEASURED, None
    typical = work.typical if work.typical is not None else work.audio / work.jobs if work.jobs else None
    if work.unknown and typical is None:
        return Why.LENGTHS_UNKNOWN, None
    lengths = work.unknown * (typical or 0.0)
    audio = work.audio + lengths
    jobs = work.jobs + work.unknown
    variance = (audio * speed.deviation / speed.mean) ** 2 / max(1, speed.jobs) + jobs * speed.deviation**2
    heard = work.jobs if work.heard is None else work.heard
    # Each unknown length strays from the typical one, and the typical one from what it should be.
    unknown = (_LENGTHS_SPREAD * (typical or 0.0) * speed.ratio) ** 2
    variance += unknown * (work.unknown + work.unknown**2 / max(1, heard))
    longest = speed.ratio * max(work.longest, (typical or 0.0) if work.unknown else 0.0)
    t = _student(speed.jobs - 1)
    stray = t * speed.deviation * math.sqrt(1 + 1 / max(1, speed.jobs))
    return None, _Load(speed.ratio * audio, variance, _around(longest, stray), t)


def _around(value: float, stray: float) -> Estimate:
    """The lower end is as far off by factor as the upper one, for no time is below nothing."""
    return Estimate(value * (value / (value + stray)) if value else 0.0, value, value + stray)


def _lane(loads: Sequence[_Load], cards: float) -> tuple[Estimate, Estimate | None]:
    """Seconds of its cards together, and until they are done."""
    if not loads:
        return Estimate(0.0, 0.0, 0.0), None
    stray = max(load.t for load in loads) * math.sqrt(math.fsum(load.variance for load in loads))
    need = _around(math.fsum(load.seconds for load in loads), stray)
    if cards <= 0:
        return need, None
    # One job is on one card at a time, however many there are.
    long = Estimate(*(min(max(load.longest[i] for load in loads), need[i]) for i in range(3)))
    share = Estimate(*(one / cards for one in need))
    tail = 1 - 1 / max(1.0, cards)
    likely = (max(share.likely, long.likely) + share.likely + tail * long.likely) / 2
    return need, Estimate(max(share.low, long.low), likely, share.high + tail * long.high)


def _last(now: datetime, ends: Sequence[tuple[Pace, float]]) -> datetime | None:
    """When the last lane is done; None where that is beyond the horizon."""
    instants = [pace.after(seconds, HORIZON) for pace, seconds in ends]
    return None if None in instants else max([now, *(one for one in instants if one is not None)])


def _share(closes: datetime, ends: Sequence[tuple[Pace, Estimate]]) -> Estimate:
    """What is done of the lane that is furthest behind."""
    rooms = [(pace.seconds(closes), end) for pace, end in ends]
    done = [[min(1.0, room / one) if one > 0 else 1.0 for one in reversed(end)] for room, end in rooms]
    return Estimate(*(min((one[i] for one in done), default=1.0) for i in range(3)))


def _student(degrees: int) -> float:
    return [t for least, t in _STUDENT if least <= max(1, degrees)][-1]
