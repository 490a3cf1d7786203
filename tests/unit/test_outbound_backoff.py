from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.outbound.backoff import JITTER, MAX_RETRY_AFTER, SCHEDULE, Outcome, judge, next_try, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_schedule_begins_as_svixs_and_lasts_three_days() -> None:
    waits = [next_try(tries, jitter=lambda: 0.0) for tries in range(11)]
    assert waits[:8] == [0, 5, 300, 1800, 7200, 18000, 36000, 36000]
    assert waits[10] is None
    assert 2.5 * 86400 < sum(waits[:10]) < 3.5 * 86400


@given(
    tries=st.integers(0, len(SCHEDULE) - 1),
    asked=st.none() | st.floats(0, 1e12),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_retry_after_lengthens_and_jitter_stays_small(tries: int, asked: float | None, chance: float) -> None:
    wait = next_try(tries, asked, lambda: chance)
    least = max(SCHEDULE[tries], min(asked or 0, MAX_RETRY_AFTER))
    assert wait is not None and least <= wait <= least * (1 + JITTER)


def test_tries_do_not_come_together() -> None:
    assert len({next_try(2) for _ in range(50)}) > 40


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_delivered(status: int) -> None:
    assert judge(status) is Outcome.DELIVERED


def test_gone() -> None:
    assert judge(410) is Outcome.GONE


@pytest.mark.parametrize("status", [None, 101, 199, 301, 302, 307, 308, 304, 400, 404, 409, 429, 500, 502, 503, 504])
def test_retry(status: int | None) -> None:
    assert judge(status) is Outcome.RETRY


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("999999999", MAX_RETRY_AFTER),
        ("9" * 5000, MAX_RETRY_AFTER),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), MAX_RETRY_AFTER),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_retry_after_takes_any_text(text: str) -> None:
    seconds = retry_after(text, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER
