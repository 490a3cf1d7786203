"""Run windows: what their text means, and that no change of the clock opens or closes one at the wrong instant."""

# ruff: noqa: DTZ001 - UTC is added where the instants are made
from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common import zones
from common.errors import NightshiftError
from common.windows import Window, Windows

ZONES = ("Europe/Madrid", "America/Santiago", "Australia/Lord_Howe", "America/New_York", "UTC")
DAY = timedelta(days=1)
JUMPS = (
    datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1),  # Madrid
    datetime(2026, 4, 5, 3), datetime(2026, 9, 6, 4),  # Santiago
    datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15, 30),  # Lord Howe
    datetime(2026, 3, 8, 7), datetime(2026, 11, 1, 6),  # New York
)  # fmt: skip

times = st.builds(time, st.integers(0, 23), st.sampled_from((0, 15, 30, 45)))
some_days = st.lists(st.integers(0, 6), min_size=1, max_size=7)
window = st.builds(Window, days=some_days, opens=times, closes=times, timezone=st.sampled_from(ZONES))
windows = st.builds(Windows, st.lists(window, min_size=1, max_size=4))
instants = st.one_of(
    st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
    st.builds(
        lambda jump, minutes: jump.replace(tzinfo=UTC) + timedelta(minutes=minutes),
        st.sampled_from(JUMPS),
        st.integers(-1600, 1600),
    ),
)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type, misc]


def at(zone: str, *fields: int, fold: int = 0) -> datetime:
    return datetime(*fields, fold=fold, tzinfo=zones.zone(zone)).astimezone(UTC)  # type: ignore[arg-type, misc]


def is_open(one: Window, instant: datetime) -> bool:
    """Straight from the definition: some day's span has begun, and its end has not come."""
    tz = zones.zone(one.timezone)
    today = zones.shown(tz, instant).date()
    for day in (today - 2 * DAY, today - DAY, today):
        if day.weekday() in one.days:
            last = day + DAY if one.closes <= one.opens else day
            begun = zones.reached(tz, datetime.combine(day, one.opens)) <= instant
            if begun and instant < zones.reached(tz, datetime.combine(last, one.closes)):
                return True
    return False


# --- Whatever the windows ----------------------------------------------------------------------------------------


@given(windows=windows, instant=instants)
def test_open_is_what_the_definition_says_of_any_of_them(windows: Windows, instant: datetime) -> None:
    assert windows.is_open(instant) == any(is_open(one, instant) for one in windows.root)


@given(windows=windows, instant=instants)
def test_nothing_changes_before_the_next_change_and_then_it_does(windows: Windows, instant: datetime) -> None:
    change = windows.next_change(instant)
    now = windows.is_open(instant)
    if change is None:
        assert all(windows.is_open(instant + i * timedelta(minutes=15)) for i in range(7 * 96))
        return
    assert change > instant and change.tzinfo is UTC
    assert windows.is_open(change) is not now
    step = (change - instant) / 50
    assert all(windows.is_open(instant + i * step) is now for i in range(50))
    assert windows.is_open(change - timedelta(microseconds=1)) is now


@given(windows=windows, start=instants, hours=st.integers(1, 24 * 10), probe=st.floats(0, 1, exclude_max=True))
def test_intervals_are_disjoint_in_order_and_hold_exactly_what_is_open(
    windows: Windows, start: datetime, hours: int, probe: float
) -> None:
    end = start + timedelta(hours=hours)
    intervals = list(windows.intervals(start, end))
    assert all(start <= opens < closes <= end for opens, closes in intervals)
    assert all(before.closes < after.opens for before, after in pairwise(intervals))
    instant = start + probe * (end - start)
    assert any(opens <= instant < closes for opens, closes in intervals) == windows.is_open(instant)


@given(windows=windows, start=instants, first=st.integers(0, 300), second=st.integers(0, 300))
def test_open_seconds_add_up(windows: Windows, start: datetime, first: int, second: int) -> None:
    middle = start + timedelta(hours=first)
    end = middle + timedelta(hours=second)
    whole = windows.open_seconds(start, end)
    assert whole == pytest.approx(windows.open_seconds(start, middle) + windows.open_seconds(middle, end))
    assert 0 <= whole <= (end - start).total_seconds()


@given(windows=windows, start=instants, seconds=st.integers(1, 60 * 24 * 3600))
def test_after_is_the_first_instant_with_so_many_open_seconds(windows: Windows, start: datetime, seconds: int) -> None:
    end = windows.after(start, seconds)
    assert end is not None
    assert windows.open_seconds(start, end) == pytest.approx(seconds)
    just_before = end - timedelta(milliseconds=1)
    assert windows.open_seconds(start, just_before) < seconds and windows.is_open(just_before)


@given(windows=windows, instant=instants)
def test_the_next_opening_is_open_and_nothing_before_it(windows: Windows, instant: datetime) -> None:
    opening = windows.next_opening(instant)
    assert windows.is_open(opening)
    assert windows.open_seconds(instant, opening) == 0


@given(windows=windows, instant=instants)
def test_text_and_json_say_the_same(windows: Windows, instant: datetime) -> None:
    assert Windows.parse(str(windows)) == windows
    assert Windows.model_validate(windows.model_dump(mode="json")) == windows
    assert Windows.model_validate([one.model_dump(mode="json") for one in windows.root]) == windows


# --- Changes of the clock, worked out by hand --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "opens", "closes", "hours"),
    [
        # Madrid: 2:00 becomes 3:00 on 29 March, 3:00 becomes 2:00 on 25 October 2026
        ("22:00-06:00 Europe/Madrid", utc(2026, 3, 28, 21), utc(2026, 3, 29, 4), 7),
        ("22:00-06:00 Europe/Madrid", utc(2026, 10, 24, 20), utc(2026, 10, 25, 5), 9),
        ("22:00-02:30 Europe/Madrid", utc(2026, 3, 28, 21), utc(2026, 3, 29, 1), 4),  # ends at the jump
        ("02:30-04:00 Europe/Madrid", utc(2026, 3, 29, 1), utc(2026, 3, 29, 2), 1),  # opens at the jump
        ("22:00-02:30 Europe/Madrid", utc(2026, 10, 24, 20), utc(2026, 10, 25, 0, 30), 4.5),  # ends the first time
        ("02:30-04:00 Europe/Madrid", utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 3), 2.5),  # opens the first time
        ("02:15-02:45 Europe/Madrid", utc(2026, 10, 25, 0, 15), utc(2026, 10, 25, 0, 45), 0.5),  # once
        # Santiago: midnight becomes 1:00 on 6 September, midnight becomes 23:00 on 4 April 2026
        ("22:00-06:00 America/Santiago", utc(2026, 9, 6, 2), utc(2026, 9, 6, 9), 7),
        ("22:00-06:00 America/Santiago", utc(2026, 4, 5, 1), utc(2026, 4, 5, 10), 9),
        ("22:00-24:00 America/Santiago", utc(2026, 9, 6, 2), utc(2026, 9, 6, 4), 2),
        ("00:30-03:00 America/Santiago", utc(2026, 9, 6, 4), utc(2026, 9, 6, 6), 2),
        ("22:00-23:30 America/Santiago", utc(2026, 4, 5, 1), utc(2026, 4, 5, 2, 30), 1.5),
        # Lord Howe: 2:00 becomes 2:30 on 4 October, 2:00 becomes 1:30 on 5 April 2026
        ("22:00-06:00 Australia/Lord_Howe", utc(2026, 10, 3, 11, 30), utc(2026, 10, 3, 19), 7.5),
        ("22:00-06:00 Australia/Lord_Howe", utc(2026, 4, 4, 11), utc(2026, 4, 4, 19, 30), 8.5),
        ("01:00-02:15 Australia/Lord_Howe", utc(2026, 10, 3, 14, 30), utc(2026, 10, 3, 15, 30), 1),
        ("01:45-03:00 Australia/Lord_Howe", utc(2026, 4, 4, 14, 45), utc(2026, 4, 4, 16, 30), 1.75),
    ],
)
def test_nights_on_which_the_clock_changes(text: str, opens: datetime, closes: datetime, hours: float) -> None:
    windows = Windows.parse(text)
    assert windows.next_change(opens - timedelta(minutes=1)) == opens
    assert windows.next_change(opens) == closes
    assert windows.open_seconds(opens - timedelta(hours=1), closes + timedelta(hours=1)) == hours * 3600


def test_a_span_in_the_hour_that_is_left_out_does_not_open_that_night() -> None:
    windows = Windows.parse("02:15-02:45 Europe/Madrid")
    assert windows.open_seconds(utc(2026, 3, 29), utc(2026, 3, 30)) == 0
    assert windows.next_opening(utc(2026, 3, 29)) == utc(2026, 3, 30, 0, 15)


def test_a_day_that_never_was() -> None:
    """Samoa went from 29 to 31 December 2011: what opened on the 30th opens with the 31st, or not at all."""
    fridays = Windows.parse("fri 08:00-12:00 Pacific/Apia")
    assert fridays.next_opening(utc(2011, 12, 24)) == at("Pacific/Apia", 2012, 1, 6, 8)
    nights = Windows.parse("fri 22:00-06:00 Pacific/Apia")
    opens, closes = next(nights.intervals(utc(2011, 12, 29), utc(2012, 1, 3)))
    assert (opens, closes) == (at("Pacific/Apia", 2011, 12, 31, 0), at("Pacific/Apia", 2011, 12, 31, 6))


# --- What the text means -----------------------------------------------------------------------------------------


def test_a_weekday_is_the_day_a_span_opens_on() -> None:
    windows = Windows.parse("fri 22:00-06:00 Europe/Madrid")
    assert windows.is_open(at("Europe/Madrid", 2026, 7, 4, 5, 59))  # a Saturday
    assert not windows.is_open(at("Europe/Madrid", 2026, 7, 3, 5, 59))
    assert not windows.is_open(at("Europe/Madrid", 2026, 7, 4, 6))


def test_equal_ends_are_a_whole_day_and_days_in_a_row_have_no_seam() -> None:
    one = Windows.parse("mon 09:00-09:00 Europe/Madrid")
    opens, closes = next(one.intervals(utc(2026, 7, 1), utc(2026, 7, 9)))
    assert closes - opens == DAY
    assert next(Windows.parse("sun 00:00-24:00 Europe/Madrid").intervals(utc(2026, 10, 24), utc(2026, 10, 27)))[1:] == (
        utc(2026, 10, 25, 23),
    )
    always = Windows.parse("00:00-24:00 Europe/Madrid")
    assert always.next_change(utc(2026, 7, 1)) is None
    assert list(always.intervals(utc(2026, 1, 1), utc(2026, 12, 31))) == [(utc(2026, 1, 1), utc(2026, 12, 31))]


def test_several_windows_are_open_when_any_of_them_is() -> None:
    windows = Windows.parse("mon-fri 22:00-06:00, 13:00-14:00 Europe/Madrid; sat,sun 00:00-24:00 Europe/Madrid")
    # From Friday at ten in the evening to Monday at midnight, without a seam.
    opens, closes = at("Europe/Madrid", 2026, 7, 3, 22), at("Europe/Madrid", 2026, 7, 6, 0)
    assert windows.next_change(opens) == closes
    assert windows.next_change(closes) == at("Europe/Madrid", 2026, 7, 6, 13)


def test_one_zone_can_stand_for_all_rules() -> None:
    end = Windows.parse("mon-fri 22:00-06:00; sat-sun 00:00-24:00 Europe/Madrid")
    beginning = Windows.parse("mon-fri 22:00-06:00 Europe/Madrid; sat-sun 00:00-24:00")
    assert end == beginning
    assert {one.timezone for one in end.root} == {"Europe/Madrid"}
    two = Windows.parse("22:00-23:00 Asia/Tokyo; 01:00-02:00; 03:00-04:00 UTC")
    assert [one.timezone for one in two.root] == ["Asia/Tokyo", "UTC", "UTC"]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("22:00-06:00 europe/madrid", "22:00-06:00 Europe/Madrid"),
        ("  Monday - Friday 6:00 – 7:30 UTC ", "mon-fri 06:00-07:30 UTC"),
        ("fri-mon 22:00-24:00 UTC", "mon,fri-sun 22:00-24:00 UTC"),
        ("sun,mon,tue 00:00-00:00 UTC", "mon-tue,sun 00:00-24:00 UTC"),
        ("mon-sun 22:00-06:00 UTC", "22:00-06:00 UTC"),
    ],
)
def test_spellings(text: str, canonical: str) -> None:
    assert str(Windows.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("22:00-06:00", "no time zone"),
        ("22:00-06:00 Madrid", "Europe/Madrid"),
        ("22:00 Europe/Madrid", "'22:00'"),
        ("24:30-06:00 UTC", "24:30"),
        ("22:00-25:00 UTC", "25:00"),
        ("22:60-06:00 UTC", "22:60"),
        ("funday 22:00-06:00 UTC", "funday"),
        ("mon-wed-fri 22:00-06:00 UTC", "mon-wed-fri"),
        ("22:00-06:00,, UTC", "''"),
        ("22:00-06:00 UTC;", "empty"),
        ("every night", "HH:MM"),
        ("22:00-06:00 UTC;" * 200, "more than 2000"),
        ("; ".join(["22:00-23:00"] * 65) + " UTC", "64"),
        ("٢٢:٠٠-٠٦:٠٠ UTC", "HH:MM"),
        ("mon" + " " * 1900 + "x", "HH:MM"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, part: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        Windows.parse(text, "/window")
    assert caught.value.code == "invalid_window"
    assert part in caught.value.detail and "Europe/Madrid" in caught.value.hint
    assert caught.value.pointer == "/window"


@given(text=st.text(alphabet="mon-fri 0123456789:;,–UTC/Europe\n\0", max_size=60))
def test_any_text_is_windows_or_an_error(text: str) -> None:
    try:
        windows = Windows.parse(text)
    except NightshiftError as error:
        assert error.code == "invalid_window"
    else:
        assert Windows.parse(str(windows)) == windows


@pytest.mark.parametrize(
    ("value", "loc"),
    [
        ({"opens": "22:00", "timezone": "UTC"}, (0, "closes")),
        ({"opens": "22:00", "closes": "06:00", "timezone": "Mars/Olympus"}, (0, "timezone")),
        ({"opens": "22:00", "closes": "06:00", "timezone": "UTC", "days": []}, (0, "days")),
        ({"opens": "22:00", "closes": "06:00", "timezone": "UTC", "days": [7]}, (0, "days")),
        ({"opens": "22:00", "closes": "06:00", "timezone": "UTC", "days": [None]}, (0, "days")),
        ({"opens": "22:00", "closes": "06:00", "timezone": "UTC", "day": ["mon"]}, (0, "day")),
        ([], ()),
        (22, ()),
    ],
)
def test_objects_that_are_wrong_are_refused_at_their_place(value: Any, loc: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Windows).validate_python(value)
    assert caught.value.errors()[0]["loc"] == loc


def test_an_object_says_the_same_as_text() -> None:
    value = {"days": ["mon", "sat-sun"], "opens": "22:00", "closes": "06:00", "timezone": "Europe/Madrid"}
    assert Windows.model_validate(value) == Windows.parse("mon,sat,sun 22:00-06:00 Europe/Madrid")
    assert Windows.model_validate(value).root[0].on(date(2026, 7, 7)) is None


def test_the_schema_shows_text_and_objects_in_and_text_out() -> None:
    adapter = TypeAdapter(Windows)
    given = adapter.json_schema(mode="validation")
    assert [option.get("type") for option in given["anyOf"]] == ["string", None, "array"]
    assert adapter.json_schema(mode="serialization")["type"] == "string"
    assert adapter.dump_json(Windows.parse("22:00-06:00 UTC")) == b'"22:00-06:00 UTC"'


def test_what_is_not_reached_within_the_horizon_has_no_end() -> None:
    windows = Windows.parse("sun 02:00-02:15 UTC")
    assert windows.after(utc(2026, 1, 1), 53 * 900, timedelta(days=365)) is None
    assert windows.after(utc(2026, 1, 1), 52 * 900, timedelta(days=365)) == utc(2026, 12, 27, 2, 15)
