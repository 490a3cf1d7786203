"""What steers every job of a batch, step by step, each step a transaction of its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from common.db.engine import Database
from common.jobs import steering, transfers
from common.quotas import Quotas


def cancel_all(database: Database, batch_id: str, seconds: float = math.inf) -> int:
    """Cancels what is left of a batch that is being cancelled; how many jobs it was. Those that run end with their
    workers' word. After `seconds` the rest is left to the scheduler."""
    cancelled = after = 0
    ends = time.monotonic() + seconds
    while True:
        # Behind those that are done: PostgreSQL would go through what was left of them each time.
        with database.write() as tx:
            step = steering.cancel_some(tx, batch_id, after=after)
        cancelled += step.done
        if not (step.done or after) or time.monotonic() > ends:
            return cancelled
        after = step.last or 0
        database.give_way()


@dataclass(frozen=True)
class Retries:
    """again: how many jobs run again.  refused: how many cannot, because what they wait for is not there.
    deliveries: of how many jobs the delivery is tried again."""

    again: int
    refused: int
    deliveries: int


def retry_failed(database: Database, batch_id: str, default_quota: Quotas) -> Retries:
    """Runs all jobs of a batch again that failed or expired, and tries deliveries again that failed.

    Raises `state_conflict` and `quota_exceeded`.
    """
    again = refused = deliveries = 0
    after: int | None = 0
    while after is not None:
        with database.write() as tx:
            step = steering.retry_some(tx, batch_id, default_quota=default_quota, after=after)
        again, refused, after = again + step.again, refused + step.refused, step.last
        database.give_way()
    after = 0
    while after is not None:
        with database.write() as tx:
            brought = transfers.retry_some(tx, batch_id, after=after)
        deliveries, after = deliveries + brought.again, brought.last
        database.give_way()
    return Retries(again, refused, deliveries)
