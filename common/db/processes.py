"""The processes that are there: workers, schedulers, deliverers. Each says so every few seconds."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from common.db.engine import Tx
from common.db.tables import jobs, processes
from common.states import State


@dataclass(frozen=True)
class Process:
    """alive: it was seen within the time asked for.  job_ids: what it is running now."""

    name: str
    role: str
    host: str
    pid: int
    lanes: tuple[str, ...]
    info: Mapping[str, Any]
    control: str
    crashed_jobs: tuple[str, ...]
    quarantined_until: datetime | None
    started_at: datetime
    seen_at: datetime
    alive: bool
    job_ids: tuple[str, ...]


def register(
    tx: Tx, name: str, role: str, *, lanes: Collection[str] = (), info: Mapping[str, Any] | None = None
) -> None:
    """Says that a process has started. A drain ordered of its predecessor is over; a pause or quarantine is not."""
    dialect_insert = postgresql.insert if tx.postgresql else sqlite.insert
    fresh = {
        "role": role,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "lanes": sorted(lanes),
        "info": dict(info or {}),
        "started_at": tx.now(),
        "seen_at": tx.now(),
    }
    tx.execute(
        dialect_insert(processes)
        .values(name=name, control="run", crashed_jobs=[], **fresh)
        .on_conflict_do_update(index_elements=["name"], set_=fresh)
    )
    tx.execute(update(processes).where(processes.c.name == name, processes.c.control == "drain").values(control="run"))


def seen(tx: Tx, name: str, info: Mapping[str, Any] | None = None) -> str | None:
    """Says that a process is alive; returns what it is told to do (run, pause, drain), None where it is unknown."""
    values: dict[str, Any] = {"seen_at": tx.now()}
    if info is not None:
        values["info"] = dict(info)
    control = tx.execute(
        update(processes).where(processes.c.name == name).values(**values).returning(processes.c.control)
    ).scalar_one_or_none()
    return None if control is None else str(control)


def gone(tx: Tx, name: str) -> None:
    """Says that a process ends in good order. A paused one keeps its row, lest its successor should start working."""
    tx.execute(delete(processes).where(processes.c.name == name, processes.c.control != "pause"))


def order(tx: Tx, name: str, control: str) -> bool:
    """Tells a worker to run, pause (finish its job, take no other) or drain (give back its job and end)."""
    values: dict[str, Any] = {"control": control}
    if control == "run":
        values |= {"quarantined_until": None, "crashed_jobs": []}
    return bool(
        tx.execute(
            update(processes).where(processes.c.name == name, processes.c.role == "worker").values(**values)
        ).rowcount
    )


def takers(tx: Tx, alive_seconds: float) -> dict[str, frozenset[str]]:
    """The workers that may claim a job now: alive, told to run, not in quarantine. Name to lanes."""
    rows = tx.execute(
        select(processes.c.name, processes.c.lanes).where(
            processes.c.role == "worker",
            processes.c.control == "run",
            processes.c.seen_at > tx.now(-alive_seconds),
            or_(processes.c.quarantined_until.is_(None), processes.c.quarantined_until <= tx.now()),
        )
    )
    return {row.name: frozenset(row.lanes) for row in rows}


def idle(tx: Tx, alive_seconds: float) -> dict[str, frozenset[str]]:
    """Of `takers`, those that run nothing."""
    busy = set(tx.execute(select(jobs.c.worker).where(jobs.c.state == State.RUNNING)).scalars())
    return {name: lanes for name, lanes in takers(tx, alive_seconds).items() if name not in busy}


def list_all(tx: Tx, alive_seconds: float, role: str | None = None) -> list[Process]:
    alive = (processes.c.seen_at > tx.now(-alive_seconds)).label("alive")
    query = select(processes, alive).order_by(processes.c.role, processes.c.name)
    if role is not None:
        query = query.where(processes.c.role == role)
    running: dict[str, list[str]] = {}
    for row in tx.execute(select(jobs.c.worker, jobs.c.id).where(jobs.c.state == State.RUNNING).order_by(jobs.c.id)):
        running.setdefault(row.worker, []).append(row.id)
    return [_from_row(row, running.get(row.name, [])) for row in tx.execute(query)]


def _from_row(row: Row[Any], job_ids: Collection[str]) -> Process:
    values = dict(row._mapping)
    return Process(
        **{
            **values,
            "lanes": tuple(values["lanes"]),
            "crashed_jobs": tuple(values["crashed_jobs"]),
            "alive": bool(values["alive"]),
            "job_ids": tuple(job_ids),
        }
    )
