"""From waiting to running: release in small fair steps, the bells to ring, and the claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    and_,
    exists,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    union_all,
    update,
)

from common.db import processes
from common.db.engine import Tx
from common.db.tables import BATCH, INTERACTIVE, batches, jobs, keys
from common.db.tables import processes as process_rows
from common.jobs import events, gate, quota
from common.jobs.job import Job
from common.jobs.quota import Allowance
from common.jobs.rounds import Rounds
from common.states import Reason, State, Verb, sources

_RELEASABLE = and_(jobs.c.state == State.WAITING, jobs.c.upstream.is_(None))
_ORDER = (jobs.c.priority.desc(), jobs.c.run_at, jobs.c.id)
# So many queued jobs are looked through for one whose engine is loaded.
_NEAR = 100

LONG_SECONDS = 600.0
"""A recording that is longer fills the batches of a card by itself, and is done alone."""


@dataclass(frozen=True)
class Bell:
    """What a doorbell tells: which job, and what a person watching the queue wants to see of it."""

    job_id: str
    lane: str
    interactive: bool
    kind: str
    engine: str
    batch: str | None


@dataclass(frozen=True)
class Group:
    """Jobs that wait together: an open batch, or (batch_id None) what a key has outside of batches.

    hours: of audio that the key may have done in a day; None: the default."""

    key_id: str
    batch_id: str | None
    key_weight: float
    weight: float
    hours: float | None
    waiting: int

    @property
    def holder(self) -> str:
        return self.batch_id or f"{self.key_id}/"


def bell(job: Job) -> Bell:
    return Bell(job.id, job.lane, job.interactive, job.kind, job.engine, job.batch)


def room(tx: Tx, lane: str, priority: int, ahead: int, alive_seconds: float) -> int:
    """How many more jobs of a lane and priority may stand in the queue: `ahead` for each worker that may take one, and
    for one worker where none is known. Jobs of lower priority take no room: a queue full of them keeps no other out."""
    return _room(tx, lane, priority, _depth(tx, lane, ahead, alive_seconds))


def _depth(tx: Tx, lane: str, ahead: int, alive_seconds: float) -> int:
    return ahead * max(1, sum(lane in lanes for lanes in processes.takers(tx, alive_seconds).values()))


def _room(tx: Tx, lane: str, priority: int, depth: int) -> int:
    standing = select(jobs.c.id).where(
        jobs.c.state == State.QUEUED, jobs.c.lane == lane, jobs.c.priority >= priority
    )  # fmt: skip
    queued = tx.execute(select(func.count()).select_from(standing.limit(depth).subquery())).scalar_one()
    return max(0, depth - int(queued))


def release(tx: Tx, lane: str, priority: int, places: int, audio_hours: float | None = None) -> list[Job]:
    """waiting -> queued: up to `places` due jobs of a lane and priority, fair among the keys, and for each key among
    its open batches and what it has outside of them.

    audio_hours: what a key may have done in a day where it has no quota of its own. Of a key that has used its hours
    nothing that can wait is released: no job of a batch, and none of the priority batch.

    The transition is a compare-and-set on rows locked here, so two schedulers may release at once.
    """
    if places <= 0:
        return []
    groups = _waiting(tx, lane, priority, places)
    left = _allowances(tx, groups, priority, audio_hours)
    groups = [group for group in groups if left[group.holder].seconds > 0]
    if not groups:
        return []
    alone = len(groups) == 1
    # One alone gets all there is, whatever it has had already.
    active = Counter[tuple[str, str | None]]() if alone else _active(tx, lane)
    rounds = Rounds(tx, lane, priority, [] if alone else groups)
    released: list[Job] = []
    by_key: dict[str, list[Group]] = {}
    for group in groups:
        by_key.setdefault(group.key_id, []).append(group)
    keys_active: Counter[str] = Counter()
    for (key_id, _), n in active.items():
        keys_active[key_id] += n
    keys_waiting = {key_id: sum(group.waiting for group in own) for key_id, own in by_key.items()}
    keys_weights = {group.key_id: group.key_weight for group in groups}
    for key_id, count in rounds.share(keys_active, keys_waiting, keys_weights, places).items():
        own = {group.holder: group for group in by_key[key_id]}
        granted = rounds.share(
            {holder: active[key_id, group.batch_id] for holder, group in own.items()},
            {holder: group.waiting for holder, group in own.items()},
            {holder: group.weight for holder, group in own.items()},
            count,
        )
        for holder, n in granted.items():
            released += _release_of(tx, own[holder], lane, priority, n, left[holder])
    rounds.keep()
    return released


def fill(
    tx: Tx, lane: str, ahead: int, alive_seconds: float, audio_hours: float | None = None
) -> list[Bell]:  # fmt: skip
    """Releases what a lane has room for, interactive before batch; returns the bells to ring after the commit.
    audio_hours: as `release` has it.

    Called wherever room or work appears (a submission, an end, a tick), so that no tick stands between a caller and a
    free card.
    """
    depth = _depth(tx, lane, ahead, alive_seconds)
    released: list[Job] = []
    for priority in (INTERACTIVE, BATCH):
        places = _room(tx, lane, priority, depth)
        if not places:
            break  # what is less urgent has less room
        released += release(tx, lane, priority, places, audio_hours)
    return [bell(job) for job in released]


def _waiting(tx: Tx, lane: str, priority: int, limit: int) -> list[Group]:
    """The open batches, and what keys have outside of batches, with releasable jobs: counted up to `limit`, so that a
    long queue is no dearer than a short one."""

    def head(*own: ColumnElement[bool]) -> ScalarSelect[int]:
        found = (
            select(jobs.c.id)
            .where(
                _RELEASABLE,
                *own,
                jobs.c.lane == lane,
                jobs.c.priority == priority,
                jobs.c.run_at <= tx.now(),
            )
            # The order is the index's: without it PostgreSQL reads the table, hoping to meet enough of them soon.
            .order_by(jobs.c.run_at, jobs.c.id)
            .limit(limit)
            .correlate(keys, batches)
            .subquery()
        )
        return select(func.count()).select_from(found).scalar_subquery()

    outside = select(
        keys.c.id.label("key_id"),
        null().label("batch_id"),
        keys.c.weight.label("key_weight"),
        literal(1.0).label("weight"),
        keys.c.max_audio_hours_per_day,
        head(jobs.c.key_id == keys.c.id, jobs.c.batch_id.is_(None)).label("n"),
    )
    inside = (
        select(
            batches.c.key_id,
            batches.c.id,
            keys.c.weight.label("key_weight"),
            batches.c.weight,
            keys.c.max_audio_hours_per_day,
            head(jobs.c.batch_id == batches.c.id, jobs.c.batch_id.is_not(None)),
        )
        .join(keys, keys.c.id == batches.c.key_id)
        .where(gate.is_open(tx))
    )
    rows = tx.execute(union_all(outside, inside))
    return [
        Group(row.key_id, row.batch_id, row.key_weight, row.weight, row.max_audio_hours_per_day, row.n)
        for row in rows
        if row.n
    ]


def _allowances(
    tx: Tx, groups: list[Group], priority: int, audio_hours: float | None
) -> dict[str, Allowance]:  # fmt: skip
    """What each group may still have today, by its holder; those of one key share it. Where no key has a quota of
    hours, nothing is read."""
    hours: dict[str, float] = {}
    for group in groups:
        limit = audio_hours if group.hours is None else group.hours
        if limit is not None:
            hours[group.key_id] = limit
    can_wait = {group.holder for group in groups if priority <= BATCH or group.batch_id is not None}
    held = any(group.key_id in hours for group in groups if group.holder in can_wait)
    left = quota.left_today(tx, hours, tx.instant()) if held else {}
    shared = {key_id: Allowance(seconds) for key_id, seconds in left.items()}
    free = Allowance()
    return {g.holder: shared.get(g.key_id, free) if g.holder in can_wait else free for g in groups}


def _active(tx: Tx, lane: str) -> Counter[tuple[str, str | None]]:
    """Jobs queued or running, by key and batch."""
    found: Counter[tuple[str, str | None]] = Counter()
    # One statement a state: each has its partial index, and SQLite uses none for both at once.
    for state in (State.QUEUED, State.RUNNING):
        rows = tx.execute(select(jobs.c.key_id, jobs.c.batch_id).where(jobs.c.state == state, jobs.c.lane == lane))
        found.update((row.key_id, row.batch_id) for row in rows)
    return found


def _release_of(tx: Tx, group: Group, lane: str, priority: int, count: int, left: Allowance) -> list[Job]:
    own = (
        (jobs.c.key_id == group.key_id, jobs.c.batch_id.is_(None))
        if group.batch_id is None
        else (jobs.c.batch_id == group.batch_id, jobs.c.batch_id.is_not(None))
    )
    picked = tx.execute(
        select(jobs.c.id, jobs.c.kind, jobs.c.expected)
        .where(_RELEASABLE, *own, jobs.c.lane == lane, jobs.c.priority == priority, jobs.c.run_at <= tx.now())
        .order_by(jobs.c.run_at, jobs.c.id)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    ids = [row.id for row in picked if left.grant(row.kind, row.expected)]
    if not ids:
        return []
    rows = tx.execute(
        update(jobs)
        .where(jobs.c.id.in_(ids), jobs.c.state.in_(sources(Verb.RELEASE)))
        .values(state=State.QUEUED, reason=Reason.RELEASED, rung_at=tx.now(), updated_at=tx.now())
        .returning(jobs)
    )
    released = sorted((Job.from_row(row) for row in rows), key=lambda job: (job.run_at, job.id))
    events.changed(tx, *released)
    return released


def recall(tx: Tx, limit: int = 500) -> list[Job]:
    """queued -> waiting: those whose batch is not open, so that they hold no place in the queue until it is again."""
    picked = tx.execute(
        select(jobs.c.id)
        .where(jobs.c.state == State.QUEUED, not_(gate.may_run(tx)))
        .order_by(*_ORDER)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = [row.id for row in picked]
    if not ids:
        return []
    rows = tx.execute(
        update(jobs)
        .where(jobs.c.id.in_(ids), jobs.c.state.in_(sources(Verb.RECALL)))
        .values(state=State.WAITING, reason=gate.why_closed(), updated_at=tx.now())
        .returning(jobs)
    )
    recalled = [Job.from_row(row) for row in rows]
    events.changed(tx, *recalled)
    return recalled


def unanswered(tx: Tx, older_than: float, alive_seconds: float) -> list[Job]:
    """Queued jobs whose bell was last rung more than `older_than` seconds ago: to be rung again, one for each worker
    of their lane that is free. While all are busy a bell would be one more claim in vain, later."""
    free = Counter(lane for lanes in processes.idle(tx, alive_seconds).values() for lane in lanes)
    rung: list[Job] = []
    for lane, workers in sorted(free.items()):
        stale = (
            select(jobs.c.id)
            .where(
                jobs.c.state == State.QUEUED,
                jobs.c.lane == lane,
                jobs.c.rung_at < tx.now(-older_than),
                gate.may_run(tx),
            )
            .order_by(*_ORDER)
            .limit(workers)
            .with_for_update(skip_locked=True)
        )
        ids = [row.id for row in tx.execute(stale)]
        rows = tx.execute(
            update(jobs)
            .where(jobs.c.id.in_(ids), jobs.c.state == State.QUEUED)
            .values(rung_at=tx.now())
            .returning(jobs)
        )
        rung += [Job.from_row(row) for row in rows]
    return sorted(rung, key=lambda job: (-job.priority, job.run_at, job.id))


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
    candidate = select(jobs.c.id).where(*fitting).order_by(*_ORDER).limit(1)
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
    near = select(*columns).where(*fitting).order_by(*_ORDER).limit(_NEAR).cte("near")
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
