"""Batches and their items, looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, select, update

from common.db.engine import Tx
from common.db.tables import batch_rejects, batches, jobs
from common.jobs.batch import Batch, BatchState, Reject
from common.jobs.job import Job
from common.states import State


def get(tx: Tx, batch_id: str, key_id: str | None = None) -> Batch | None:
    query = select(batches).where(batches.c.id == batch_id)
    if key_id is not None:
        query = query.where(batches.c.key_id == key_id)
    row = tx.execute(query).one_or_none()
    return Batch.from_row(row) if row is not None else None


def page(
    tx: Tx, key_id: str, *, before: str | None, limit: int, states: Sequence[BatchState] = (),
    schedule_id: str | None = None,
) -> list[Batch]:  # fmt: skip
    """A key's batches, newest first, before the id `before`."""
    query = select(batches).where(batches.c.key_id == key_id)
    if states:
        query = query.where(batches.c.state.in_(states))
    if schedule_id is not None:
        query = query.where(batches.c.schedule_id == schedule_id)
    if before is not None:
        query = query.where(batches.c.id < before)
    return [Batch.from_row(row) for row in tx.execute(query.order_by(batches.c.id.desc()).limit(limit))]


def items(tx: Tx, batch_id: str, *, after: int, limit: int, states: Sequence[State] = ()) -> list[Job]:
    """A batch's jobs in the order of its items, after the item `after`: a page costs the same anywhere."""

    def stretch(state: State | None) -> list[Job]:
        query = select(jobs).where(
            jobs.c.batch_id == batch_id, jobs.c.batch_id.is_not(None), jobs.c.batch_item > after
        )  # fmt: skip
        if state is not None:
            query = query.where(jobs.c.state == state)
        return [Job.from_row(row) for row in tx.execute(query.order_by(jobs.c.batch_item).limit(limit))]

    found = [job for state in (states or (None,)) for job in stretch(state)]
    return sorted(found, key=lambda job: job.batch_item or 0)[:limit]


def named(tx: Tx, batch_id: str, *, after: int, limit: int) -> list[tuple[int, Mapping[str, Any]]]:
    """What names the results of a batch's items, by item, after the item `after`."""
    query = (
        select(jobs.c.batch_item, jobs.c.item)
        .where(jobs.c.batch_id == batch_id, jobs.c.batch_id.is_not(None), jobs.c.batch_item > after)
        .order_by(jobs.c.batch_item)
        .limit(limit)
    )
    return [(row.batch_item, row.item or {}) for row in tx.execute(query)]


def rejects(tx: Tx, batch_id: str, *, after: int, limit: int) -> list[Reject]:
    """Items that could not become jobs, in their order, after the item `after`."""
    query = (
        select(batch_rejects)
        .where(batch_rejects.c.batch_id == batch_id, batch_rejects.c.item > after)
        .order_by(batch_rejects.c.item)
        .limit(limit)
    )
    return [Reject(**row._mapping) for row in tx.execute(query)]


def under_way(tx: Tx, batch_id: str) -> dict[State, int]:
    """How many of its jobs are queued and running: few, whatever the size of the batch."""
    found = {}
    for state in (State.QUEUED, State.RUNNING):
        query = select(jobs.c.id).where(jobs.c.state == state, jobs.c.batch_id == batch_id)
        found[state] = len(tx.execute(query).all())
    return found


def suffix(tx: Tx, batch_id: str, suffixes: Mapping[int, str]) -> None:
    """Notes what tells the results of these items from others of the same name."""
    found = select(jobs.c.id, jobs.c.batch_item, jobs.c.item).where(
        jobs.c.batch_id == batch_id, jobs.c.batch_item.in_(list(suffixes))
    )
    rows = [
        {"this": row.id, "named": {**(row.item or {}), "suffix": suffixes[row.batch_item]}} for row in tx.execute(found)
    ]
    if rows:
        tx.execute(update(jobs).where(jobs.c.id == bindparam("this")).values(item=bindparam("named")), rows)
