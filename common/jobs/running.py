"""What a worker says of the job it holds. Every statement names job, attempt and state: a lost lease matches no row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, case, insert, null, select, update

from common.db.engine import Tx
from common.db.processes import idle
from common.db.tables import blocks, jobs, processes
from common.jobs import events, gate
from common.jobs.job import Job, Lease, LeaseLost, Orders
from common.states import Reason, State


def held(lease: Lease) -> ColumnElement[bool]:
    """The fence: the row of a job that is running under this very lease."""
    return and_(jobs.c.id == lease.job_id, jobs.c.attempt == lease.attempt, jobs.c.state == State.RUNNING)


def renew(tx: Tx, lease: Lease, lease_seconds: float, progress: Mapping[str, Any] | None = None) -> None:
    """Prolongs the lease and records progress. Raises LeaseLost."""
    values: dict[str, Any] = {"lease_until": tx.now(lease_seconds), "updated_at": tx.now()}
    if progress is not None:
        values["progress"] = dict(progress)
    if tx.execute(update(jobs).where(held(lease)).values(**values)).rowcount != 1:
        raise LeaseLost(lease)


def orders(
    tx: Tx,
    lease: Lease,
    worker: str,
    lanes: Collection[str],
    alive_seconds: float,
    engines: Collection[str] | None = None,
) -> Orders:
    """What the worker is to do with its job: go on, cancel, or yield at the block's end.

    A batch job yields when an interactive one that this worker could run (engines: what it has; None: any) stands in
    the queue of a lane and no worker that serves it is free, and when its batch is not open any more.
    """
    row = tx.execute(
        select(
            jobs.c.cancel_requested,
            jobs.c.priority,
            processes.c.control,
            case((gate.may_run(tx), null()), else_=gate.why_closed()).label("closed"),
        )
        .select_from(jobs.outerjoin(processes, processes.c.name == worker))
        .where(held(lease))
    ).one_or_none()
    if row is None:
        return Orders(held=False)
    reason: Reason | None = None
    if row.control == "drain":
        reason = Reason.DRAINED
    elif row.closed is not None:
        reason = Reason(row.closed)
    elif row.control != "pause" and _outranked(tx, row.priority, lanes, alive_seconds, engines):
        # A paused worker would not take the other job either.
        reason = Reason.PREEMPTED
    return Orders(held=True, cancel=bool(row.cancel_requested), yield_for=reason)


def _outranked(
    tx: Tx, priority: int, lanes: Collection[str], alive_seconds: float, engines: Collection[str] | None
) -> bool:
    """Whether a more urgent job stands in the queue of one of these lanes, and no worker of that lane is free."""
    urgent = select(jobs.c.lane).where(
        jobs.c.state == State.QUEUED, jobs.c.priority > priority, jobs.c.lane.in_(lanes)
    )  # fmt: skip
    if engines is not None:
        urgent = urgent.where(jobs.c.engine.in_(engines))
    wanted = set(tx.execute(urgent.distinct()).scalars())
    if not wanted:
        return False
    free = idle(tx, alive_seconds).values()
    return any(not any(lane in served for served in free) for lane in wanted)


def checkpoint(
    tx: Tx, lease: Lease, lease_seconds: float, fingerprint: str, index: int, total: int, files: Mapping[str, str]
) -> None:
    """Records a finished block, whose files are stored already, and renews the lease. Raises LeaseLost."""
    locked = tx.execute(
        update(jobs)
        .where(held(lease))
        .values(
            lease_until=tx.now(lease_seconds),
            blocks_total=total,
            blocks_done=case((jobs.c.blocks_done < index + 1, index + 1), else_=jobs.c.blocks_done),
            updated_at=tx.now(),
        )
    )
    if locked.rowcount != 1:
        raise LeaseLost(lease)
    known = and_(blocks.c.job_id == lease.job_id, blocks.c.fingerprint == fingerprint, blocks.c.index == index)
    if tx.execute(select(blocks.c.index).where(known)).first() is None:
        tx.execute(
            insert(blocks).values(
                job_id=lease.job_id,
                fingerprint=fingerprint,
                index=index,
                attempt=lease.attempt,
                files=dict(files),
                created_at=tx.now(),
            )
        )


def finished_blocks(tx: Tx, job_id: str, fingerprint: str) -> dict[int, dict[str, str]]:
    """The blocks that any attempt finished under the same fingerprint: index to storage keys by stem."""
    rows = tx.execute(
        select(blocks.c.index, blocks.c.files).where(blocks.c.job_id == job_id, blocks.c.fingerprint == fingerprint)
    )
    return {row.index: dict(row.files) for row in rows}


def give_back(tx: Tx, lease: Lease, reason: Reason) -> Job:
    """running -> waiting (yield): keeps its blocks and costs no attempt. Raises LeaseLost."""
    row = tx.execute(
        update(jobs)
        .where(held(lease), jobs.c.cancel_requested.is_(False))
        .values(state=State.WAITING, reason=reason, worker=None, lease_until=None, updated_at=tx.now())
        .returning(jobs)
    ).one_or_none()
    if row is None:
        raise LeaseLost(lease)
    job = Job.from_row(row)
    events.changed(tx, job)
    return job
