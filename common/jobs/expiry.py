"""The warning before anything is deleted: told once to whoever asked to be called, and written into the job's log.

Marks and messages are written in one transaction, step by step, so that any number of schedulers tell once. Nothing is
pruned that has not been told long enough ago: a warning that comes late puts the end off.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from common.db.engine import Tx
from common.db.tables import batches, jobs
from common.jobs import callbacks, events, tally
from common.jobs.batch import Batch
from common.jobs.job import Job
from common.retention import Retention

STEP = 500


def tell_jobs(tx: Tx, keep: Retention, limit: int = STEP) -> int:
    """Tells of up to `limit` jobs that will be deleted within the warning time; how many. Those of a batch go, and are
    told, with it."""
    picked = (
        select(jobs.c.id)
        .where(
            jobs.c.expiry_told_at.is_(None),
            jobs.c.finished_at < tx.now(keep.warning_seconds - keep.seconds),
            jobs.c.batch_id.is_(None),
        )
        .order_by(jobs.c.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(tx.execute(picked).scalars())
    if not ids:
        return 0
    rows = tx.execute(
        update(jobs)
        .where(jobs.c.id.in_(ids), jobs.c.expiry_told_at.is_(None), jobs.c.finished_at.is_not(None))
        .values(expiry_told_at=tx.now())
        .returning(jobs)
    )
    told = [Job.from_row(row) for row in rows]
    at = tx.instant()
    _tell(tx, [(job, keep.expires_at(job.finished_at, at)) for job in told])
    return len(told)


def tell_batch(tx: Tx, keep: Retention, limit: int = STEP) -> bool:
    """Goes on with telling of the batch that is to be deleted next: first of the batch, then, where they have callbacks
    of their own, of up to `limit` of its jobs. False where there is nothing to tell."""
    query = (
        select(batches)
        .where(batches.c.finished_at < tx.now(keep.warning_seconds - keep.seconds), batches.c.expiry_told_at.is_(None))
        .order_by(batches.c.finished_at)
        .limit(1)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        return False
    batch = Batch.from_row(row)
    after = batch.expiry_told_item or 0
    # The jobs are locked before their batch, here as everywhere; with what their log lines need of them, and no more.
    own = select(jobs).where(jobs.c.batch_id == batch.id, jobs.c.batch_id.is_not(None), jobs.c.batch_item > after)
    found = (
        tx.execute(own.order_by(jobs.c.batch_item).limit(limit).with_for_update(read=True, key_share=True)).all()
        if "callback" in (batch.template.get("work") or {})
        else []
    )
    at = tx.instant()
    moved: dict[str, Any] = {"expiry_told_item": found[-1].batch_item if found else after}
    if len(found) < limit:
        moved["expiry_told_at"] = at
    told = (
        update(batches)
        .where(
            batches.c.id == batch.id,
            batches.c.finished_at.is_not(None),
            batches.c.expiry_told_at.is_(None),
            batches.c.expiry_told_item.is_not_distinct_from(batch.expiry_told_item),
        )
        .values(moved)
    )
    if not tx.execute(told).rowcount:
        return True  # another scheduler was quicker, or the batch goes on
    expires_at = keep.expires_at(batch.finished_at, at)
    if batch.expiry_told_item is None:
        tally.tell(tx, batch, "expiring", expires_at=callbacks.instant(expires_at))
    _tell(tx, [(Job.from_row(one), expires_at) for one in found if one.finished_at is not None])
    return True


def _tell(tx: Tx, expiring: list[tuple[Job, datetime | None]]) -> None:
    said = [(job, callbacks.instant(expires_at)) for job, expires_at in expiring]
    events.warned(tx, "expiring", {job.id: f"It will be deleted with its results on {at}." for job, at in said})
    callbacks.tell(tx, [(job, "job.expiring", {"expires_at": at}) for job, at in said])
