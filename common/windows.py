"""Pure: the hours in which a batch may run.

As text, `mon-fri 22:00-06:00 Europe/Madrid`: weekdays (left out: every day), spans separated by commas, a time zone;
rules are separated by `;`, and one without a zone takes that of the next, or else of the last before it. A weekday is
the day a span opens on. A span that ends where it begins lasts a day; one that ends earlier ends on the next day.

Across a change of the clock a span opens at the first instant at which the clock on the wall has reached its beginning,
and closes at the first at which it has reached its end. `22:00-06:00` is then 7 or 9 hours long; a span that lies in
the hour that is left out does not open; one that ends in the hour that comes twice ends the first time.

Instants are aware datetimes; those given back are in UTC.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from common import zones
from common.errors import NightshiftError

MAX_WINDOWS = 64
MAX_TEXT = 2000
EXAMPLE = "mon-fri 22:00-06:00,13:00-14:00; sat-sun 00:00-24:00 Europe/Madrid"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DAY = timedelta(days=1)
# Longer than any cycle of weekdays with a change of the clock in it.
_HORIZON = timedelta(days=40)
_TIME = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)", re.ASCII)
_SPAN = re.compile(r"(\d{1,2}:\d\d)\s*[-–]\s*(\d{1,2}:\d\d)", re.ASCII)
_RULE = re.compile(
    r"(?P<days>[a-z][a-z\s,–-]*?)??\s*(?P<spans>\d[\d:\s,–-]*)(?P<zone>\s[a-z].*)?", re.ASCII | re.IGNORECASE
)


class Interval(NamedTuple):
    """From `opens`, up to but not including `closes`."""

    opens: datetime
    closes: datetime

    @property
    def seconds(self) -> float:
        return (self.closes - self.opens).total_seconds()


def _time(value: Any) -> Any:
    if isinstance(value, str):
        match = _TIME.fullmatch(value.strip())
        if match is None or (match[1] == "24" and match[2] != "00"):
            raise ValueError(f"{value!r} is not a time of day from 00:00 to 24:00")
        return time(int(match[1]) % 24, int(match[2]))
    return value


TimeOfDay = Annotated[time, BeforeValidator(_time, json_schema_input_type=str)]


class Window(BaseModel):
    """One span of hours, on some weekdays, in one time zone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: tuple[int, ...] = Field(
        tuple(range(7)),
        description="Weekdays it opens on, `mon` to `sun`; left out: every day",
        json_schema_extra={"items": {"enum": list(DAYS), "type": "string"}, "default": list(DAYS)},
    )
    opens: TimeOfDay = Field(description="HH:MM on the wall clock of the zone")
    closes: TimeOfDay = Field(description="HH:MM; not later than `opens`: on the next day")
    timezone: str = Field(max_length=64, description="Name in the IANA database, such as Europe/Madrid")

    @field_validator("days", mode="before")
    @classmethod
    def _known_days(cls, value: Any) -> Any:
        names = value if isinstance(value, list | tuple) else [value]
        found = sorted({day for name in names for day in ([name] if type(name) is int else _days(name))})
        if not found or not all(0 <= day < 7 for day in found):
            raise ValueError("name at least one weekday, mon to sun")
        return tuple(found)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return zones.canonical(value)

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        opens, closes = self.hours()
        return {"days": [DAYS[day] for day in self.days], "opens": opens, "closes": closes, "timezone": self.timezone}

    def hours(self) -> tuple[str, str]:
        """When it opens and closes, HH:MM; midnight as an end is 24:00."""
        return f"{self.opens:%H:%M}", f"{self.closes:%H:%M}" if self.closes != time() else "24:00"

    def on(self, day: date) -> Interval | None:
        """The interval that opens on `day`; None where it is not open that day, or the clock passes over all of it."""
        if day.weekday() not in self.days:
            return None
        tz = zones.zone(self.timezone)
        last = day if self.closes > self.opens else day + _DAY
        opens = zones.reached(tz, datetime.combine(day, self.opens))
        closes = zones.reached(tz, datetime.combine(last, self.closes))
        return Interval(opens, closes) if opens < closes else None

    def since(self, instant: datetime) -> Iterator[Interval]:
        """What has not closed at `instant`, in order, for as long as the calendar lasts."""
        # The day before yesterday too: a zone that moves across the date line leaves a day out.
        day = zones.shown(zones.zone(self.timezone), instant).date() - 2 * _DAY
        while True:
            interval = self.on(day)
            if interval is not None and interval.closes > instant:
                yield interval
            day += _DAY


class Windows(RootModel[tuple[Window, ...]]):
    """Open whenever one of its windows is. As text, as an object, or as a list of objects; kept and shown as text."""

    model_config = ConfigDict(frozen=True)

    root: Annotated[tuple[Window, ...], Field(min_length=1, max_length=MAX_WINDOWS)]

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if handler.mode == "serialization":
            return {"type": "string", "examples": [EXAMPLE]}
        structured = handler(schema)
        window = handler.resolve_ref_schema(structured)["items"]
        return {"anyOf": [{"type": "string", "maxLength": MAX_TEXT, "examples": [EXAMPLE]}, window, structured]}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _rules(value)
        return [value] if isinstance(value, Mapping | Window) else value

    @model_serializer(mode="plain")
    def _as_text(self) -> str:
        return str(self)

    @classmethod
    def parse(cls, text: str, pointer: str | None = None) -> Windows:
        """The windows in `text`. Raises `invalid_window`."""
        try:
            return cls.model_validate(text)
        except ValidationError as error:
            # That the list is then too short only follows.
            found = [item for item in error.errors() if item["type"] != "too_short"]
            why = "; ".join(str(item.get("ctx", {}).get("error") or item["msg"]) for item in found)
            raise NightshiftError(
                "invalid_window",
                f"The window {text[:100]!r} cannot be read: {why}.",
                hint=f"Write weekdays (or none), hours and a time zone: {EXAMPLE}",
                pointer=pointer,
            ) from error

    def __str__(self) -> str:
        rules = []
        for (days, tz), group in groupby(self.root, key=lambda window: (window.days, window.timezone)):
            spans = ",".join("-".join(window.hours()) for window in group)
            rules.append(" ".join(filter(None, (_days_text(days), spans, tz))))
        return "; ".join(rules)

    def intervals(self, start: datetime, end: datetime) -> Iterator[Interval]:
        """When it is open between two instants, in order, cut to them, none touching the next."""
        current: Interval | None = None
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        for opens, closes in heapq.merge(*(window.since(start) for window in self.root)):
            cut = Interval(max(opens, start), min(closes, end))
            if opens >= end:
                break
            if current is None:
                current = cut
            elif opens > current.closes:
                yield current
                current = cut
            elif closes > current.closes:
                current = Interval(current.opens, cut.closes)
            if current.closes >= end:
                break
        if current is not None:
            yield current

    def is_open(self, instant: datetime) -> bool:
        """Whether it is open at `instant`: when it opens yes, when it closes no."""
        return any(next(window.since(instant)).opens <= instant for window in self.root)

    def next_change(self, instant: datetime) -> datetime | None:
        """The first instant after `instant` at which it opens or closes; None where it is always open."""
        start = instant.astimezone(UTC)
        end = start + _HORIZON
        opens, closes = next(self.intervals(start, end))
        if opens > start:
            return opens
        return closes if closes < end else None

    def next_opening(self, instant: datetime) -> datetime:
        """The first instant from `instant` on at which it is open."""
        start = instant.astimezone(UTC)
        return next(self.intervals(start, start + _HORIZON)).opens

    def open_seconds(self, start: datetime, end: datetime) -> float:
        """How many seconds it is open between two instants."""
        return sum(interval.seconds for interval in self.intervals(start, end))

    def after(self, start: datetime, seconds: float, horizon: timedelta = 10 * 365 * _DAY) -> datetime | None:
        """The first instant by which it has been open for `seconds` (> 0) since `start`; None beyond the horizon."""
        begin, last = start.astimezone(UTC), start.astimezone(UTC) + horizon
        while begin < last:
            # By the month, so that what is always open is not joined up for all the years of the horizon.
            end = min(begin + _HORIZON, last)
            for interval in self.intervals(begin, end):
                if interval.seconds >= seconds:
                    return interval.opens + timedelta(seconds=seconds)
                seconds -= interval.seconds
            begin = end
        return None


def _rules(text: str) -> list[dict[str, Any]]:
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT} characters")
    windows: list[dict[str, Any]] = []
    matches = []
    for rule in [part.strip() for part in text.split(";")]:
        match = _RULE.fullmatch(rule)
        if match is None:
            raise ValueError(f"{rule!r} is not of the form [days] HH:MM-HH:MM zone" if rule else "a rule is empty")
        matches.append(match)
    # From the last, for a rule without a zone takes that of the next; the last ones, the last that is named.
    tz = next((match["zone"] for match in reversed(matches) if match["zone"]), None)
    if tz is None:
        raise ValueError("it has no time zone")
    for match in reversed(matches):
        tz = (match["zone"] or tz).strip()
        days = _days(match["days"]) if match["days"] else list(range(7))
        spans = [span.strip() for span in match["spans"].split(",")]
        for span in reversed(spans):
            times = _SPAN.fullmatch(span)
            if times is None:
                raise ValueError(f"{span!r} is not a span such as 22:00-06:00")
            windows.append({"days": days, "opens": times[1], "closes": times[2], "timezone": tz})
    return windows[::-1]


def _days(text: Any) -> list[int]:
    """The weekdays in `mon-fri,sun`; a range may go over the week's end."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a weekday, mon to sun")
    found: list[int] = []
    for part in text.lower().split(","):
        ends = [_day(name.strip()) for name in re.split("[-–]", part)]
        if len(ends) > 2:
            raise ValueError(f"{part.strip()!r} is not a range of weekdays such as mon-fri")
        first, last = ends[0], ends[-1]
        found += [(first + i) % 7 for i in range((last - first) % 7 + 1)]
    return found


def _day(name: str) -> int:
    for number, day in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")):
        if len(name) >= 3 and day.startswith(name):
            return number
    raise ValueError(f"{name!r} is not a weekday, mon to sun")


def _days_text(days: Iterable[int]) -> str:
    """`mon-fri,sun`; nothing for every day."""
    days = list(days)
    if len(days) == 7:
        return ""
    runs = [[day for _, day in run] for _, run in groupby(enumerate(days), key=lambda pair: pair[1] - pair[0])]
    return ",".join(DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs)
