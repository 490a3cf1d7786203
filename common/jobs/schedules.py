"""Schedules: a clock, and the request for a batch that each of its ticks makes.

However many schedulers run, a tick makes one batch: the schedule's row is locked, and the tick is a primary key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from ulid import ULID

from common.cron import Cron, Missed
from common.db.engine import Tx
from common.db.tables import schedule_ticks, schedules
from common.errors import NightshiftError
from common.jobs import batches
from common.jobs.batch import Batch
from common.jobs.batches import NewBatch

# A scheduler that runs acts on a tick well within this; later, the tick counts as missed.
GRACE = timedelta(minutes=5)


class Outcome(StrEnum):
    """What became of a tick. skipped: nobody acted in time.  refused: its request is not right any more."""

    MADE = "made"
    SKIPPED = "skipped"
    REFUSED = "refused"
    BY_HAND = "by_hand"


@dataclass(frozen=True)
class Schedule:
    """last_tick: everything up to it has been dealt with.  batch: the request of each tick's batch.
    deadline_after: seconds from the tick to its deadline; None: it has none."""

    id: str
    key_id: str
    name: str
    cron: str
    timezone: str
    missed: Missed
    deadline_after: float | None
    batch: Mapping[str, Any]
    paused: bool
    last_tick: datetime
    next_at: datetime
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Row[Any]) -> Schedule:
        values = dict(row._mapping)
        return cls(**{**values, "missed": Missed(values["missed"])})

    @property
    def clock(self) -> Cron:
        return Cron(self.cron, self.timezone)


@dataclass(frozen=True)
class Tick:
    """missed: how many ticks before it passed unnoticed."""

    schedule_id: str
    tick: datetime
    outcome: Outcome
    batch_id: str | None
    missed: int
    error: Mapping[str, Any] | None
    at: datetime

    @classmethod
    def from_row(cls, row: Row[Any]) -> Tick:
        values = dict(row._mapping)
        return cls(**{**values, "outcome": Outcome(values["outcome"])})


Build = Callable[[Schedule, datetime], NewBatch]
"""What the batch of a schedule's tick is made of. May raise NightshiftError; runs inside the transaction, so it asks
nobody."""


def create(
    tx: Tx, key_id: str, name: str, clock: Cron, missed: Missed, batch: Mapping[str, Any],
    deadline_after: float | None = None,
) -> Schedule:  # fmt: skip
    now = tx.instant()
    row = tx.execute(
        insert(schedules)
        .values(
            id=f"sch_{ULID()}", key_id=key_id, name=name, cron=clock.expression, timezone=clock.timezone, missed=missed,
            batch=dict(batch), deadline_after=deadline_after, last_tick=now, next_at=next(clock.after(now)),
            created_at=now, updated_at=now,
        )
        .returning(schedules)
    ).one()  # fmt: skip
    return Schedule.from_row(row)


def due(tx: Tx, limit: int = 50) -> list[str]:
    """Ids of schedules whose clock has ticked."""
    query = select(schedules.c.id).where(schedules.c.paused.is_(False), schedules.c.next_at <= tx.now())
    return list(tx.execute(query.order_by(schedules.c.next_at).limit(limit)).scalars())


def tick(tx: Tx, schedule_id: str, build: Build) -> Tick | None:
    """Acts on what a schedule's clock has ticked since; None where another scheduler did, or nothing is due."""
    row = tx.execute(
        select(schedules)
        .where(schedules.c.id == schedule_id, schedules.c.paused.is_(False), schedules.c.next_at <= tx.now())
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    schedule = Schedule.from_row(row)
    found = schedule.clock.due(schedule.last_tick, tx.instant(), schedule.missed, GRACE)
    if found.tick is not None:
        done = _make(tx, schedule, found.tick, found.missed, build, Outcome.MADE)
    else:
        done = _keep(tx, schedule, schedule.next_at, Outcome.SKIPPED, missed=max(0, found.missed - 1))
    tx.execute(
        update(schedules)
        .where(schedules.c.id == schedule_id)
        .values(last_tick=tx.now(), next_at=found.next, updated_at=tx.now())
    )
    return done


def run_now(tx: Tx, schedule_id: str, build: Build) -> Tick:
    """A batch beside the clock. Raises `not_found` and what `build` raises."""
    row = tx.execute(select(schedules).where(schedules.c.id == schedule_id).with_for_update()).one_or_none()
    if row is None:
        raise NightshiftError("not_found", "There is no such schedule.")
    schedule = Schedule.from_row(row)
    at = tx.instant()
    batch = _batch(tx, schedule, at, build)
    return _keep(tx, schedule, at, Outcome.BY_HAND, batch=batch)


def _make(tx: Tx, schedule: Schedule, at: datetime, missed: int, build: Build, outcome: Outcome) -> Tick:
    try:
        batch = _batch(tx, schedule, at, build)
    except NightshiftError as error:
        return _keep(tx, schedule, at, Outcome.REFUSED, missed=missed, error=error.as_job_error())
    return _keep(tx, schedule, at, outcome, batch=batch, missed=missed)


def _batch(tx: Tx, schedule: Schedule, at: datetime, build: Build) -> Batch:
    return batches.create(tx, schedule.key_id, build(schedule, at), schedule_id=schedule.id)[0]


def _keep(
    tx: Tx, schedule: Schedule, at: datetime, outcome: Outcome, *, batch: Batch | None = None, missed: int = 0,
    error: Mapping[str, Any] | None = None,
) -> Tick:  # fmt: skip
    row = tx.execute(
        insert(schedule_ticks)
        .values(
            schedule_id=schedule.id, tick=at, outcome=outcome, batch_id=batch.id if batch else None, missed=missed,
            error=dict(error) if error else None, at=tx.now(),
        )
        .returning(schedule_ticks)
    ).one()  # fmt: skip
    return Tick.from_row(row)


def pause(tx: Tx, schedule_id: str) -> Schedule:
    """Raises `not_found`."""
    return _change(tx, schedule_id, paused=True)


def resume(tx: Tx, schedule_id: str) -> Schedule:
    """What ticked while it was paused was not missed: its clock goes on from now. Raises `not_found`."""
    schedule = _change(tx, schedule_id)
    if not schedule.paused:
        return schedule
    now = tx.instant()
    return _change(tx, schedule_id, paused=False, last_tick=now, next_at=next(schedule.clock.after(now)))


def replace(
    tx: Tx, schedule_id: str, name: str, clock: Cron, missed: Missed, batch: Mapping[str, Any],
    deadline_after: float | None = None,
) -> Schedule:  # fmt: skip
    """Another clock or request, from now on. Raises `not_found`."""
    now = tx.instant()
    return _change(
        tx, schedule_id, name=name, cron=clock.expression, timezone=clock.timezone, missed=missed, batch=dict(batch),
        deadline_after=deadline_after, last_tick=now, next_at=next(clock.after(now)),
    )  # fmt: skip


def _change(tx: Tx, schedule_id: str, **values: Any) -> Schedule:
    row = tx.execute(
        update(schedules)
        .where(schedules.c.id == schedule_id)
        .values(**values, updated_at=tx.now())
        .returning(schedules)
    ).one_or_none()
    if row is None:
        raise NightshiftError("not_found", "There is no such schedule.")
    return Schedule.from_row(row)


def remove(tx: Tx, schedule_id: str) -> None:
    """Its batches stay."""
    tx.execute(delete(schedules).where(schedules.c.id == schedule_id))


def get(tx: Tx, schedule_id: str, key_id: str | None = None) -> Schedule | None:
    query = select(schedules).where(schedules.c.id == schedule_id)
    if key_id is not None:
        query = query.where(schedules.c.key_id == key_id)
    row = tx.execute(query).one_or_none()
    return Schedule.from_row(row) if row is not None else None


def page(tx: Tx, key_id: str, *, before: str | None, limit: int) -> list[Schedule]:
    """A key's schedules, newest first, before the id `before`."""
    query = select(schedules).where(schedules.c.key_id == key_id)
    if before is not None:
        query = query.where(schedules.c.id < before)
    return [Schedule.from_row(row) for row in tx.execute(query.order_by(schedules.c.id.desc()).limit(limit))]


def history(tx: Tx, schedule_id: str, limit: int = 100) -> list[Tick]:
    """What became of its ticks, the newest first."""
    query = select(schedule_ticks).where(schedule_ticks.c.schedule_id == schedule_id)
    return [Tick.from_row(row) for row in tx.execute(query.order_by(schedule_ticks.c.tick.desc()).limit(limit))]
