"""Pure: time zones by name, and what a clock on the wall there says. Windows and schedules share this one rule.

Around a change of the clock a reading comes twice, or never. Here a reading always means the first instant at which
the clock has reached it: the first of two, and the jump itself where the clock passes over it. So readings in order
are instants in order, and nothing that hangs on one is lost or happens twice.
"""

from __future__ import annotations

import difflib
import functools
from datetime import UTC, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo


@functools.cache
def _names() -> dict[str, str]:
    # The list of the tzdata package, not of this machine: its folder holds names that mean something else elsewhere.
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    return {name.lower(): name for name in names if name != "Factory"}


def canonical(name: str) -> str:
    """The zone's name as the IANA database spells it. Raises ValueError that names similar ones."""
    known = _names()
    found = known.get(name.lower())
    if found is None:
        place = name.lower().replace(" ", "_")
        near = sorted(low for low in known if low.rsplit("/", 1)[-1] == place)
        near = near or difflib.get_close_matches(place, known, n=3)
        like = f"; similar: {', '.join(known[low] for low in near)}" if near else ", such as Europe/Madrid or UTC"
        raise ValueError(f"{name!r} is not a time zone of the IANA database{like}")
    return found


def zone(name: str) -> ZoneInfo:
    """The zone of that name. Raises ValueError."""
    return ZoneInfo(canonical(name))


def reached(tz: ZoneInfo, reading: datetime) -> datetime:
    """The first instant, in UTC, at which the clock in `tz` shows `reading` (naive) or later."""
    before = reading.replace(tzinfo=tz, fold=0).astimezone(UTC)
    after = reading.replace(tzinfo=tz, fold=1).astimezone(UTC)
    if before <= after:
        return before  # the only one, or the first of two
    # Never shown: the clock jumps between `after` and `before`, on a whole second.
    low, high = after, before
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        low, high = (low, middle) if shown(tz, middle) >= reading else (middle, high)
    return high.replace(microsecond=0)


def shown(tz: ZoneInfo, instant: datetime) -> datetime:
    """What the clock in `tz` shows at an instant, naive."""
    return instant.astimezone(tz).replace(tzinfo=None, fold=0)
