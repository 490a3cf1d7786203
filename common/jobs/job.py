"""The values that walk through the queue. Database rows never leave `common`; these do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Row

from common.db.tables import INTERACTIVE, jobs
from common.forecast import Risk
from common.states import TERMINAL, Reason, State


@dataclass(frozen=True)
class Brief:
    """A job in brief: what its log, the counts of its batch and those who wait for it need to know. Of thousands at
    once, to read more of each would cost more than all that is done to them."""

    id: str
    batch_id: str | None
    batch_item: int | None
    expected: float | None
    length: float | None
    state: State
    reason: Reason
    attempt: int
    worker: str | None
    error: Mapping[str, Any] | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        values: dict[str, Any] = dict(zip(row._fields, row, strict=True))
        values["state"], values["reason"] = State(values["state"]), Reason(values["reason"])
        return cls(**values)


BRIEF = tuple(jobs.c[member.name] for member in fields(Brief))
"""The columns of `Brief`."""


@dataclass(frozen=True)
class Job(Brief):
    """A job as it stood when it was read. risk: of not starting by its deadline, as it was last told, at risk_at."""

    key_id: str
    kind: str
    engine: str
    lane: str
    batch: str | None
    item: Mapping[str, Any] | None
    priority: int
    request: Mapping[str, Any]
    run_at: datetime
    deadline: datetime | None
    risk: Risk | None
    risk_at: datetime | None
    upstream: str | None
    failures: int
    crashes: int
    losses: int
    company: int | None
    crashed_at_block: int | None
    lease_until: datetime | None
    cancel_requested: bool
    progress: Mapping[str, Any] | None
    blocks_done: int
    blocks_total: int | None
    result: Mapping[str, Any] | None
    result_attempt: int | None
    fingerprint: str | None
    work_seconds: float | None
    stored_bytes: int
    idempotency_key: str | None
    request_digest: str
    rung_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expiry_told_at: datetime | None
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        job = super().from_row(row)
        return replace(job, risk=Risk(job.risk)) if job.risk is not None else job

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def unblemished(self) -> bool:
        """Whether no attempt at it has failed, or been lost, so far."""
        return not self.failures and not self.losses

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
