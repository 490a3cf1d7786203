"""Batches as values: many jobs submitted at once, that run in their window and are steered together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from common.forecast import Risk
from common.states import State


class BatchState(StrEnum):
    """preparing: its items are being taken in, and none runs yet.  cancelling: its jobs are being cancelled.
    failed: it could not be prepared, as its error says."""

    PREPARING = "preparing"
    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


OVER = frozenset({BatchState.FINISHED, BatchState.CANCELLED, BatchState.FAILED})


class BatchReason(StrEnum):
    """Why a batch is in its state."""

    CREATED = "created"
    PREPARED = "prepared"
    BY_CALLER = "by_caller"
    ITEM_FAILED = "item_failed"
    RESUMED = "resumed"
    RETRIED = "retried"
    NOT_PREPARED = "not_prepared"
    DONE = "done"


class OnError(StrEnum):
    """What a wrong item does. skip: it is reported, and the others go on.  stop: no item runs where one cannot be read,
    and the first job that fails pauses the batch."""

    SKIP = "skip"
    STOP = "stop"


@dataclass(frozen=True)
class Batch:
    """A batch as it stood when it was read. risk: as it was last told, at risk_at.

    delivering, delivered, undelivered: jobs whose results are on their way into the bucket of `deliver`, are there, or
    could not be brought there.
    """

    id: str
    key_id: str
    name: str
    state: BatchState
    reason: BatchReason
    source: Mapping[str, Any]
    template: Mapping[str, Any]
    window: str | None
    open_until: datetime | None
    changes_at: datetime | None
    deadline: datetime | None
    risk: Risk | None
    risk_at: datetime | None
    on_error: OnError
    weight: float
    callback: Mapping[str, Any] | None
    told: int
    total: int
    rejected: int
    skipped: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    consumed: int
    lengths: int
    length: float
    longest: float
    audio_done: float
    intake_until: datetime | None
    intake_failures: int
    error: Mapping[str, Any] | None
    schedule_id: str | None
    idempotency_key: str | None
    request_digest: str
    created_at: datetime
    finished_at: datetime | None
    expiry_told_item: int | None
    expiry_told_at: datetime | None
    updated_at: datetime
    deliver: Mapping[str, Any] | None
    delivering: int
    delivered: int
    undelivered: int

    @classmethod
    def from_row(cls, row: Row[Any]) -> Batch:
        return cls.from_mapping(row._mapping)

    @classmethod
    def from_mapping(cls, values: Mapping[Any, Any]) -> Batch:
        known = {"state": BatchState, "reason": BatchReason, "on_error": OnError, "risk": Risk}
        given = {name: known[name](values[name]) for name in known if values[name] is not None}
        return cls(**{**values, **given})

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def delivery(self) -> dict[str, Any] | None:
        """What was asked for, and how far it is; None where the results stay here."""
        if self.deliver is None:
            return None
        return {**self.deliver, "pending": self.delivering, "done": self.delivered, "failed": self.undelivered}

    @property
    def ended(self) -> int:
        """Jobs that have ended, however."""
        return self.succeeded + self.failed + self.cancelled + self.expired

    def count(self, state: State) -> int:
        """Jobs that ended in `state`."""
        return {
            State.SUCCEEDED: self.succeeded,
            State.FAILED: self.failed,
            State.CANCELLED: self.cancelled,
            State.EXPIRED: self.expired,
        }[state]


@dataclass(frozen=True)
class Reject:
    """An item that could not become a job. item: its place among the items, from 1.  source: what it was, in short."""

    batch_id: str
    item: int
    source: str | None
    error: Mapping[str, Any] = field(default_factory=dict)
