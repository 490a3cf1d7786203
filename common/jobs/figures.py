"""Figures for whoever watches the service. Each costs an index scan over what is unfinished or recent, never more."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, func, or_, select

from common.db.engine import Tx
from common.db.tables import callback_endpoints, callbacks, jobs, transfers
from common.db.types import Timestamp


@dataclass(frozen=True)
class Outbox:
    """pending: messages still to be delivered.  retrying: those of them that failed at least once.
    late_seconds: how long the most overdue message has been due.  failing, disabled: receivers in that state."""

    pending: int
    retrying: int
    late_seconds: float
    failing: int
    disabled: int


@dataclass(frozen=True)
class Deliveries:
    """Results on their way into buckets. pending: still to be delivered.  retrying: those of them that failed at least
    once.  failed: given up, of the last seconds that were asked for."""

    pending: int
    retrying: int
    failed: int


def ended(tx: Tx, within_seconds: float) -> dict[tuple[str, str, str], int]:
    """How many jobs ended in the last `within_seconds`, by lane, state and reason."""
    rows = tx.execute(
        select(jobs.c.lane, jobs.c.state, jobs.c.reason, func.count().label("n"))
        .where(jobs.c.finished_at > tx.now(-within_seconds))
        .group_by(jobs.c.lane, jobs.c.state, jobs.c.reason)
    )
    return {(row.lane, row.state, row.reason): row.n for row in rows}


def lost_leases(tx: Tx, within_seconds: float) -> dict[str, int]:
    """Leases that ran out, by lane: of the unfinished jobs, and of those that ended in the last `within_seconds`."""
    rows = tx.execute(
        select(jobs.c.lane, func.sum(jobs.c.losses).label("n"))
        .where(or_(jobs.c.finished_at.is_(None), jobs.c.finished_at > tx.now(-within_seconds)))
        .group_by(jobs.c.lane)
    )
    return {row.lane: int(row.n) for row in rows}


def outbox(tx: Tx) -> Outbox:
    """The state of the callbacks on their way, and of their receivers."""
    waiting = tx.execute(
        select(
            func.count().label("pending"),
            func.count(case((callbacks.c.tries > 0, 1))).label("retrying"),
            func.min(callbacks.c.next_at, type_=Timestamp()).label("next"),
        ).where(callbacks.c.state == "pending")
    ).one()
    receivers = tx.execute(
        select(
            func.count(case((callback_endpoints.c.disabled_at.is_(None), 1))).label("failing"),
            func.count(callback_endpoints.c.disabled_at).label("disabled"),
        ).where(or_(callback_endpoints.c.failing_since.is_not(None), callback_endpoints.c.disabled_at.is_not(None)))
    ).one()
    late = (tx.instant() - waiting.next).total_seconds() if waiting.next else 0.0
    return Outbox(waiting.pending, waiting.retrying, max(0.0, late), receivers.failing, receivers.disabled)


def deliveries(tx: Tx, within_seconds: float) -> Deliveries:
    """The state of the copies on their way; of those given up, those of the last `within_seconds`."""
    waiting = tx.execute(
        select(func.count().label("pending"), func.count(case((transfers.c.error.is_not(None), 1))).label("retrying"))
        .where(transfers.c.state == "pending")
    ).one()  # fmt: skip
    failed = select(func.count()).where(transfers.c.state == "failed", transfers.c.ended_at > tx.now(-within_seconds))
    return Deliveries(waiting.pending, waiting.retrying, tx.execute(failed).scalar_one())
