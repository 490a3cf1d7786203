"""Jobs for tests: brought into any state by the verbs themselves, and looked at whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update

from common.db import keys
from common.db.engine import Database, Tx
from common.db.tables import blocks, callbacks, events, jobs, sweeps
from common.jobs import claiming, finish, query, running, submit
from common.jobs.job import Job
from common.params import Request, parse_request
from common.quotas import Quotas
from common.states import Reason, State

QUOTA = Quotas(1000)
LEASE = 30.0
RECEIVER = "https://receiver.example/hook"
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
ERROR = {"code": "engine_failed", "message": "It broke.", "retryable": False}


def request(**members: Any) -> Request:
    """A request for speech, with a callback; `members` replace its members."""
    plain = {
        "input": {"url": "https://media.example/episode.wav"},
        "params": {"prompts": ["speech"]},
        "callback": {"url": RECEIVER},
    }
    return parse_request(plain | members)


def result(*names: str, **members: Any) -> dict[str, Any]:
    outputs = [
        {"name": name, "role": "target", "content_type": "audio/flac", "bytes": 1000, "key": f"somewhere/{name}.flac"}
        for name in names or ("speech", "residual")
    ]
    return {"outputs": outputs, **members}


def new_key(database: Database, name: str = "tester", **quota: Any) -> str:
    with database.write() as tx:
        return keys.create(tx, name, ["read", "write"], **quota)[0].id


def submitted(database: Database, key_id: str, idempotency_key: str | None = None, **members: Any) -> Job:
    with database.write() as tx:
        return submit.submit(
            tx, key_id, request(**members), default_quota=QUOTA, idempotency_key=idempotency_key
        ).job  # fmt: skip


def queue_up(database: Database, *job_ids: str) -> None:
    """Puts these jobs in the queue whatever else waits there."""
    with database.write() as tx:
        tx.execute(
            update(jobs)
            .where(jobs.c.id.in_(job_ids), jobs.c.state == State.WAITING)
            .values(state=State.QUEUED, reason=Reason.RELEASED, rung_at=tx.now())
        )


def claimed(database: Database, job_id: str, worker: str = "w1", lease_seconds: float = LEASE) -> Job:
    queue_up(database, job_id)
    with database.write() as tx:
        job = claiming.claim(tx, worker, ["cpu"], lease_seconds, job_id=job_id)
    assert job is not None
    return job


def brought(database: Database, key_id: str, state: State, **members: Any) -> Job:
    """A job of a key in the given state."""
    job = submitted(database, key_id, **members)
    if state is State.WAITING:
        return job
    if state is State.QUEUED:
        queue_up(database, job.id)
        return look(database, job.id)
    if state is State.EXPIRED:
        with database.write() as tx:
            tx.execute(update(jobs).where(jobs.c.id == job.id).values(deadline=LONG_AGO))
            finish.expire(tx)
        return look(database, job.id)
    job = claimed(database, job.id)
    with database.write() as tx:
        if state is State.SUCCEEDED:
            finish.succeed(tx, job.lease, result())
        elif state is State.FAILED:
            finish.fail(tx, job.lease, ERROR)
        elif state is State.CANCELLED:
            finish.cancel(tx, job.id)
            finish.cancelled(tx, job.lease)
    return look(database, job.id)


def look(database: Database, job_id: str) -> Job:
    with database.read() as tx:
        job = query.get(tx, job_id)
    assert job is not None
    return job


def lose_lease(database: Database, *job_ids: str) -> None:
    """What a worker that died leaves after a while: a lease that ran out."""
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(lease_until=tx.now(-1.0)))


def checkpointed(database: Database, job: Job, index: int = 0, total: int = 3) -> None:
    with database.write() as tx:
        running.checkpoint(tx, job.lease, LEASE, "print", index, total, {"speech": f"blocks/{index}"})


@dataclass(frozen=True)
class Snapshot:
    """All that verbs may write, of every job: rows by id, and how many events, callbacks, blocks and sweeps."""

    jobs: Mapping[str, Mapping[str, Any]]
    events: Mapping[str, list[Mapping[str, Any]]]
    callbacks: Mapping[str, list[str]]
    blocks: frozenset[tuple[str, str, int]]
    sweeps: int


def snapshot(tx: Tx) -> Snapshot:
    rows = {row.id: dict(row._mapping) for row in tx.execute(select(jobs))}
    told: dict[str, list[Mapping[str, Any]]] = {job_id: [] for job_id in rows}
    for row in tx.execute(select(events.c.job_id, events.c.data).where(events.c.type == "state").order_by(events.c.id)):
        told[row.job_id].append(row.data)
    sent: dict[str, list[str]] = {job_id: [] for job_id in rows}
    for row in tx.execute(select(callbacks.c.job_id, callbacks.c.event).order_by(callbacks.c.created_at)):
        sent.setdefault(row.job_id, []).append(row.event)
    finished = frozenset(
        (row.job_id, row.fingerprint, row.index)
        for row in tx.execute(select(blocks.c.job_id, blocks.c.fingerprint, blocks.c.index))
    )
    return Snapshot(rows, told, sent, finished, tx.execute(select(func.count()).select_from(sweeps)).scalar_one())
