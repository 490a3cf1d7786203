"""What a clock on the wall shows: readings that come once, twice or never, and a whole day that never was."""

# ruff: noqa: DTZ001 - what a clock shows has no zone
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import zones

# A change that skips midnight, half-hour changes, the southern hemisphere, a country that left out a day, none at all.
NAMES = (
    "Europe/Madrid", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu",
    "Africa/Casablanca", "UTC",
)  # fmt: skip
readings = st.datetimes(datetime(2009, 1, 1), datetime(2031, 1, 1))
# Days with a change of the clock in one of them.
near_changes = st.builds(
    lambda day, minutes: day + timedelta(minutes=minutes),
    st.sampled_from(
        [
            *(datetime(2026, 3, 29), datetime(2026, 10, 25), datetime(2026, 3, 8), datetime(2026, 11, 1)),
            *(datetime(2026, 4, 4), datetime(2026, 4, 5), datetime(2026, 9, 6), datetime(2026, 10, 4)),
            *(datetime(2011, 12, 30), datetime(2026, 2, 15), datetime(2026, 3, 22)),
        ]
    ),
    st.integers(-60, 26 * 60),
)


@given(name=st.sampled_from(NAMES), reading=near_changes)
def test_a_reading_is_the_first_minute_that_has_reached_it(name: str, reading: datetime) -> None:
    tz = zones.zone(name)
    minute = reading.replace(tzinfo=UTC) - timedelta(hours=40)
    while zones.shown(tz, minute) < reading:
        minute += timedelta(minutes=1)
    assert zones.reached(tz, reading) == minute


@given(name=st.sampled_from(NAMES), reading=st.one_of(readings, near_changes))
def test_just_before_it_the_clock_had_not_got_there(name: str, reading: datetime) -> None:
    tz = zones.zone(name)
    instant = zones.reached(tz, reading)
    assert zones.shown(tz, instant) >= reading
    assert zones.shown(tz, instant - timedelta(microseconds=1)) < reading


@given(name=st.sampled_from(NAMES), first=near_changes, second=near_changes)
def test_readings_in_order_are_instants_in_order(name: str, first: datetime, second: datetime) -> None:
    tz = zones.zone(name)
    first, second = sorted((first, second))
    assert zones.reached(tz, first) <= zones.reached(tz, second)


@pytest.mark.parametrize(
    ("name", "reading", "instant"),
    [
        ("Europe/Madrid", datetime(2026, 7, 1, 12, 0), datetime(2026, 7, 1, 10, 0)),
        ("Europe/Madrid", datetime(2026, 3, 29, 2, 30), datetime(2026, 3, 29, 1, 0)),  # left out: the jump
        ("Europe/Madrid", datetime(2026, 10, 25, 2, 30), datetime(2026, 10, 25, 0, 30)),  # the first of two
        ("America/Santiago", datetime(2026, 9, 6, 0, 0), datetime(2026, 9, 6, 4, 0)),  # a day that begins at one
        ("Australia/Lord_Howe", datetime(2026, 10, 4, 2, 15), datetime(2026, 10, 3, 15, 30)),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, 1, 45), datetime(2026, 4, 4, 14, 45)),
        ("Pacific/Apia", datetime(2011, 12, 30, 9, 0), datetime(2011, 12, 30, 10, 0)),  # a day that never was
    ],
)
def test_readings_worked_out_by_hand(name: str, reading: datetime, instant: datetime) -> None:
    assert zones.reached(zones.zone(name), reading) == instant.replace(tzinfo=UTC)


def test_names_are_those_of_the_database_however_they_are_spelt() -> None:
    assert zones.canonical("europe/madrid") == "Europe/Madrid"
    assert zones.canonical("UTC") == "UTC"


@pytest.mark.parametrize("name", ["", "Factory", "localtime", "../etc/passwd", "/etc/localtime", "Europe", "CEST\0"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a time zone"):
        zones.zone(name)


@pytest.mark.parametrize(
    ("name", "meant"), [("Madrid", "Europe/Madrid"), ("new york", "America/New_York"), ("Europe/Madird", "Madrid")]
)
def test_a_name_that_is_almost_right_is_answered_with_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=meant):
        zones.canonical(name)
