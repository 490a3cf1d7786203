"""Deadlines are warned of: where the forecast passes one, that is told once, by whoever finds it first.

A batch is to be done by its deadline, a job outside of batches to have started. What was told last stands in their
rows, so that lists show it without reckoning, and any number of schedulers tell a change once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update

from common.db.engine import Tx
from common.db.tables import batches, jobs
from common.forecast import Forecast, Risk
from common.jobs import callbacks, events, outlook, query, tally
from common.jobs.batch import Batch, BatchState
from common.jobs.job import Job
from common.jobs.outlook import Standing
from common.states import State

# What has become better is told so long after the last word, lest a forecast that wavers should send one a minute.
CALM_SECONDS = 3600.0
# Of jobs, so many with the next deadlines are looked at each time, and so many before each are counted.
SOONEST, AHEAD = 500, 5000

_ORDER = (Risk.ON_TIME, Risk.AT_RISK, Risk.LATE)


@dataclass(frozen=True)
class Finding:
    """What is to be told of a batch or a job. forecast: of the batch's end, of the job's start."""

    of: Batch | Job
    risk: Risk
    forecast: Forecast | None


# --- Pure -------------------------------------------------------------------------------------------------------------


def is_news(told: Risk | None, told_at: datetime | None, found: Risk, now: datetime) -> bool:
    """Whether what was found is to be told: at once where it is worse than what was told last, after a while where it
    is better, and never where nobody can tell."""
    if found is Risk.UNKNOWN or found is told:
        return False
    if told is None or told_at is None or _worse(told, found):
        return True
    return (now - told_at).total_seconds() >= CALM_SECONDS


def _worse(told: Risk, found: Risk) -> bool:
    return _ORDER.index(found) > _ORDER.index(told)


def start_of(standing: Standing, job: Job, ahead: int, running: Counter[tuple[str, str]]) -> Forecast | None:
    """When a job outside of batches will start: when so many of those before it are done that a card is free.

    ahead: jobs of its key that come first.  running: by lane and key (`*` for all).  None where that cannot be told.
    """
    group = [
        one
        for one in standing.waiting
        if (one.batch_id, one.key_id, one.work.lane, one.urgent)
        == (None, job.key_id, job.lane, job.interactive)
    ]  # fmt: skip
    waiting = sum(one.work.unknown for one in group)
    if not waiting:
        return None
    cards = standing.cards.get(job.lane, 0.0)
    none_free = running[job.lane, "*"] >= cards
    first = max(ahead + running[job.lane, job.key_id] - math.floor(cards) + 1, int(none_free))
    # They are of the same engines as all that the key has waiting.
    wanted = [
        replace(one, work=replace(one.work, unknown=math.ceil(first * one.work.unknown / waiting))) for one in group
    ]
    rest = replace(standing, waiting=[one for one in standing.waiting if one not in group])
    return outlook.outlook(rest, wanted).forecast


# --- Found ------------------------------------------------------------------------------------------------------------


def look(tx: Tx, alive_seconds: float) -> list[Finding]:
    """What is new about the deadlines of unfinished batches, and of jobs outside of batches that have not started."""
    late = _batches(tx)
    soon = _jobs(tx)
    if not late and not soon:
        return []
    standing = outlook.read(tx, alive_seconds, [batch.id for batch in late])
    found = [one for batch in late if (one := _of_batch(standing, batch)) is not None]
    running = _running(tx) if soon else Counter()
    found += [one for job in soon if (one := _of_job(tx, standing, job, running)) is not None]
    return [one for one in found if is_news(one.of.risk, one.of.risk_at, one.risk, standing.now)]


def _batches(tx: Tx) -> list[Batch]:
    rows = tx.execute(
        select(batches)
        .where(
            batches.c.finished_at.is_(None), batches.c.deadline.is_not(None),
            batches.c.state.in_((BatchState.ACTIVE, BatchState.PAUSED)),
        )
        .order_by(batches.c.id)
    )  # fmt: skip
    return [Batch.from_row(row) for row in rows]


def _jobs(tx: Tx) -> list[Job]:
    rows = tx.execute(
        select(jobs)
        .where(
            jobs.c.deadline.is_not(None), jobs.c.started_at.is_(None), jobs.c.finished_at.is_(None),
            jobs.c.batch_id.is_(None), jobs.c.upstream.is_(None),
        )
        .order_by(jobs.c.deadline)
        .limit(SOONEST)
    )  # fmt: skip
    return [Job.from_row(row) for row in rows]


def _running(tx: Tx) -> Counter[tuple[str, str]]:
    """How many jobs run, by lane: of each key outside of batches, and (`*`) of all."""
    found: Counter[tuple[str, str]] = Counter()
    rows = tx.execute(select(jobs.c.lane, jobs.c.key_id, jobs.c.batch_id).where(jobs.c.state == State.RUNNING))
    for row in rows:
        found[row.lane, "*"] += 1
        found[row.lane, row.key_id] += row.batch_id is None
    return found


def _of_batch(standing: Standing, batch: Batch) -> Finding | None:
    assert batch.deadline is not None
    found = outlook.of_batch(standing, batch.id)
    if found is None or found.risk is None:
        return None
    past = batch.deadline < standing.now
    return Finding(batch, Risk.LATE if past else found.risk, found.forecast)


def _of_job(tx: Tx, standing: Standing, job: Job, running: Counter[tuple[str, str]]) -> Finding | None:
    assert job.deadline is not None
    ahead = query.ahead(tx, job, AHEAD)
    found = start_of(standing, job, ahead, running)
    if found is None:
        return None
    risk = found.risk(job.deadline)
    # There may be more before it.
    return None if ahead == AHEAD and risk is not Risk.LATE else Finding(job, risk, found)


# --- Told -------------------------------------------------------------------------------------------------------------


def tell(tx: Tx, found: Finding) -> bool:
    """Writes down what was found, with the callback and the line in the log; False where somebody else did, or the
    batch or job has gone on meanwhile."""
    return _tell_batch(tx, found.of, found) if isinstance(found.of, Batch) else _tell_job(tx, found.of, found)


def _tell_batch(tx: Tx, batch: Batch, found: Finding) -> bool:
    told = update(batches).where(
        batches.c.id == batch.id, batches.c.finished_at.is_(None), _as_read(batches, found, tx)
    )
    row = tx.execute(
        told.values(risk=found.risk, risk_at=tx.now(), updated_at=tx.now()).returning(batches)
    ).one_or_none()
    if row is None:
        return False
    event = _event(found)
    if event is not None:
        tally.tell(tx, Batch.from_row(row), event, **_more(found))
    return True


def _tell_job(tx: Tx, job: Job, found: Finding) -> bool:
    waits = and_(jobs.c.started_at.is_(None), jobs.c.finished_at.is_(None))
    told = update(jobs).where(jobs.c.id == job.id, waits, _as_read(jobs, found, tx))
    # Not `updated_at`: of a queued job that says since when it is.
    row = tx.execute(told.values(risk=found.risk, risk_at=tx.now()).returning(jobs)).one_or_none()
    if row is None:
        return False
    event = _event(found)
    if event is None:
        return True
    level = "info" if found.risk is Risk.ON_TIME else "warning"
    events.log(tx, job.id, level, event, _sentence(found), **_more(found))
    callbacks.tell(tx, [(Job.from_row(row), f"job.{event}", _more(found))])
    return True


def _as_read(table: Any, found: Finding, tx: Tx) -> ColumnElement[bool]:
    """That nobody has told anything since; and, of what has become better, that the last word is old enough."""
    same: ColumnElement[bool] = table.c.risk.is_not_distinct_from(found.of.risk)
    if found.of.risk is None or _worse(found.of.risk, found.risk):
        return same
    return and_(same, or_(table.c.risk_at.is_(None), table.c.risk_at <= tx.now(-CALM_SECONDS)))


def _event(found: Finding) -> str | None:
    """None where all is well, and nothing else was ever told."""
    if found.risk is not Risk.ON_TIME:
        return "deadline_at_risk"
    return "deadline_on_time" if found.of.risk is not None else None


def _more(found: Finding) -> dict[str, Any]:
    forecast = found.forecast
    told: Mapping[str, datetime | None] = (
        {name: getattr(forecast, name) for name in ("earliest", "likely", "latest")} if forecast is not None else {}
    )
    return {
        "deadline": callbacks.instant(found.of.deadline),
        "risk": found.risk,
        "forecast": {name: callbacks.instant(at) for name, at in told.items()} or None,
    }


def _sentence(found: Finding) -> str:
    likely = found.forecast.likely if found.forecast is not None else None
    starts = f"It will likely start at {callbacks.instant(likely)}" if likely is not None else "It has not started"
    after = {
        Risk.LATE: "after its deadline of",
        Risk.AT_RISK: "perhaps after its deadline of",
        Risk.ON_TIME: "before its deadline of",
    }[found.risk]
    return f"{starts}, {after} {callbacks.instant(found.of.deadline)}."
