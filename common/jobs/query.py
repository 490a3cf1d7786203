"""Reading jobs: one, a page of them, the figures of the queue. No count over the whole table is ever needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, literal, literal_column, or_, select, tuple_

from common.db.engine import Tx
from common.db.tables import among, jobs
from common.db.types import Timestamp
from common.jobs import gate
from common.jobs.job import Job
from common.states import ACTIVE, UNSUCCESSFUL, State


def get(tx: Tx, job_id: str, key_id: str | None = None) -> Job | None:
    """The job, where it belongs to `key_id` (or to anybody, for the service itself)."""
    query = select(jobs).where(jobs.c.id == job_id)
    if key_id is not None:
        query = query.where(jobs.c.key_id == key_id)
    row = tx.execute(query).one_or_none()
    return Job.from_row(row) if row is not None else None


def latest(tx: Tx, key_id: str, fingerprint: str) -> Job | None:
    """The job of a key that succeeded last, of those whose result is decided by the same."""
    row = tx.execute(
        select(jobs)
        .where(jobs.c.key_id == key_id, jobs.c.fingerprint == fingerprint, jobs.c.state == State.SUCCEEDED)
        .order_by(jobs.c.finished_at.desc())
        .limit(1)
    ).one_or_none()
    return Job.from_row(row) if row is not None else None


@dataclass(frozen=True)
class Filter:
    """What a page of jobs is to hold; None: any."""

    states: tuple[State, ...] | None = None
    kind: str | None = None
    engine: str | None = None
    batch: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def matching(key_id: str, which: Filter) -> list[ColumnElement[bool]]:
    """The conditions of a filter."""
    found = [jobs.c.key_id == key_id]
    if which.states is not None:
        found.append(jobs.c.state.in_(which.states))
        # Follows from the states; said, because a database uses a partial index only where its condition is.
        if ACTIVE.issuperset(which.states):
            found.append(jobs.c.finished_at.is_(None))
        elif UNSUCCESSFUL.issuperset(which.states):
            found.append(literal_column(among("jobs.state", UNSUCCESSFUL)))
    if which.kind is not None:
        found.append(jobs.c.kind == which.kind)
    if which.engine is not None:
        found.append(jobs.c.engine == which.engine)
    if which.batch is not None:
        found.append(jobs.c.batch == which.batch)
    if which.created_after is not None:
        found.append(jobs.c.created_at > which.created_after)
    if which.created_before is not None:
        found.append(jobs.c.created_at < which.created_before)
    return found


def page(tx: Tx, key_id: str, which: Filter, *, before: str | None, limit: int) -> list[Job]:
    """Jobs of a key, newest first, before the id `before`: ids sort by time, so a page costs the same anywhere."""
    query = select(jobs).where(*matching(key_id, which))
    if before is not None:
        query = query.where(jobs.c.id < before)
    return [Job.from_row(row) for row in tx.execute(query.order_by(jobs.c.id.desc()).limit(limit))]


LATER = "later"
STANDINGS = ("waiting", "queued", "running", LATER)


def depth(tx: Tx, key_id: str | None = None) -> dict[str, dict[str, int]]:
    """Unfinished jobs by lane and state; of one key where given. What is not due, waits for another job or is of a
    batch that is not open counts as `LATER`: no worker is to be had for it."""
    now = and_(jobs.c.upstream.is_(None), jobs.c.run_at <= tx.now(), gate.may_run(tx))
    state = case((or_(jobs.c.state == State.RUNNING, now), jobs.c.state), else_=LATER)
    each = select(jobs.c.lane, state.label("state")).where(jobs.c.finished_at.is_(None))
    if key_id is not None:
        each = each.where(jobs.c.key_id == key_id)
    counted = each.subquery()
    found: dict[str, dict[str, int]] = {}
    for row in tx.execute(
        select(counted.c.lane, counted.c.state, func.count().label("n")).group_by(counted.c.lane, counted.c.state)
    ):
        found.setdefault(row.lane, dict.fromkeys(STANDINGS, 0))[row.state] = row.n
    return found


def ahead(tx: Tx, job: Job, at_most: int = 1000) -> int:
    """How many unfinished jobs of the same key, batch and lane come before this one, counted up to `at_most`."""
    own = (
        and_(jobs.c.key_id == job.key_id, jobs.c.batch_id.is_(None))
        if job.batch_id is None
        else and_(jobs.c.batch_id == job.batch_id, jobs.c.batch_id.is_not(None))
    )
    # Compared with the row itself: an instant that went through Python may differ from it in the last digits.
    since = select(jobs.c.run_at).where(jobs.c.id == job.id).scalar_subquery()
    more_urgent = jobs.c.priority > job.priority
    earlier = and_(jobs.c.priority == job.priority, tuple_(jobs.c.run_at, jobs.c.id) < tuple_(since, literal(job.id)))
    # Each of these is a stretch of an index, in its order, cut off at `at_most`; together in one condition they would
    # be a scan of everything that is pending.
    waiting = [
        select(jobs.c.id)
        .where(
            jobs.c.state == State.WAITING,
            jobs.c.upstream.is_(None),
            own,
            jobs.c.lane == job.lane,
            which,
        )
        .order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id)
        .limit(at_most)
        .subquery()
        for which in (more_urgent, earlier)
    ]
    # The queue is short. Looked through for the key only afterwards, lest SQLite look through the key for the queue.
    queue = (
        select(jobs.c.key_id, jobs.c.batch_id)
        .where(jobs.c.state == State.QUEUED, jobs.c.lane == job.lane, or_(more_urgent, earlier))
        .order_by(jobs.c.priority.desc(), jobs.c.run_at, jobs.c.id)
        .limit(at_most)
        .subquery()
    )
    counts = [select(func.count()).select_from(stretch) for stretch in waiting]
    same = queue.c.batch_id.is_(None) if job.batch_id is None else queue.c.batch_id == job.batch_id
    counts.append(select(func.count()).where(queue.c.key_id == job.key_id, same))
    found = tx.execute(select(*(count.scalar_subquery() for count in counts))).one()
    return min(at_most, sum(int(n) for n in found))


def oldest(tx: Tx) -> dict[str, float]:
    """Seconds that the oldest due job of each lane has been waiting for a worker; lanes without one are left out. What
    waits for its batch's window waits for no worker."""
    rows = tx.execute(
        select(jobs.c.lane, func.min(jobs.c.run_at, type_=Timestamp()).label("since"))
        .where(
            jobs.c.finished_at.is_(None),
            jobs.c.state.in_((State.WAITING, State.QUEUED)),
            jobs.c.upstream.is_(None),
            gate.may_run(tx),
        )
        .group_by(jobs.c.lane)
    ).all()
    now = tx.instant()
    return {row.lane: max(0.0, (now - row.since).total_seconds()) for row in rows}
