"""The log of a job: its changes of state and what its worker had to say. Rows are written in the verb's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from common.db.engine import Tx
from common.db.tables import events
from common.jobs.job import Job


@dataclass(frozen=True)
class Event:
    id: int
    job_id: str
    at: datetime
    type: str
    data: Mapping[str, Any]


def changed(tx: Tx, job: Job, **more: Any) -> None:
    """Records the state a job has just come into."""
    data = {"state": job.state, "reason": job.reason, "attempt": job.attempt, **more}
    if job.worker:
        data["worker"] = job.worker
    if job.error:
        data["error"] = dict(job.error)
    tx.execute(insert(events).values(job_id=job.id, at=tx.now(), type="state", data=data))


def log(tx: Tx, job_id: str, level: str, code: str, message: str, **more: Any) -> None:
    """Records a line that helps to understand the run: a retry, a halved batch, a shortfall of the input."""
    data = {"level": level, "code": code, "message": message, **more}
    tx.execute(insert(events).values(job_id=job_id, at=tx.now(), type="log", data=data))


def after(tx: Tx, job_id: str, last_id: int = 0, limit: int = 500) -> list[Event]:
    """The job's events after `last_id`, oldest first."""
    rows = tx.execute(
        select(events).where(events.c.job_id == job_id, events.c.id > last_id).order_by(events.c.id).limit(limit)
    )
    return [Event(**row._mapping) for row in rows]
