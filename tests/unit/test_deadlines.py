"""When a deadline's risk is worth a word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.forecast import Risk
from common.jobs.deadlines import CALM_SECONDS, is_news

NOON = datetime(2030, 5, 6, 12, 0, tzinfo=UTC)
ORDER = [Risk.ON_TIME, Risk.AT_RISK, Risk.LATE]


@given(st.lists(st.tuples(st.floats(1, 900), st.sampled_from(list(Risk))), max_size=200))
def test_a_forecast_that_wavers_is_told_of_at_most_twice_an_hour_for_each_step(
    found: list[tuple[float, Risk]],
) -> None:
    """What is told is true when it is told; nothing bad is kept back; and what gets better waits its time."""
    now, told, told_at = NOON, None, None
    better: list[datetime] = []
    for seconds, risk in found:
        now += timedelta(seconds=seconds)
        if not is_news(told, told_at, risk, now):
            assert risk in (Risk.UNKNOWN, told) or (told is not None and ORDER.index(risk) < ORDER.index(told))
            continue
        if told is not None and ORDER.index(risk) < ORDER.index(told):
            assert told_at is not None and now - told_at >= timedelta(seconds=CALM_SECONDS)
            better.append(now)
        told, told_at = risk, now
    assert all((b - a).total_seconds() >= CALM_SECONDS for a, b in pairwise(better))


def test_what_has_been_better_for_long_is_told() -> None:
    after = NOON + timedelta(seconds=CALM_SECONDS)
    assert is_news(Risk.LATE, NOON, Risk.AT_RISK, after)
    assert not is_news(Risk.LATE, NOON, Risk.LATE, after)
    assert not is_news(None, None, Risk.UNKNOWN, after)
    assert is_news(None, None, Risk.ON_TIME, after)
