"""When batches will be done, among all that waits: how things stand, read at once, and the forecast of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Row, func, select

from common.db.engine import Tx
from common.db.processes import takers
from common.db.tables import BATCH, INTERACTIVE, batches, jobs, keys
from common.forecast import Forecast, Risk, Speed, Work, forecast, likely_seconds
from common.jobs import speeds
from common.jobs.batch import Batch, BatchState
from common.jobs.speeds import Lane
from common.pace import Claimant, Pace
from common.states import State
from common.windows import Windows

# From so many finished jobs on, these tell what length to expect of a batch's others.
_ENOUGH_HEARD = 5
# How far it may be relied on for a batch what length the jobs of others had.
_HEARSAY = 1


@dataclass(frozen=True)
class Waiting:
    """Unfinished work of one engine and lane: of a batch, or (batch_id None) what a key has outside of batches."""

    key_id: str
    key_weight: float
    weight: float
    work: Work
    batch_id: str | None = None
    windows: Windows | None = None
    urgent: bool = False
    deadline: datetime | None = None
    # Of what is paused or still being prepared, a forecast may be wanted; it takes no card from others.
    active: bool = True


@dataclass(frozen=True)
class Standing:
    """What a forecast follows from, at one instant. cards: workers of each lane that take jobs.

    waiting: of all keys, what may run now or when its window opens.
    """

    now: datetime
    speeds: Mapping[Lane, Speed]
    cards: Mapping[str, float]
    waiting: Sequence[Waiting]


@dataclass(frozen=True)
class Outlook:
    """risk: of missing the deadline; None where there is none.  cards: of the lanes that it runs in."""

    forecast: Forecast
    risk: Risk | None
    cards: Mapping[str, float]


# --- Pure -------------------------------------------------------------------------------------------------------------


def outlook(standing: Standing, wanted: Sequence[Waiting]) -> Outlook:
    """The forecast of what is `wanted`, of one batch: a part of what waits, or something that is only planned."""
    own = wanted[0]
    rivals = [
        one
        for one in standing.waiting
        if one.active and one not in wanted and (one.batch_id is None or one.batch_id != own.batch_id)
    ]
    paces = {}
    for lane, cards in standing.cards.items():
        claims = [claim for one in rivals if one.work.lane == lane and (claim := _claim(standing, one, cards))]
        paces[lane] = Pace(standing.now, _claimant(own, 0.0), claims)
    work = [one.work for one in wanted]
    found = forecast(standing.now, work, standing.speeds, standing.cards, own.windows, paces)
    there = {one.lane: standing.cards.get(one.lane, 0.0) for one in work if one.jobs + one.unknown}
    return Outlook(found, found.risk(own.deadline) if own.deadline is not None else None, there)


def of_batch(standing: Standing, batch_id: str) -> Outlook | None:
    """None where nothing of the batch is left to be done."""
    own = [one for one in standing.waiting if one.batch_id == batch_id]
    return outlook(standing, own) if own else None


def _claim(standing: Standing, one: Waiting, cards: float) -> Claimant | None:
    """What others take of the cards. Nothing is said of those whose speed nobody knows."""
    speed = standing.speeds.get((one.work.engine, one.work.lane))
    seconds = likely_seconds(one.work, speed)
    return _claimant(one, seconds / cards) if seconds and cards > 0 else None


def _claimant(one: Waiting, seconds: float) -> Claimant:
    return Claimant(one.key_id, one.key_weight, one.weight, seconds, one.windows, one.urgent)


# --- Read -------------------------------------------------------------------------------------------------------------


def read(tx: Tx, alive_seconds: float, also: Collection[str] = (), engines: Iterable[Lane] = ()) -> Standing:
    """How things stand. also: batches of which a forecast is wanted where they are paused or still being prepared too.
    engines: those whose speed is wanted beside those that wait."""
    found = [*_batches(tx, also), *_outside(tx)]
    lanes = {(one.work.engine, one.work.lane) for one in found} | set(engines)
    known = speeds.speeds(tx, lanes)
    counted: dict[str, float] = {}
    for served in takers(tx, alive_seconds).values():
        for lane in served:
            counted[lane] = counted.get(lane, 0.0) + 1.0
    return Standing(tx.instant(), known, counted, [_typical(one, known) for one in found])


def planned(
    tx: Tx, alive_seconds: float, key_id: str, work: Sequence[Work], *, weight: float = 1.0,
    windows: Windows | None = None, urgent: bool = False, deadline: datetime | None = None,
) -> Outlook:  # fmt: skip
    """Of a batch that is not made yet, as if it were started now."""
    standing = read(tx, alive_seconds, engines=[(one.engine, one.lane) for one in work])
    key_weight = tx.execute(select(keys.c.weight).where(keys.c.id == key_id)).scalar_one()
    wanted = [Waiting(key_id, key_weight, weight, one, None, windows, urgent, deadline) for one in work]
    return outlook(standing, [_typical(one, standing.speeds) for one in wanted])


def _batches(tx: Tx, also: Collection[str]) -> list[Waiting]:
    rows = tx.execute(
        select(batches, keys.c.weight.label("key_weight"))
        .join(keys, keys.c.id == batches.c.key_id)
        .where(batches.c.finished_at.is_(None), (batches.c.state == BatchState.ACTIVE) | batches.c.id.in_(sorted(also)))
        .order_by(batches.c.id)
    ).all()
    begun = _begun(tx)
    found = []
    for row in rows:
        values = dict(row._mapping)
        weight = values.pop("key_weight")
        batch = Batch.from_mapping(values)
        left = batch.total - batch.ended
        # They are all of one engine, as their template has it.
        first = select(jobs.c.engine, jobs.c.lane, jobs.c.priority).where(
            jobs.c.batch_id == batch.id, jobs.c.batch_id.is_not(None)
        )
        of = tx.execute(first.order_by(jobs.c.batch_item).limit(1)).one_or_none() if left > 0 else None
        if of is None or batch.state is BatchState.CANCELLING:
            continue
        heard, typical = speeds.heard(tx, batch.id)
        done = sum(share * (job.expected or 0.0) for job, share in begun.get(batch.id, []))
        work = Work(
            of.engine, of.lane, jobs=min(batch.lengths, left), audio=max(0.0, batch.length - done),
            longest=batch.longest, unknown=max(0, left - batch.lengths),
            typical=typical if heard >= _ENOUGH_HEARD else None, heard=heard if heard >= _ENOUGH_HEARD else None,
        )  # fmt: skip
        windows = Windows.parse(batch.window) if batch.window is not None else None
        urgent = of.priority >= INTERACTIVE
        active = batch.state is BatchState.ACTIVE
        found.append(
            Waiting(batch.key_id, weight, batch.weight, work, batch.id, windows, urgent, batch.deadline, active)
        )
    return found


def _begun(tx: Tx) -> dict[str, list[tuple[Row[Any], float]]]:
    """The jobs that run, by batch, each with the share of it that is done."""
    running = tx.execute(
        select(jobs.c.batch_id, jobs.c.expected, jobs.c.blocks_done, jobs.c.blocks_total)
        .where(jobs.c.state == State.RUNNING, jobs.c.batch_id.is_not(None), jobs.c.blocks_total > 0)
        .order_by(jobs.c.batch_id)
    ).all()
    return {
        batch_id: [(row, min(1.0, row.blocks_done / row.blocks_total)) for row in rows]
        for batch_id, rows in groupby(running, key=lambda row: row.batch_id)
    }


def _outside(tx: Tx) -> list[Waiting]:
    """What keys have outside of batches; how long these jobs are, nobody knows."""
    counted: dict[tuple[str, str, str, bool], tuple[float, int]] = {}
    # One statement a state: each has its partial index.
    for state in (State.WAITING, State.QUEUED, State.RUNNING):
        query = (
            select(jobs.c.key_id, keys.c.weight, jobs.c.engine, jobs.c.lane, jobs.c.priority, func.count().label("n"))
            .join(keys, keys.c.id == jobs.c.key_id)
            .where(jobs.c.state == state, jobs.c.batch_id.is_(None))
            .group_by(jobs.c.key_id, keys.c.weight, jobs.c.engine, jobs.c.lane, jobs.c.priority)
        )
        if state is State.WAITING:
            query = query.where(jobs.c.upstream.is_(None), jobs.c.run_at <= tx.now())
        for row in tx.execute(query):
            which = (row.key_id, row.engine, row.lane, row.priority > BATCH)
            counted[which] = (row.weight, counted.get(which, (0.0, 0))[1] + row.n)
    return [
        Waiting(key_id, weight, 1.0, Work(engine, lane, jobs=0, audio=0.0, longest=0.0, unknown=n), urgent=urgent)
        for (key_id, engine, lane, urgent), (weight, n) in sorted(counted.items())
    ]


def _typical(one: Waiting, known: Mapping[Lane, Speed]) -> Waiting:
    """Of lengths that nothing tells, the engine's other jobs give an idea."""
    speed = known.get((one.work.engine, one.work.lane))
    if speed is None or one.work.typical is not None or one.work.jobs or not one.work.unknown:
        return one
    return replace(one, work=replace(one.work, typical=speed.mean, heard=_HEARSAY))
