"""The counts of a batch, kept with the ends of its jobs, and what follows from them: its callbacks and its own end.

Its jobs' rows are locked before the batch's, here as everywhere: else two verbs could lock them crosswise.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, update

from common.db.engine import Tx
from common.db.tables import batches
from common.jobs import callbacks, gate
from common.jobs.batch import Batch, BatchReason, BatchState, OnError
from common.jobs.job import Brief
from common.states import TERMINAL, State

_COUNTS = {state: batches.c[str(state)] for state in TERMINAL}
_ENDED = batches.c.succeeded + batches.c.failed + batches.c.cancelled + batches.c.expired


def ended(tx: Tx, over: Iterable[Brief]) -> None:
    """Counts jobs that have just ended."""
    for batch_id, counted in _by_batch(over):
        batch = _count(tx, batch_id, counted, 1)
        if batch.on_error is OnError.STOP and counted.states[State.FAILED] and batch.state is BatchState.ACTIVE:
            batch = _stop(tx, batch)
        _tell_progress(tx, batch)
        settle(tx, batch)


def again(tx: Tx, before: Iterable[Brief]) -> None:
    """Takes jobs out of the counts that are to run again. before: as they had ended. A batch that was over goes on."""
    for batch_id, counted in _by_batch(before):
        batch = _count(tx, batch_id, counted, -1)
        if batch.over:
            reopen(tx, batch, BatchReason.RETRIED)


def reopen(tx: Tx, batch: Batch, reason: BatchReason) -> Batch:
    """To active, its gate where its window puts it."""
    opened = gate.at(batch.window, tx.instant())
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id)
        .values(
            state=BatchState.ACTIVE, reason=reason, open_until=opened.open_until, changes_at=opened.changes_at,
            error=None, finished_at=None, expiry_told_item=None, expiry_told_at=None, updated_at=tx.now(),
        )
        .returning(batches)
    ).one()  # fmt: skip
    return Batch.from_row(row)


def settle(tx: Tx, batch: Batch) -> Batch:
    """Ends a batch whose every job has ended."""
    if batch.state is BatchState.CANCELLING:
        state = BatchState.FAILED if batch.error else BatchState.CANCELLED
    elif batch.state in (BatchState.ACTIVE, BatchState.PAUSED):
        state = BatchState.FINISHED
    else:
        return batch
    row: Row[Any] | None = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.state == batch.state, batches.c.total == _ENDED)
        .values(
            state=state,
            reason=BatchReason.DONE if state is BatchState.FINISHED else batch.reason,
            open_until=None,
            changes_at=None,
            finished_at=tx.now(),
            updated_at=tx.now(),
        )
        .returning(batches)
    ).one_or_none()
    if row is None:
        return batch
    over = Batch.from_row(row)
    flawed = over.succeeded < over.total or over.rejected
    tell(tx, over, "finished_with_errors" if state is BatchState.FINISHED and flawed else str(state))
    delivered(tx, over)
    return over


def delivered(tx: Tx, batch: Batch) -> None:
    """Tells that a batch is over and no result of it is on its way any more. Called where either has just come true."""
    if batch.deliver and batch.state in (BatchState.FINISHED, BatchState.CANCELLED) and not batch.delivering:
        tell(tx, batch, "delivered_with_errors" if batch.undelivered else "delivered")


@dataclass
class _Counted:
    """lengths: how many of them have an expected length.  length: seconds of these together.
    done: seconds of audio of those that succeeded, as their workers found it."""

    states: Counter[State] = field(default_factory=Counter)
    lengths: int = 0
    length: float = 0.0
    done: float = 0.0


def _by_batch(jobs: Iterable[Brief]) -> list[tuple[str, _Counted]]:
    """In the order of the batches: two verbs at once must not lock them crosswise."""
    found: dict[str, _Counted] = {}
    for job in jobs:
        if job.batch_id is not None:
            counted = found.setdefault(job.batch_id, _Counted())
            counted.states[job.state] += 1
            counted.lengths += job.expected is not None
            counted.length += job.expected or 0.0
            counted.done += (job.length or 0.0) if job.state is State.SUCCEEDED else 0.0
    return sorted(found.items(), key=lambda item: item[0])


def _count(tx: Tx, batch_id: str, counted: _Counted, sign: int) -> Batch:
    moved = {_COUNTS[state].name: _COUNTS[state] + sign * n for state, n in counted.states.items()}
    if counted.lengths:
        moved["lengths"] = batches.c.lengths - sign * counted.lengths
        moved["length"] = batches.c.length - sign * counted.length
    if counted.done:
        moved["audio_done"] = batches.c.audio_done + sign * counted.done
    row = tx.execute(
        update(batches).where(batches.c.id == batch_id).values(**moved, updated_at=tx.now()).returning(batches)
    ).one()
    return Batch.from_row(row)


def _stop(tx: Tx, batch: Batch) -> Batch:
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.state == BatchState.ACTIVE)
        .values(state=BatchState.PAUSED, reason=BatchReason.ITEM_FAILED, open_until=None, changes_at=None)
        .returning(batches)
    ).one()
    stopped = Batch.from_row(row)
    tell(tx, stopped, "stopped")
    return stopped


def _tell_progress(tx: Tx, batch: Batch) -> None:
    every = (batch.callback or {}).get("every_percent")
    if not every or not batch.total or batch.ended == batch.total:
        return
    step = 100 * batch.ended // batch.total // every * every
    if step <= batch.told:
        return
    told = update(batches).where(batches.c.id == batch.id, batches.c.told < step).values(told=step)
    if tx.execute(told).rowcount:
        tell(tx, batch, "progress")


def tell(tx: Tx, batch: Batch, event: str, **more: Any) -> None:
    """Writes a message about a batch where its request asks to be told. more: members of its data."""
    if batch.callback:
        url = batch.callback["url"]
        body = message(batch, f"batch.{event}", tx.instant(), **more)
        callbacks.put(tx, batch.key_id, url, f"batch.{event}", body, batch_id=batch.id)


def message(batch: Batch, event: str, at: datetime, **more: Any) -> str:
    """The body of a callback: type, timestamp, data, as Standard Webhooks has it. more: members of its data."""
    counts = ("total", "rejected", "skipped", "succeeded", "failed", "cancelled", "expired")
    data = {
        "id": batch.id,
        "name": batch.name,
        "state": batch.state,
        "reason": batch.reason,
        "error": dict(batch.error) if batch.error else None,
        "counts": {name: getattr(batch, name) for name in counts},
        "percent": round(100 * batch.ended / batch.total, 1) if batch.total else 100.0,
        "delivery": batch.delivery,
        **more,
    }
    body = {"type": event, "timestamp": at.isoformat().replace("+00:00", "Z"), "data": data}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
