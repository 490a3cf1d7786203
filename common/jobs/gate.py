"""Whether the jobs of a batch may start and go on: the one condition that release, claim and a worker's orders read.

`batches.open_until` is the instant at which the batch closes by itself; NULL while it is closed, paused, not ready yet
or over. So a window closes on time although no scheduler runs; to open it again takes one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, ScalarSelect, case, exists, or_, select

from common.db.engine import Tx
from common.db.tables import batches, jobs
from common.states import Reason
from common.windows import Windows

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


class Gate(NamedTuple):
    """open_until: None while closed.  changes_at: when the window opens or closes next; None where it never does."""

    open_until: datetime | None
    changes_at: datetime | None


CLOSED = Gate(None, None)


def at(window: str | None, now: datetime) -> Gate:
    """Where an active batch's gate stands."""
    if window is None:
        return Gate(FOREVER, None)
    windows = Windows.parse(window)
    change = windows.next_change(now)
    return Gate(change or FOREVER, change) if windows.is_open(now) else Gate(None, change)


def is_open(tx: Tx) -> ColumnElement[bool]:
    """Of a row of `batches`."""
    return batches.c.open_until > tx.now()


def may_run(tx: Tx) -> ColumnElement[bool]:
    """Of a row of `jobs`: it is of no batch, or of one that is open."""
    return or_(jobs.c.batch_id.is_(None), exists().where(batches.c.id == jobs.c.batch_id, is_open(tx)))


def why_closed() -> ScalarSelect[str]:
    """Of a row of `jobs` whose batch is not open."""
    paused = case((batches.c.state == "active", Reason.WINDOW_CLOSED), else_=Reason.PAUSED)
    return select(paused).where(batches.c.id == jobs.c.batch_id).correlate(jobs).scalar_subquery()
