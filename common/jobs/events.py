"""The log of a job: its changes of state and what its worker had to say. Rows are written in the verb's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, insert, literal, select

from common.db.engine import Tx
from common.db.tables import events
from common.db.tables import jobs as job_rows
from common.db.types import Json, to_json
from common.jobs.job import Brief


@dataclass(frozen=True)
class Event:
    id: int
    job_id: str
    at: datetime
    type: str
    data: Mapping[str, Any]


def changed(tx: Tx, *jobs: Brief, **more: Any) -> None:
    """Records the state that jobs have just come into."""
    if len(jobs) == 1:
        tx.execute(insert(events).values(job_id=jobs[0].id, at=tx.now(), type="state", data=_state(jobs[0]) | more))
    else:
        _alike(tx, tx.now(), ((job.id, _state(job) | more) for job in jobs))


def submitted(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Records the beginning of jobs whose rows were written together."""
    began = ((row["id"], {"state": row["state"], "reason": row["reason"], "attempt": 0}) for row in rows)
    _alike(tx, job_rows.c.created_at, began)


def _alike(tx: Tx, at: ColumnElement[datetime], told: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Records the same of many jobs, which is most of what is ever said of many, in one statement."""
    same: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for job_id, data in told:
        same.setdefault(to_json(data), (data, []))[1].append(job_id)
    for data, ids in same.values():
        tx.execute(
            insert(events).from_select(
                ["job_id", "at", "type", "data"],
                select(job_rows.c.id, at, literal("state"), literal(data, Json)).where(job_rows.c.id.in_(ids)),
            )
        )


def _state(job: Brief) -> dict[str, Any]:
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
