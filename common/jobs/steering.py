"""A batch once its items are in: opened and closed by its window, steered by its owner.

What touches every job of a batch goes in steps of STEP jobs, a transaction each: 100,000 jobs hold nobody up, and who
finds a batch half-way goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from common.db.engine import Tx
from common.db.tables import batches, jobs
from common.errors import NightshiftError
from common.jobs import finish, gate, queueing, submit, tally
from common.jobs.batch import Batch, BatchReason, BatchState
from common.jobs.job import BRIEF, Brief
from common.quotas import Quotas
from common.states import State

STEP = 2000
"""Jobs that are steered at once: of these little is read."""


def turn_windows(tx: Tx, limit: int = 100) -> list[Batch]:
    """Opens and closes the batches whose window has changed."""
    due = (
        select(batches)
        .where(batches.c.changes_at <= tx.now(), batches.c.state == BatchState.ACTIVE)
        .order_by(batches.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    now = tx.instant()
    turned = []
    for row in tx.execute(due).all():
        opened = gate.at(row.window, now)
        changed = update(batches).where(batches.c.id == row.id, batches.c.state == BatchState.ACTIVE)
        values = {"open_until": opened.open_until, "changes_at": opened.changes_at, "updated_at": tx.now()}
        turned.append(Batch.from_row(tx.execute(changed.values(values).returning(batches)).one()))
    return turned


# --- Steered by the owner ---------------------------------------------------------------------------------------------


def pause(tx: Tx, batch_id: str) -> Batch:
    """active -> paused: nothing more starts, and what runs yields at its next block. Raises `state_conflict`."""
    batch = _locked(tx, batch_id)
    if batch.state is BatchState.PAUSED:
        return batch
    _require(batch, BatchState.ACTIVE)
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.ACTIVE)
        .values(
            state=BatchState.PAUSED, reason=BatchReason.BY_CALLER, open_until=None, changes_at=None, updated_at=tx.now()
        )
        .returning(batches)
    ).one()
    queueing.recall(tx)
    return Batch.from_row(row)


def resume(tx: Tx, batch_id: str) -> Batch:
    """paused -> active. Raises `state_conflict`."""
    batch = _locked(tx, batch_id)
    if batch.state is BatchState.ACTIVE:
        return batch
    _require(batch, BatchState.PAUSED)
    return tally.reopen(tx, batch, BatchReason.RESUMED)


def change(tx: Tx, batch_id: str, values: Mapping[str, Any]) -> Batch:
    """Sets any of window (as text, or None), deadline and weight. Raises `state_conflict`.

    A window opens or closes the batch at once. What is known of a deadline's risk is forgotten with the deadline.
    """
    batch = _locked(tx, batch_id)
    _require(batch, BatchState.ACTIVE, BatchState.PAUSED)
    changed = {**values, "updated_at": tx.now()}
    if "deadline" in values:
        changed |= {"risk": None, "risk_at": None}
    if "window" in values and batch.state is BatchState.ACTIVE:
        opened = gate.at(values["window"], tx.instant())
        changed |= {"open_until": opened.open_until, "changes_at": opened.changes_at}
    row = tx.execute(update(batches).where(batches.c.id == batch_id).values(changed).returning(batches)).one()
    if "window" in values:
        queueing.recall(tx)
    return Batch.from_row(row)


def cancel(tx: Tx, batch_id: str) -> Batch:
    """-> cancelling: nothing more starts; `cancel_some` cancels its jobs. A batch that is over stays as it is."""
    batch = _locked(tx, batch_id)
    if batch.over or batch.state is BatchState.CANCELLING:
        return batch
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state == batch.state)
        .values(
            state=BatchState.CANCELLING, reason=BatchReason.BY_CALLER, open_until=None, changes_at=None,
            intake_until=None, updated_at=tx.now(),
        )
        .returning(batches)
    ).one()  # fmt: skip
    return tally.settle(tx, Batch.from_row(row))


def to_cancel(tx: Tx, limit: int = 20) -> list[str]:
    """Ids of batches whose jobs are to be cancelled."""
    query = select(batches.c.id).where(batches.c.state == BatchState.CANCELLING, batches.c.finished_at.is_(None))
    return list(tx.execute(query.order_by(batches.c.id).limit(limit)).scalars())


@dataclass(frozen=True)
class Cancelled:
    """done: how many jobs.  last: pass as `after` for the next ones; None where there were no more behind it."""

    done: int
    last: int | None


def cancel_some(tx: Tx, batch_id: str, *, after: int = 0, limit: int = STEP) -> Cancelled:
    """Cancels up to `limit` jobs of a batch that is being cancelled, and flags those that run: all that are queued, and
    those that wait after the item `after`.

    Where none is done after 0, nothing is left to do; those that run end with their workers' word.
    """
    cancelling = select(batches.c.id).where(batches.c.id == batch_id, batches.c.state == BatchState.CANCELLING)
    if tx.execute(cancelling).first() is None:
        return Cancelled(0, None)
    tx.execute(
        update(jobs)
        .where(
            jobs.c.batch_id == batch_id, jobs.c.batch_id.is_not(None), jobs.c.state == State.RUNNING,
            jobs.c.cancel_requested.is_(False),
        )
        .values(cancel_requested=True, updated_at=tx.now())
    )  # fmt: skip
    queued = _some(tx, batch_id, State.QUEUED, limit)
    waiting = _some(tx, batch_id, State.WAITING, limit - len(queued), after)
    gone = finish.cancel_many(tx, [row.id for row in (*queued, *waiting)])
    return Cancelled(len(gone), waiting[-1].batch_item if waiting else None)


def _some(tx: Tx, batch_id: str, state: State, limit: int, after: int = 0) -> Sequence[Row[Any]]:
    """id and batch_item of jobs in a state after the item `after`, locked: a stretch of the index."""
    query = (
        select(jobs.c.id, jobs.c.batch_item)
        .where(
            jobs.c.batch_id == batch_id,
            jobs.c.batch_id.is_not(None),
            jobs.c.state == state,
            jobs.c.batch_item > after,
        )
        .order_by(jobs.c.batch_item)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found: Sequence[Row[Any]] = tx.execute(query).all()
    return found


@dataclass(frozen=True)
class Retried:
    """again: how many jobs run again.  refused: how many cannot, because what they wait for is not there.
    last: pass as `after` for the next ones; None where these were the last."""

    again: int
    refused: int
    last: int | None


RETRIED = (State.FAILED, State.EXPIRED)


def retry_some(
    tx: Tx,
    batch_id: str,
    *,
    default_quota: Quotas,
    states: Sequence[State] = RETRIED,
    after: int = 0,
    limit: int = STEP,
) -> Retried:
    """failed, expired -> waiting: up to `limit` jobs after the item `after`. Raises `state_conflict`, `quota_exceeded`.

    A batch that was finished or cancelled goes on.
    """
    row = tx.execute(select(batches).where(batches.c.id == batch_id)).one_or_none()
    if row is None:
        raise NightshiftError("not_found", "There is no such batch.")
    batch = Batch.from_row(row)
    _require(batch, BatchState.ACTIVE, BatchState.PAUSED, BatchState.FINISHED, BatchState.CANCELLED)
    query = (
        select(*BRIEF)
        .where(
            jobs.c.batch_id == batch_id,
            jobs.c.batch_id.is_not(None),
            jobs.c.state.in_(states),
            jobs.c.batch_item > after,
        )
        .order_by(jobs.c.batch_item)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    before = [Brief.from_row(found) for found in tx.execute(query)]
    if not before:
        return Retried(0, 0, None)
    refused = submit.resubmit_many(tx, batch.key_id, before, default_quota=default_quota)
    last = before[-1].batch_item if len(before) == limit else None
    return Retried(len(before) - refused, refused, last)


def _locked(tx: Tx, batch_id: str) -> Batch:
    row = tx.execute(select(batches).where(batches.c.id == batch_id).with_for_update()).one_or_none()
    if row is None:
        raise NightshiftError("not_found", "There is no such batch.")
    return Batch.from_row(row)


def _require(batch: Batch, *states: BatchState) -> None:
    if batch.state not in states:
        raise NightshiftError(
            "state_conflict",
            f"The batch is {batch.state}.",
            hint=f"It must be {' or '.join(states)}.",
            extra={"state": batch.state},
        )
