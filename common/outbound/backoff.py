"""When a callback is tried again, and what an answer to it means. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

# Seconds before each try, after Svix: at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h; then 20 h and 24 h more, so
# that a receiver that broke on a Friday evening still gets its message: three days in all.
SCHEDULE = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0, 72000.0, 86400.0)
# The same of a delivery into a bucket: a day. Results wait for it, and the caller can have it tried again.
DELIVERY = (0.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 7200.0, 14400.0, 28800.0, 28800.0)
# Where the bucket refuses: minutes, for whoever is about to grant the access.
REFUSED_DELIVERY = DELIVERY[:4]
JITTER = 0.1
MAX_RETRY_AFTER = 86400.0


class Outcome(StrEnum):
    """delivered: done.  gone: the receiver wants no more, the address is disabled.  retry: try again by schedule."""

    DELIVERED = "delivered"
    GONE = "gone"
    RETRY = "retry"


def judge(status: int | None) -> Outcome:
    """What the HTTP status of a try means; None where there was no answer. A redirect is a failure."""
    if status is not None and 200 <= status < 300:
        return Outcome.DELIVERED
    return Outcome.GONE if status == 410 else Outcome.RETRY


def next_try(
    tries: int,
    retry_after: float | None = None,
    jitter: Callable[[], float] = random.random,
    schedule: Sequence[float] = SCHEDULE,
) -> float | None:
    """Seconds to wait after `tries` tries were made (0: none yet); None when there shall be no further.

    The receiver's Retry-After may lengthen the wait, never shorten it. Up to a tenth is added by chance, so that a
    receiver that was away is not met by everything at once.
    """
    if not 0 <= tries < len(schedule):
        return None
    wait = max(schedule[tries], min(retry_after or 0.0, MAX_RETRY_AFTER))
    return wait * (1 + JITTER * jitter())


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date), at most MAX_RETRY_AFTER; None if unreadable."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max((when - (now or datetime.now(UTC))).total_seconds(), 0.0), MAX_RETRY_AFTER)
