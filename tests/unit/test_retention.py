"""How long things are kept: never shorter than said, and never gone sooner after a warning than promised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.quotas import midnight, next_midnight
from common.retention import Retention
from common.settings import Settings

instants = st.floats(0, 2e9).map(lambda at: datetime.fromtimestamp(at, UTC))
seconds = st.floats(1, 1e7)


@given(instants, instants, seconds, st.just(0.0) | seconds)
def test_nothing_goes_before_its_time_or_soon_after_a_warning(
    ended: datetime, told: datetime, keep: float, warning: float
) -> None:
    retention = Retention(keep, warning)
    due = ended + timedelta(seconds=keep)
    assert retention.expires_at(None) is None
    assert retention.expires_at(ended) == due
    goes = retention.expires_at(ended, told)
    assert goes is not None and goes >= due
    if warning:
        assert goes == max(due, told + timedelta(seconds=warning))


@pytest.mark.parametrize(("days", "warning", "effective"), [(30, 3, 3), (1, 3, 1), (30, 0, 0)])
def test_a_warning_is_never_longer_than_the_keeping(days: float, warning: float, effective: float) -> None:
    found = Settings(retention_days=days, retention_warning_days=warning).retention
    assert (found.seconds, found.warning_seconds) == (days * 86400, effective * 86400)


@given(instants)
def test_every_instant_lies_in_its_day(now: datetime) -> None:
    assert midnight(now) <= now < next_midnight(now)
    assert next_midnight(now) - midnight(now) == timedelta(days=1)
    assert midnight(midnight(now)) == midnight(now)
