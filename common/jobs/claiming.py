"""From queued to running: a worker's claim of the next job, and of those that it does at once with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, update

from common.db.engine import Tx
from common.db.tables import jobs
from common.db.tables import processes as process_rows
from common.jobs import events, gate
from common.jobs.job import Job
from common.jobs.queueing import ORDER
from common.states import Reason, State, Verb, sources

# So many queued jobs are looked through for one whose engine is loaded.
_NEAR = 100

LONG_SECONDS = 600.0
"""A recording that is longer fills the batches of a card by itself, and is done alone."""


def claim(
    tx: Tx, worker: str, lanes: Collection[str], lease_seconds: float, *, job_id: str | None = None,
    rung: str | None = None, engines: Collection[str] | None = None, resident: Collection[str] = (),
    affinity_seconds: float = 0.0,
) -> Job | None:  # fmt: skip
    """queued -> running: the next job, or the named one, with a lease and a new attempt number.

    None where there is nothing for this worker: another one claimed it, it was cancelled, it needs what this worker
    lacks, or the worker is paused, draining or in quarantine. A compare-and-set on (id, state): a bell that rings ten
    times starts no job twice.

    rung: the job a bell named. It says that there is work in that job's lane; which, the order says. A bell leads to
    one claim at most, and one that led to none found nothing there for its worker. So the bells of a lane are never
    fewer than its queued jobs, as long as none is lost: the bell of a job that was claimed upon another's finds the
    one that was not.

    resident: engines that this worker has loaded. A job of theirs goes before the next one, where that is no more
    urgent and was released less than `affinity_seconds` ago: so a job that is next waits no longer than that, and then
    until a worker is free.
    """
    fitting = _fitting(tx, worker, lanes, engines)
    if job_id is not None:
        fitting.append(jobs.c.id == job_id)
    if rung is not None:
        named = jobs.alias("named")
        fitting.append(jobs.c.lane == select(named.c.lane).where(named.c.id == rung).scalar_subquery())
    candidate = select(jobs.c.id).where(*fitting).order_by(*ORDER).limit(1)
    chosen: ColumnElement[str] = candidate.with_for_update(skip_locked=True).scalar_subquery()
    if resident and affinity_seconds > 0:
        near = _near(tx, fitting, resident, affinity_seconds).limit(1).correlate(None).scalar_subquery()
        chosen = func.coalesce(near, chosen)
    claimed = _claimed(tx, jobs.c.id == chosen, worker, lease_seconds)
    return claimed[0] if claimed else None


def join(
    tx: Tx, leader: Job, lanes: Collection[str], lease_seconds: float, most: int, *,
    engines: Collection[str] | None = None, affinity_seconds: float = 0.0,
) -> list[Job]:  # fmt: skip
    """queued -> running: up to `most` jobs that the worker of `leader`, which it has just claimed, is to do at once
    with it: of its engine and lane, no less urgent, not known to be long, and of which no attempt has been lost.

    They go before others under the conditions of `claim`, where the engine of the leader is the one that is loaded; and
    whoever is next waits no longer than for one such company, as the next claim is his.
    """
    if not leader.worker:
        raise ValueError("only a job that was claimed has company")
    if (leader.expected or 0.0) > LONG_SECONDS or not leader.unblemished:
        return []
    alike = (
        jobs.c.lane == leader.lane,
        jobs.c.priority >= leader.priority,
        jobs.c.failures == 0,
        jobs.c.losses == 0,
        or_(jobs.c.expected.is_(None), jobs.c.expected <= LONG_SECONDS),
    )
    fitting = _fitting(tx, leader.worker, lanes, engines)
    ids = list(tx.execute(_near(tx, fitting, [leader.engine], affinity_seconds).where(*alike).limit(most)).scalars())
    joined = _claimed(tx, jobs.c.id.in_(ids), leader.worker, lease_seconds) if ids else []
    if joined:
        company = [leader.id, *(job.id for job in joined)]
        tx.execute(
            update(jobs)
            .where(jobs.c.id.in_(company), jobs.c.state == State.RUNNING, jobs.c.worker == leader.worker)
            .values(company=len(company))
        )
    return [replace(job, company=len(joined) + 1) for job in joined]


def _fitting(
    tx: Tx, worker: str, lanes: Collection[str], engines: Collection[str] | None
) -> list[ColumnElement[bool]]:  # fmt: skip
    """What a worker may claim now."""
    barred = exists().where(
        process_rows.c.name == worker,
        or_(process_rows.c.control != "run", process_rows.c.quarantined_until > tx.now()),
    )
    fitting = [jobs.c.state == State.QUEUED, jobs.c.lane.in_(lanes), gate.may_run(tx), ~barred]
    if engines is not None:
        fitting.append(jobs.c.engine.in_(engines))
    return fitting


def _claimed(tx: Tx, which: ColumnElement[bool], worker: str, lease_seconds: float) -> list[Job]:
    rows = tx.execute(
        update(jobs)
        .where(which, jobs.c.state.in_(sources(Verb.CLAIM)))
        .values(
            state=State.RUNNING,
            reason=Reason.CLAIMED,
            attempt=jobs.c.attempt + 1,
            worker=worker,
            company=None,
            lease_until=tx.now(lease_seconds),
            started_at=func.coalesce(jobs.c.started_at, tx.now()),
            updated_at=tx.now(),
        )
        .returning(jobs)
    )
    claimed = sorted((Job.from_row(row) for row in rows), key=lambda job: (-job.priority, job.run_at, job.id))
    events.changed(tx, *claimed)
    return claimed


def _near(
    tx: Tx, fitting: Sequence[ColumnElement[bool]], engines: Collection[str], patience: float
) -> Select[tuple[str]]:
    """The next jobs of these engines among those as urgent as the first, unless that one has been patient and is of
    another engine.

    A queued job has not changed since it was released, so `updated_at` says when that was. Only the head of the queue
    is looked through: jobs stand there for a few claims of every worker.
    """
    columns = (jobs.c.id, jobs.c.engine, jobs.c.priority, jobs.c.run_at, jobs.c.updated_at)
    near = select(*columns).where(*fitting).order_by(*ORDER).limit(_NEAR).cte("near")
    order = (near.c.priority.desc(), near.c.run_at, near.c.id)
    first = select(near).order_by(*order).limit(1).subquery("first")
    return (
        select(jobs.c.id)
        .select_from(first.join(near, near.c.priority == first.c.priority).join(jobs, jobs.c.id == near.c.id))
        .where(
            or_(first.c.updated_at > tx.now(-patience), first.c.engine.in_(engines)),
            near.c.engine.in_(engines),
            jobs.c.state == State.QUEUED,
        )
        .order_by(*order)
        .with_for_update(skip_locked=True, of=jobs)
    )
