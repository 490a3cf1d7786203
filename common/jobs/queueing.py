"""From waiting to running: release in small fair steps, the bells to ring, and the claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import and_, exists, func, or_, select, update

from common.db.engine import Tx
from common.db.processes import takers
from common.db.tables import BATCH, INTERACTIVE, jobs, keys, processes
from common.jobs import events
from common.jobs.fair import shares
from common.jobs.job import Job
from common.states import Reason, State, Verb, sources

_RELEASABLE = and_(jobs.c.state == State.WAITING, jobs.c.upstream.is_(None))


@dataclass(frozen=True)
class Bell:
    """What a doorbell tells: which job, and what a person watching the queue wants to see of it."""

    job_id: str
    lane: str
    interactive: bool
    kind: str
    engine: str
    batch: str | None


def bell(job: Job) -> Bell:
    return Bell(job.id, job.lane, job.interactive, job.kind, job.engine, job.batch)


def room(tx: Tx, lane: str, priority: int, ahead: int, alive_seconds: float) -> int:
    """How many more jobs of a lane and priority may stand in the queue: `ahead` for each worker that may take one, and
    for one worker where none is known. Jobs of lower priority take no room: a queue full of them keeps no other out."""
    return _room(tx, lane, priority, _depth(tx, lane, ahead, alive_seconds))


def _depth(tx: Tx, lane: str, ahead: int, alive_seconds: float) -> int:
    return ahead * max(1, sum(lane in lanes for lanes in takers(tx, alive_seconds).values()))


def _room(tx: Tx, lane: str, priority: int, depth: int) -> int:
    standing = select(jobs.c.id).where(
        jobs.c.state == State.QUEUED, jobs.c.lane == lane, jobs.c.priority >= priority
    )  # fmt: skip
    queued = tx.execute(select(func.count()).select_from(standing.limit(depth).subquery())).scalar_one()
    return max(0, depth - int(queued))


def release(tx: Tx, lane: str, priority: int, places: int) -> list[Job]:
    """waiting -> queued: up to `places` due jobs of a lane and priority, fair among the keys.

    The transition is a compare-and-set on rows locked here, so two schedulers may release at once.
    """
    if places <= 0:
        return []
    waiting, weights = _waiting_keys(tx, lane, priority, places)
    if not waiting:
        return []
    released: list[Job] = []
    # One key alone gets all there is, whatever it has already.
    active = _active(tx, lane) if len(waiting) > 1 else {}
    for key_id, count in shares(active, waiting, weights, places).items():
        released += _release_of(tx, key_id, lane, priority, count)
    return released


def fill(tx: Tx, lane: str, ahead: int, alive_seconds: float) -> list[Bell]:
    """Releases what a lane has room for, interactive before batch; returns the bells to ring after the commit.

    Called wherever room or work appears (a submission, an end, a tick), so that no tick stands between a caller and a
    free card.
    """
    depth = _depth(tx, lane, ahead, alive_seconds)
    released: list[Job] = []
    for priority in (INTERACTIVE, BATCH):
        places = _room(tx, lane, priority, depth)
        if not places:
            break  # what is less urgent has less room
        released += release(tx, lane, priority, places)
    return [bell(job) for job in released]


def _waiting_keys(tx: Tx, lane: str, priority: int, limit: int) -> tuple[dict[str, int], dict[str, float]]:
    """Releasable jobs of each key, counted up to `limit`, and the keys' weights: no dearer behind a longer queue."""
    head = (
        select(jobs.c.id)
        .where(
            _RELEASABLE,
            jobs.c.key_id == keys.c.id,
            jobs.c.lane == lane,
            jobs.c.priority == priority,
            jobs.c.run_at <= tx.now(),
        )
        # The order is the index's: without it PostgreSQL reads the table, hoping to meet enough of them soon.
        .order_by(jobs.c.run_at, jobs.c.id)
        .limit(limit)
        .correlate(keys)
        .subquery()
    )
    count = select(func.count()).select_from(head).scalar_subquery()
    rows = tx.execute(select(keys.c.id, keys.c.weight, count.label("n")))
    found = [(row.id, row.weight, row.n) for row in rows if row.n]
    return {key: n for key, _, n in found}, {key: weight for key, weight, _ in found}


def _active(tx: Tx, lane: str) -> Counter[str]:
    """Jobs of each key queued or running."""
    found: Counter[str] = Counter()
    # One statement a state: each has its partial index, and SQLite uses none for both at once.
    for state in (State.QUEUED, State.RUNNING):
        found.update(tx.execute(select(jobs.c.key_id).where(jobs.c.state == state, jobs.c.lane == lane)).scalars())
    return found


def _release_of(tx: Tx, key_id: str, lane: str, priority: int, count: int) -> list[Job]:
    picked = tx.execute(
        select(jobs.c.id)
        .where(
            _RELEASABLE,
            jobs.c.key_id == key_id,
            jobs.c.lane == lane,
            jobs.c.priority == priority,
            jobs.c.run_at <= tx.now(),
        )
        .order_by(jobs.c.run_at, jobs.c.id)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    ids = [row.id for row in picked]
    if not ids:
        return []
    rows = tx.execute(
        update(jobs)
        .where(jobs.c.id.in_(ids), jobs.c.state.in_(sources(Verb.RELEASE)))
        .values(state=State.QUEUED, reason=Reason.RELEASED, rung_at=tx.now(), updated_at=tx.now())
        .returning(jobs)
    )
    released = sorted((Job.from_row(row) for row in rows), key=lambda job: (job.run_at, job.id))
    for job in released:
        events.changed(tx, job)
    return released


def unanswered(tx: Tx, older_than: float, limit: int = 100) -> list[Job]:
    """Queued jobs whose bell was last rung more than `older_than` seconds ago: to be rung again.

    Their bell may be lost, or every worker busy; one bell too many does no harm.
    """
    stale = (
        select(jobs.c.id)
        .where(jobs.c.state == State.QUEUED, jobs.c.rung_at < tx.now(-older_than))
        .order_by(jobs.c.priority.desc(), jobs.c.run_at, jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = [row.id for row in tx.execute(stale)]
    rows = tx.execute(
        update(jobs).where(jobs.c.id.in_(ids), jobs.c.state == State.QUEUED).values(rung_at=tx.now()).returning(jobs)
    )
    return sorted((Job.from_row(row) for row in rows), key=lambda job: (-job.priority, job.run_at, job.id))


def claim(
    tx: Tx, worker: str, lanes: Collection[str], lease_seconds: float, *, job_id: str | None = None,
    engines: Collection[str] | None = None,
) -> Job | None:  # fmt: skip
    """queued -> running: the named job, or the next one, with a lease and a new attempt number.

    None where there is nothing for this worker: another one claimed it, it was cancelled, it needs what this worker
    lacks, or the worker is paused, draining or in quarantine. A compare-and-set on (id, state): a bell that rings ten
    times starts a job once.
    """
    barred = exists().where(
        processes.c.name == worker,
        or_(processes.c.control != "run", processes.c.quarantined_until > tx.now()),
    )
    candidate = select(jobs.c.id).where(jobs.c.state == State.QUEUED, jobs.c.lane.in_(lanes), ~barred)
    if engines is not None:
        candidate = candidate.where(jobs.c.engine.in_(engines))
    if job_id is not None:
        candidate = candidate.where(jobs.c.id == job_id)
    candidate = candidate.order_by(jobs.c.priority.desc(), jobs.c.run_at, jobs.c.id).limit(1)
    row = tx.execute(
        update(jobs)
        .where(
            jobs.c.id == candidate.with_for_update(skip_locked=True).scalar_subquery(),
            jobs.c.state.in_(sources(Verb.CLAIM)),
        )
        .values(
            state=State.RUNNING,
            reason=Reason.CLAIMED,
            attempt=jobs.c.attempt + 1,
            worker=worker,
            lease_until=tx.now(lease_seconds),
            started_at=func.coalesce(jobs.c.started_at, tx.now()),
            updated_at=tx.now(),
        )
        .returning(jobs)
    ).one_or_none()
    if row is None:
        return None
    job = Job.from_row(row)
    events.changed(tx, job)
    return job
