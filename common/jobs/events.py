"""The log of a job: its changes of state and what its worker had to say. Rows are written in the verb's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def changed(tx: Tx, *jobs: Job, **more: Any) -> None:
    """Records the state that jobs have just come into."""
    if jobs:
        at = tx.instant() if len(jobs) > 1 else tx.now()
        rows = [{"job_id": job.id, "at": at, "type": "state", "data": _state(job) | more} for job in jobs]
        if len(rows) == 1:
            tx.execute(insert(events).values(rows[0]))
        else:
            tx.execute(insert(events), rows)


def submitted(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Records the beginning of jobs whose rows were written together."""
    tx.execute(
        insert(events),
        [
            {
                "job_id": row["id"],
                "at": row["created_at"],
                "type": "state",
                "data": {"state": row["state"], "reason": row["reason"], "attempt": 0},
            }
            for row in rows
        ],
    )


def _state(job: Job) -> dict[str, Any]:
    data: dict[str, Any] = {"state": job.state, "reason": job.reason, "attempt": job.attempt}
    if job.worker:
        data["worker"] = job.worker
    if job.error:
        data["error"] = dict(job.error)
    return data


def log(tx: Tx, job_id: str, level: str, code: str, message: str, **more: Any) -> None:
    """Records a line that helps to understand the run: a retry, a halved batch, a shortfall of the input."""
    data = {"level": level, "code": code, "message": message, **more}
    tx.execute(insert(events).values(job_id=job_id, at=tx.now(), type="log", data=data))


def warned(tx: Tx, code: str, lines: Mapping[str, str]) -> None:
    """Records one warning each for many jobs, by their ids."""
    if lines:
        rows = [
            {"job_id": job_id, "at": tx.now(), "type": "log", "data": _warning(code, message)}
            for job_id, message in lines.items()
        ]
        tx.execute(insert(events).values(rows))


def _warning(code: str, message: str) -> dict[str, str]:
    return {"level": "warning", "code": code, "message": message}


def after(tx: Tx, job_id: str, last_id: int = 0, limit: int = 500) -> list[Event]:
    """The job's events after `last_id`, oldest first."""
    rows = tx.execute(
        select(events).where(events.c.job_id == job_id, events.c.id > last_id).order_by(events.c.id).limit(limit)
    )
    return [Event(**row._mapping) for row in rows]
