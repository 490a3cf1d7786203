"""The values that walk through the queue. Database rows never leave `common`; these do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from common.db.tables import INTERACTIVE
from common.forecast import Risk
from common.states import TERMINAL, Reason, State


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was read. risk: of not starting by its deadline, as it was last told, at risk_at."""

    id: str
    key_id: str
    kind: str
    engine: str
    lane: str
    batch: str | None
    batch_id: str | None
    batch_item: int | None
    item: Mapping[str, Any] | None
    expected: float | None
    priority: int
    request: Mapping[str, Any]
    state: State
    reason: Reason
    run_at: datetime
    deadline: datetime | None
    risk: Risk | None
    risk_at: datetime | None
    upstream: str | None
    attempt: int
    failures: int
    crashes: int
    losses: int
    crashed_at_block: int | None
    worker: str | None
    lease_until: datetime | None
    cancel_requested: bool
    progress: Mapping[str, Any] | None
    blocks_done: int
    blocks_total: int | None
    result: Mapping[str, Any] | None
    result_attempt: int | None
    fingerprint: str | None
    length: float | None
    work_seconds: float | None
    stored_bytes: int
    error: Mapping[str, Any] | None
    idempotency_key: str | None
    request_digest: str
    rung_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expiry_told_at: datetime | None
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Row[Any]) -> Job:
        values = dict(row._mapping)
        risk = Risk(values["risk"]) if values["risk"] is not None else None
        return cls(**{**values, "state": State(values["state"]), "reason": Reason(values["reason"]), "risk": risk})

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def interactive(self) -> bool:
        return self.priority >= INTERACTIVE

    @property
    def lease(self) -> Lease:
        """The lease of a job that has just been claimed."""
        return Lease(self.id, self.attempt, self.worker or "")


@dataclass(frozen=True)
class Lease:
    """The right to write about a running job: every write of a worker names both."""

    job_id: str
    attempt: int
    worker: str


@dataclass(frozen=True)
class Orders:
    """What a worker must know of its running job. held: the lease is still ours; without it, nothing else counts."""

    held: bool
    cancel: bool = False
    yield_for: Reason | None = None


class LeaseLost(Exception):
    """The job was given to another worker, or ended: whoever holds the old lease stops and writes nothing."""
