"""Pure: when a schedule ticks. A cron expression of five fields, and the time zone whose clock it means.

Across a change of the clock, an expression that names its hours ticks once for each reading it names: at the first of
two, and at the jump for those that the clock passes over (once, however many they are). So what is to run at half past
two every night runs every night, and never twice. One whose hours begin with `*` ticks by what the clock shows: twice
through the hour that comes twice, so that it never pauses for an hour, and not in the hour that is left out.

cronsim reads the expression and walks the calendar. It is kept from the zone: its own rule for named hours gives ticks
of the past inside an hour that comes twice, and its other one steps over ticks where the clock moves by half an hour.

Instants are aware datetimes; those given back are in UTC.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from common import zones
from common.errors import NightshiftError

MAX_TEXT = 200
MAX_MISSED = 1000
EXAMPLE = "30 21 * * mon-fri"

# No clock goes back further than this, but where a country crosses the date line.
_FARTHEST_BACK = timedelta(hours=3)
_LOOK_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=32))


class Missed(StrEnum):
    """What becomes of ticks that nobody was there to act on."""

    ONCE = "once"
    SKIP = "skip"


@dataclass(frozen=True)
class Due:
    """tick: the one to act on now, None for none.  missed: how many others passed, MAX_MISSED where more did.
    next: the first tick after now."""

    tick: datetime | None
    missed: int
    next: datetime


@dataclass(frozen=True)
class Cron:
    """Made by `Cron.parse`, or with arguments known to be good."""

    expression: str
    timezone: str

    @classmethod
    def parse(cls, expression: str, timezone: str, pointer: str = "") -> Cron:
        """Raises `invalid_schedule`, at `pointer`/cron or `pointer`/timezone."""
        try:
            cron = cls(check(expression), timezone)
        except ValueError as error:
            raise NightshiftError(
                "invalid_schedule",
                f"The cron expression {expression[:100]!r} cannot be read: {error}.",
                hint=f"Write minute, hour, day of month, month and day of week: {EXAMPLE}",
                pointer=f"{pointer}/cron",
            ) from error
        try:
            return cls(cron.expression, zones.canonical(timezone))
        except ValueError as error:
            raise NightshiftError(
                "invalid_schedule",
                f"{error}.",
                hint="Name the time zone whose clock the expression means, such as Europe/Madrid.",
                pointer=f"{pointer}/timezone",
            ) from error

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The ticks after `instant`, without end."""
        tz = zones.zone(self.timezone)
        start = zones.shown(tz, instant) - _FARTHEST_BACK
        ticks = _named if not self.expression.split()[1].startswith("*") else _shown
        last = instant
        for tick in ticks(tz, CronSim(self.expression, start)):
            if tick > last:
                yield tick
                last = tick

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The ticks after `start`, up to and including `end`."""
        return takewhile(lambda tick: tick <= end, self.after(start))

    def latest(self, start: datetime, end: datetime) -> datetime | None:
        """The last tick of `between`, found without walking through all of them."""
        for back in (*_LOOK_BACK, end - start):
            ticks = deque(self.between(max(start, end - back), end), maxlen=1)
            if ticks:
                return ticks[0]
        return None

    def due(self, last: datetime, now: datetime, missed: Missed, grace: timedelta) -> Due:
        """What to do at `now`, when everything up to and including `last` has been dealt with.

        The newest tick stands for all that were missed. `once`: it is acted on however late; `skip`: only within
        `grace`, the delay of a scheduler that is running.
        """
        newest = self.latest(last, now)
        act = newest is not None and (missed is Missed.ONCE or now - newest <= grace)
        passed = sum(1 for _ in islice(self.between(last, now), MAX_MISSED + act))
        return Due(newest if act else None, passed - act, next(self.after(now)))


def check(expression: str) -> str:
    """The expression, with single spaces. Raises ValueError for what is none, or never comes."""
    if len(expression) > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT} characters")
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields instead of five")
    try:
        next(CronSim(" ".join(fields), datetime(2000, 1, 1)))  # noqa: DTZ001 - readings have no zone
    except CronSimError as error:
        raise ValueError(str(error).replace("Bad", "something is wrong in the field", 1)) from error
    except StopIteration:
        raise ValueError("it names a day that never comes") from None
    return " ".join(fields)


def _named(tz: ZoneInfo, readings: Iterator[datetime]) -> Iterator[datetime]:
    """Each reading once; those the clock passes over are all the jump."""
    return (zones.reached(tz, reading) for reading in readings)


def _shown(tz: ZoneInfo, readings: Iterator[datetime]) -> Iterator[datetime]:
    """Every instant at which the clock shows one of the readings, in order."""
    again: deque[datetime] = deque()
    for reading in readings:
        first, second = (reading.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1))
        if second < first:
            continue  # never shown
        while again and again[0] <= first:
            yield again.popleft()
        yield first
        if second > first:
            again.append(second)
    yield from again
