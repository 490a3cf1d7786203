"""From waiting to queued: release in small fair steps, and the bells to ring."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    and_,
    func,
    literal,
    not_,
    null,
    select,
    union_all,
    update,
)

from common.db import processes
from common.db.engine import Tx
from common.db.tables import BATCH, INTERACTIVE, batches, jobs, keys
from common.jobs import events, gate, quota
from common.jobs.job import Job
from common.jobs.quota import Allowance
from common.jobs.rounds import Rounds
from common.states import Reason, State, Verb, sources

_RELEASABLE = and_(jobs.c.state == State.WAITING, jobs.c.upstream.is_(None))
ORDER = (jobs.c.priority.desc(), jobs.c.run_at, jobs.c.id)
"""In which queued jobs are claimed."""


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
        .order_by(*ORDER)
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
            .order_by(*ORDER)
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
