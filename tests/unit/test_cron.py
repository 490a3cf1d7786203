"""Ticks of a schedule: what the calendar says, on days of every length, and what becomes of those that were missed."""

# ruff: noqa: DTZ001 - UTC is added where the instants are made

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import zones
from common.cron import MAX_MISSED, Cron, Missed, check
from common.errors import NightshiftError

ZONES = ("Europe/Madrid", "America/Santiago", "Australia/Lord_Howe", "UTC")
JUMPS = [
    *(("Europe/Madrid", jump) for jump in (datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1))),
    *(("America/Santiago", jump) for jump in (datetime(2026, 4, 5, 3), datetime(2026, 9, 6, 4))),
    *(("Australia/Lord_Howe", jump) for jump in (datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15, 30))),
    ("UTC", datetime(2026, 1, 1)),
]
MINUTE = timedelta(minutes=1)
GRACE = timedelta(minutes=2)

minutes = st.lists(st.sampled_from((0, 10, 15, 30, 45, 59)), min_size=1, max_size=3, unique=True)
hours = st.lists(st.integers(0, 23), min_size=1, max_size=4, unique=True)
# A zone, and an instant about a change of its clock.
places = st.builds(
    lambda jump, offset: (jump[0], jump[1].replace(tzinfo=UTC) + timedelta(minutes=offset)),
    st.sampled_from(JUMPS),
    st.integers(-300, 300),
)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type, misc]


def listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


# --- Changes of the clock ----------------------------------------------------------------------------------------


@given(place=places, minutes=minutes, hours=hours)
def test_named_hours_tick_once_for_each_reading(
    place: tuple[str, datetime], minutes: list[int], hours: list[int]
) -> None:
    zone, start = place
    tz = zones.zone(zone)
    end = start + timedelta(hours=30)
    midnight = zones.shown(tz, start).replace(hour=0, minute=0) - timedelta(days=1)
    readings = [midnight + i * MINUTE for i in range(4 * 1440)]
    wanted = {zones.reached(tz, one) for one in readings if one.minute in minutes and one.hour in hours}
    ticks = list(Cron(f"{listed(minutes)} {listed(hours)} * * *", zone).between(start, end))
    assert ticks == sorted(tick for tick in wanted if start < tick <= end)


@given(place=places, minutes=minutes, step=st.sampled_from((1, 2, 3)))
def test_starred_hours_tick_whenever_the_clock_shows_it(
    place: tuple[str, datetime], minutes: list[int], step: int
) -> None:
    zone, start = place
    tz = zones.zone(zone)
    end = start + timedelta(hours=12)
    wanted = []
    for i in range(1, 12 * 60 + 1):
        shown = zones.shown(tz, start + i * MINUTE)
        if shown.minute in minutes and shown.hour % step == 0:
            wanted.append(start + i * MINUTE)
    assert list(Cron(f"{listed(minutes)} */{step} * * *", zone).between(start, end)) == wanted


@pytest.mark.parametrize(
    ("expression", "zone", "start", "ticks"),
    [
        # Left out: at the jump, once, and no more often than the expression says
        ("30 2 * * *", "Europe/Madrid", utc(2026, 3, 28, 2), [utc(2026, 3, 29, 1), utc(2026, 3, 30, 0, 30)]),
        ("15,45 2 * * *", "Europe/Madrid", utc(2026, 3, 29), [utc(2026, 3, 29, 1), utc(2026, 3, 30, 0, 15)]),
        ("*/20 2 * * *", "Europe/Madrid", utc(2026, 3, 29), [utc(2026, 3, 29, 1), utc(2026, 3, 30)]),
        ("0 0 * * *", "America/Santiago", utc(2026, 9, 5, 12), [utc(2026, 9, 6, 4), utc(2026, 9, 7, 3)]),
        ("15 2 * * *", "Australia/Lord_Howe", utc(2026, 10, 3), [utc(2026, 10, 3, 15, 30), utc(2026, 10, 4, 15, 15)]),
        ("*/10 3 * * *", "Australia/Lord_Howe", utc(2026, 10, 3), [utc(2026, 10, 3, 16), utc(2026, 10, 3, 16, 10)]),
        # Twice: the first time only
        ("30 2 * * *", "Europe/Madrid", utc(2026, 10, 24, 12), [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]),
        ("30 23 * * *", "America/Santiago", utc(2026, 4, 4, 12), [utc(2026, 4, 5, 2, 30), utc(2026, 4, 6, 3, 30)]),
        ("45 1 * * *", "Australia/Lord_Howe", utc(2026, 4, 4, 12), [utc(2026, 4, 4, 14, 45), utc(2026, 4, 5, 15, 15)]),
        # Asked inside the second of two hours, nothing that is past comes back
        ("30 2 * * *", "Europe/Madrid", utc(2026, 10, 25, 1, 10), [utc(2026, 10, 26, 1, 30)]),
        # Every hour means every hour, in the autumn too
        ("0 * * * *", "Europe/Madrid", utc(2026, 10, 24, 23), [utc(2026, 10, 25, h) for h in range(4)]),
        ("0 * * * *", "Europe/Madrid", utc(2026, 3, 28, 23), [utc(2026, 3, 29, h) for h in range(4)]),
        ("0 */2 * * *", "Europe/Madrid", utc(2026, 3, 28, 23), [utc(2026, 3, 29, 2), utc(2026, 3, 29, 4)]),
        ("*/30 * * * *", "Australia/Lord_Howe", utc(2026, 4, 4, 14), [utc(2026, 4, 4, 14, 30), utc(2026, 4, 4, 15)]),
    ],
)  # fmt: skip
def test_days_on_which_the_clock_changes(expression: str, zone: str, start: datetime, ticks: list[datetime]) -> None:
    assert list(islice(Cron.parse(expression, zone).after(start), len(ticks))) == ticks


# --- The calendar ------------------------------------------------------------------------------------------------


@given(place=places, split=st.integers(0, 72 * 60), minute=st.integers(0, 59))
def test_no_tick_is_lost_or_doubled_where_two_looks_meet(place: tuple[str, datetime], split: int, minute: int) -> None:
    zone, start = place
    cron = Cron(f"{minute} */2 * * *", zone)
    middle, end = start + split * MINUTE, start + timedelta(hours=72)
    whole = list(cron.between(start, end))
    assert [*cron.between(start, middle), *cron.between(middle, end)] == whole
    assert all(one < other for one, other in pairwise(whole))
    assert cron.latest(start, end) == (whole[-1] if whole else None)


def test_weekdays_months_and_the_last_day() -> None:
    start = utc(2026, 1, 1)
    assert next(Cron.parse("0 22 * * fri", "UTC").after(start)) == utc(2026, 1, 2, 22)
    assert next(Cron.parse("0 22 L * *", "UTC").after(start)) == utc(2026, 1, 31, 22)
    assert next(Cron.parse("0 22 * * mon#1", "UTC").after(start)) == utc(2026, 1, 5, 22)
    assert next(Cron.parse("0 0 29 2 *", "UTC").after(start)) == utc(2028, 2, 29)


def test_ticks_are_after_the_instant_and_not_at_it() -> None:
    cron = Cron.parse("0 22 * * *", "UTC")
    assert next(cron.after(utc(2026, 1, 1, 22))) == utc(2026, 1, 2, 22)
    assert next(cron.after(utc(2026, 1, 1, 22) - timedelta(microseconds=1))) == utc(2026, 1, 1, 22)
    assert list(cron.between(utc(2026, 1, 1), utc(2026, 1, 1, 22))) == [utc(2026, 1, 1, 22)]


def test_the_newest_of_very_many_is_found_at_once() -> None:
    """Ten years of minutes: walking through them all would take half a minute."""
    cron = Cron.parse("* * * * *", "Europe/Madrid")
    assert cron.latest(utc(2016, 1, 1), utc(2026, 1, 1)) == utc(2026, 1, 1)
    due = cron.due(utc(2016, 1, 1), utc(2026, 1, 1), Missed.ONCE, GRACE)
    assert (due.tick, due.missed, due.next) == (utc(2026, 1, 1), MAX_MISSED, utc(2026, 1, 1, 0, 1))


# --- Missed ticks ------------------------------------------------------------------------------------------------

NIGHTLY = Cron("0 22 * * *", "UTC")


@pytest.mark.parametrize("missed", Missed)
def test_a_tick_within_the_grace_is_acted_on_whatever_the_policy(missed: Missed) -> None:
    due = NIGHTLY.due(utc(2026, 1, 1, 22), utc(2026, 1, 2, 22, 1), missed, GRACE)
    assert (due.tick, due.missed, due.next) == (utc(2026, 1, 2, 22), 0, utc(2026, 1, 3, 22))


def test_the_grace_is_the_delay_that_a_skipped_tick_may_have() -> None:
    last, tick = utc(2026, 1, 1, 22), utc(2026, 1, 2, 22)
    assert NIGHTLY.due(last, tick + GRACE, Missed.SKIP, GRACE).tick == tick
    late = NIGHTLY.due(last, tick + GRACE + timedelta(seconds=1), Missed.SKIP, GRACE)
    assert (late.tick, late.missed) == (None, 1)


@pytest.mark.parametrize("missed", Missed)
def test_nothing_is_due_between_ticks(missed: Missed) -> None:
    due = NIGHTLY.due(utc(2026, 1, 1, 22), utc(2026, 1, 2, 21, 59), missed, GRACE)
    assert (due.tick, due.missed, due.next) == (None, 0, utc(2026, 1, 2, 22))


def test_after_three_nights_off_once_catches_up_with_the_newest_and_skip_waits() -> None:
    last, now = utc(2026, 1, 1, 22), utc(2026, 1, 5, 9)
    once = NIGHTLY.due(last, now, Missed.ONCE, GRACE)
    assert (once.tick, once.missed, once.next) == (utc(2026, 1, 4, 22), 2, utc(2026, 1, 5, 22))
    skip = NIGHTLY.due(last, now, Missed.SKIP, GRACE)
    assert (skip.tick, skip.missed, skip.next) == (None, 3, utc(2026, 1, 5, 22))


@given(
    looks=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    missed=st.sampled_from(Missed),
    zone=st.sampled_from(ZONES),
)
def test_each_tick_is_acted_on_at_most_once_and_all_are_accounted_for(
    looks: list[int], missed: Missed, zone: str
) -> None:
    cron = Cron("0,30 1,2,22 * * *", zone)
    start = last = now = utc(2026, 3, 27)
    acted: list[datetime] = []
    passed = 0
    for look in looks:
        now += look * MINUTE
        due = cron.due(last, now, missed, GRACE)
        if due.tick is not None:
            assert missed is Missed.ONCE or now - due.tick <= GRACE
            acted.append(due.tick)
        passed += due.missed
        assert due.next > now
        last = now
    assert acted == sorted(set(acted))
    assert len(acted) + passed == len(list(cron.between(start, now)))


# --- What cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("", "0 fields"),
        ("0 22 * *", "4 fields"),
        ("0 0 22 * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("60 22 * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 22 32 * *", "day-of-month"),
        ("0 22 * 13 *", "month"),
        ("0 22 * * funday", "day-of-week"),
        ("0 22 30 2 *", "day-of-month"),
        ("0 22 * * mon#6", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("٥ * * * *", "minute"),
        ("0 22 * * " + "1," * 100 + "1", "200 characters"),
    ],
)
def test_expressions_that_are_none(expression: str, part: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        Cron.parse(expression, "UTC", "/schedule")
    assert (caught.value.code, caught.value.pointer) == ("invalid_schedule", "/schedule/cron")
    assert part in caught.value.detail and caught.value.hint


def test_a_zone_that_is_none() -> None:
    with pytest.raises(NightshiftError) as caught:
        Cron.parse("0 22 * * *", "Madrid")
    assert (caught.value.code, caught.value.pointer) == ("invalid_schedule", "/timezone")
    assert "Europe/Madrid" in caught.value.detail


def test_names_and_spaces_are_normalised() -> None:
    assert Cron.parse("  0  22 * *  mon-fri ", "europe/madrid") == Cron("0 22 * * mon-fri", "Europe/Madrid")


@given(text=st.text(alphabet="0123456789*/-,#L monFEB\n", max_size=40))
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    try:
        expression = check(text)
    except ValueError as error:
        assert str(error)
    else:
        assert next(Cron(expression, "UTC").after(utc(2026, 1, 1))) > utc(2026, 1, 1)
