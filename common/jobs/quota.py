"""What a key may still do: the bytes it may store, and the hours of audio left of its day.

Both are sums read without a lock: what is under way at the same moment may come on top, and a job that crosses the line
still runs. A key without such a quota costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from common.db import usage
from common.db.engine import Tx
from common.db.tables import jobs, keys
from common.errors import NightshiftError
from common.quotas import Quotas, is_audio, next_midnight
from common.states import State


@dataclass
class Allowance:
    """Seconds of audio that a key may still have today; a job that crosses 0 is granted."""

    seconds: float = math.inf

    def grant(self, kind: str, expected: float | None) -> bool:
        """Whether one more job may go. expected: its length, where its source says."""
        if self.seconds <= 0:
            return False
        if is_audio(kind):
            self.seconds -= expected or 0.0
        return True


def of(tx: Tx, key_id: str, default: Quotas) -> Quotas:
    """A key's own quotas, and the default for what it has none of."""
    columns = (keys.c.max_waiting, keys.c.max_audio_hours_per_day, keys.c.max_bytes)
    row = tx.execute(select(*columns).where(keys.c.id == key_id)).one_or_none()
    return default.but(**row._mapping) if row is not None else default


def allows(tx: Tx, key_id: str, own: Quotas, more: int) -> bool:
    """Whether the key may have so many more unfinished jobs."""
    return own.max_waiting - unfinished(tx, key_id, own.max_waiting) >= more


def check_bytes(tx: Tx, key_id: str, own: Quotas, more: int = 0) -> None:
    """Raises `quota_exceeded` where the key has nothing left in the store, or not `more` bytes."""
    if own.max_bytes is None:
        return
    used = usage.stored(tx, key_id)
    if used >= own.max_bytes or used + more > own.max_bytes:
        raise NightshiftError(
            "quota_exceeded",
            f"The key has {used} bytes in the store, of {own.max_bytes} that it may have.",
            hint="Delete jobs, uploads or voices, wait until old ones expire, or ask the operator for more.",
            retryable=False,
            extra={"quota": "bytes", "used": used, "limit": own.max_bytes},
        )


def check_hours(tx: Tx, key_id: str, own: Quotas) -> None:
    """Raises `quota_exceeded` where the key has used its hours of audio of today."""
    limit = own.max_audio_hours_per_day
    if limit is None:
        return
    now = tx.instant()
    left = left_today(tx, {key_id: limit}, now)[key_id]
    if left <= 0:
        until = next_midnight(now)
        raise NightshiftError(
            "quota_exceeded",
            f"The key has used its {limit:g} hours of audio of today.",
            hint="Submit it with priority batch, and it waits until midnight UTC; or ask the operator for more.",
            extra={
                "quota": "audio_hours", "used": round(limit - left / 3600, 3), "limit": limit,
                "until": until.isoformat().replace("+00:00", "Z"),
                "retry_after": int((until - now).total_seconds()) + 1,
            },
        )  # fmt: skip


@dataclass(frozen=True)
class Used:
    """unfinished: jobs, counted up to the quota.  audio_seconds: of today, what is under way as expected.
    held_until: nothing of the key's batches is released until then, because its hours are used.  bytes: in the store.
    """

    unfinished: int
    audio_seconds: float
    held_until: datetime | None
    bytes: int


def used(tx: Tx, key_id: str, own: Quotas) -> Used:
    """What a key uses of its quotas."""
    now = tx.instant()
    hours = math.inf if own.max_audio_hours_per_day is None else own.max_audio_hours_per_day
    today = -left_today(tx, {key_id: 0.0}, now)[key_id]
    return Used(
        unfinished=unfinished(tx, key_id, own.max_waiting),
        audio_seconds=today,
        held_until=next_midnight(now) if today >= 3600 * hours else None,
        bytes=usage.stored(tx, key_id),
    )


def unfinished(tx: Tx, key_id: str, at_most: int) -> int:
    """A key's unfinished jobs, counted up to `at_most`."""
    found = select(jobs.c.id).where(jobs.c.key_id == key_id, jobs.c.finished_at.is_(None))
    # In the order of its index, which holds only these: the cost is that of the key's own backlog.
    counted = found.order_by(jobs.c.finished_at, jobs.c.id).limit(at_most).subquery()
    return int(tx.execute(select(func.count()).select_from(counted)).scalar_one())


def held_until(tx: Tx, key_id: str, own: Quotas) -> datetime | None:
    """Until when nothing of a key's batches is released, because it has used its hours; None where it is not held."""
    if own.max_audio_hours_per_day is None:
        return None
    now = tx.instant()
    left = left_today(tx, {key_id: own.max_audio_hours_per_day}, now)[key_id]
    return next_midnight(now) if left <= 0 else None


def left_today(tx: Tx, hours: Mapping[str, float], now: datetime) -> dict[str, float]:
    """Seconds of audio that are left of each key's day, below 0 where it has had more. hours: of a day, by key.

    What ended today counts with the length that was found, what is queued or running with the one expected, if any.
    """
    done = usage.audio_seconds(tx, hours, now)
    left = {key_id: 3600 * limit - done.get(key_id, 0.0) for key_id, limit in hours.items()}
    # Of all keys: few, and one statement a state, as each has its partial index.
    for state in (State.QUEUED, State.RUNNING):
        under_way = select(jobs.c.key_id, jobs.c.kind, jobs.c.expected).where(jobs.c.state == state)
        for row in tx.execute(under_way):
            if row.key_id in left and is_audio(row.kind):
                left[row.key_id] -= row.expected or 0.0
    return left
