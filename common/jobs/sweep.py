"""What time brings: leases that expired, results past their keeping, files nobody needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, exists, or_, select, update

from common.db import uploads as upload_rows
from common.db import usage, voices
from common.db.engine import Tx
from common.db.tables import batches, callbacks, jobs, processes, sweeps, upload_uses, uploads
from common.jobs import events, finish, rounds, transfers
from common.jobs.job import Job
from common.params import sources_of
from common.states import Reason, State
from common.storage import keys as layout

# However many workers were suspected in a job's stead: some jobs take every worker down.
MAX_LOSSES = 10
# No upload takes longer than this; what is older was left by a writer that died.
ABANDONED_SECONDS = 2 * 86400.0


def expired_leases(tx: Tx, limit: int = 50) -> list[str]:
    """Ids of running jobs whose lease has run out, to be rescued one transaction each: a bad row stops no other."""
    query = select(jobs.c.id).where(jobs.c.state == State.RUNNING, jobs.c.lease_until < tx.now()).limit(limit)
    return [row.id for row in tx.execute(query)]


def rescue(tx: Tx, job_id: str, *, max_crashes: int, quarantine_seconds: float = 600.0) -> Job | None:
    """running -> waiting, or failed as poisonous, where the lease has expired. None where somebody else was quicker.

    It keeps its place (run_at). `max_crashes` deaths of its worker, or two on the same block, make a job poisonous; but
    a worker that dies on two different jobs in a row is suspected in their stead, and gets no job for
    `quarantine_seconds`. Ten deaths do in any case. Of jobs that it did at once nobody knows which it died of: none of
    them is blamed, nor is the worker; each is done alone from then on.
    """
    over = and_(jobs.c.id == job_id, jobs.c.state == State.RUNNING, jobs.c.lease_until < tx.now())
    row = tx.execute(select(jobs).where(over).with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    job = Job.from_row(row)
    if job.cancel_requested:
        return finish.cancelled(tx, job.lease)
    blamed = job.company is None and not _suspect_worker(tx, job, quarantine_seconds)
    crashes = job.crashes + (1 if blamed else 0)
    same_block = blamed and job.crashed_at_block is not None and job.crashed_at_block == job.blocks_done
    losses = job.losses + 1
    if crashes >= max_crashes or losses >= MAX_LOSSES or (same_block and crashes >= 2 and job.blocks_done > 0):
        return finish.fail(
            tx,
            job.lease,
            {
                "code": "worker_crashed",
                "message": f"The worker died on this job {losses} times, last after {job.blocks_done} finished blocks.",
                "retryable": False,
                "hint": "Look at the workers' logs; the input may crash the engine. Retry the job to try again.",
            },
            Reason.CRASHED,
        )
    updated = tx.execute(
        update(jobs)
        .where(over, jobs.c.attempt == job.attempt)
        .values(
            state=State.WAITING,
            reason=Reason.LEASE_EXPIRED,
            worker=None,
            lease_until=None,
            crashes=crashes,
            losses=losses,
            crashed_at_block=job.blocks_done if job.company is None else job.crashed_at_block,
            updated_at=tx.now(),
        )
        .returning(jobs)
    ).one()
    rescued = Job.from_row(updated)
    finish.sweep(tx, layout.attempt_folder(job.id, job.attempt), finish.SWEEP_AFTER)
    events.changed(tx, rescued, lost_worker=job.worker)
    return rescued


def _suspect_worker(tx: Tx, job: Job, quarantine_seconds: float) -> bool:
    row = tx.execute(select(processes).where(processes.c.name == job.worker).with_for_update()).one_or_none()
    if row is None:
        return False
    crashed = [*row.crashed_jobs, job.id]
    suspect = len(set(crashed)) >= 2
    values: dict[str, Any] = {"crashed_jobs": crashed[-10:]}
    if suspect:
        values["quarantined_until"] = tx.now(quarantine_seconds)
        events.log(
            tx, job.id, "warning", "worker_quarantined", f"The worker {job.worker} died on several jobs in a row."
        )
    tx.execute(update(processes).where(processes.c.name == job.worker).values(**values))
    return suspect


@dataclass(frozen=True)
class Sweep:
    id: int
    prefix: str


def due_sweeps(tx: Tx, limit: int = 100) -> list[Sweep]:
    """Prefixes whose objects may be deleted now. Deleting twice does no harm, so nothing is locked."""
    rows = tx.execute(
        select(sweeps.c.id, sweeps.c.prefix).where(sweeps.c.due_at <= tx.now()).order_by(sweeps.c.id).limit(limit)
    )
    return [Sweep(row.id, row.prefix) for row in rows]


def swept(tx: Tx, sweep_ids: Collection[int]) -> None:
    tx.execute(delete(sweeps).where(sweeps.c.id.in_(sweep_ids)))


def prune(
    tx: Tx, *, retention_seconds: float, idempotency_seconds: float, warning_seconds: float = 0.0, limit: int = 500
) -> int:  # fmt: skip
    """Deletes jobs, batches and uploads past their keeping, with their files, and forgets old Idempotency-Keys; how
    many rows it was, up to `limit` of each. 0: nothing is left for now.

    warning_seconds: jobs and batches go no sooner after their owner was told (`expiry`); 0: whether told or not.
    """
    removed = 0
    for told in _told(tx, jobs, warning_seconds):
        old = (
            select(jobs.c.id)
            .where(jobs.c.batch_id.is_(None), jobs.c.finished_at < tx.now(-retention_seconds), told)
            .order_by(jobs.c.expiry_told_at, jobs.c.finished_at)
            .limit(limit)
        )
        removed += remove_many(tx, list(tx.execute(old).scalars()))
    for told in _told(tx, batches, warning_seconds):
        past = (
            select(batches.c.id)
            # Not while results of it are still on their way into a bucket.
            .where(batches.c.finished_at < tx.now(-retention_seconds), told, batches.c.delivering == 0)
            .order_by(batches.c.finished_at)
            .limit(limit)
        )
        for batch_id in tx.execute(past).scalars().all():
            removed += _remove_batch(tx, batch_id, max(0, limit - removed))
    forgotten = (
        select(jobs.c.id)
        .where(jobs.c.finished_at < tx.now(-idempotency_seconds), jobs.c.idempotency_key.is_not(None))
        .limit(limit)
    )
    nameless = list(tx.execute(forgotten).scalars())
    tx.execute(
        update(jobs).where(tx.listed(jobs.c.id, nameless), jobs.c.finished_at.is_not(None)).values(idempotency_key=None)
    )
    old_callbacks = (
        select(callbacks.c.id)
        .where(callbacks.c.created_at < tx.now(-retention_seconds), callbacks.c.state != "pending")
        .limit(limit)
    )
    messages = list(tx.execute(old_callbacks).scalars())
    tx.execute(delete(callbacks).where(tx.listed(callbacks.c.id, messages), callbacks.c.state != "pending"))
    removed += _prune_uploads(tx, retention_seconds, limit)
    rounds.forget(tx)
    tx.execute(delete(processes).where(processes.c.seen_at < tx.now(-7 * 86400.0)))
    return removed + len(nameless) + len(messages)


def _told(tx: Tx, table: Table, warning_seconds: float) -> list[ColumnElement[bool]]:
    """The conditions under which what is past its keeping may go, each a stretch of the index."""
    when = table.c.expiry_told_at
    return [when <= tx.now(-warning_seconds)] if warning_seconds else [when.is_(None), when.is_not(None)]


def _remove_batch(tx: Tx, batch_id: str, limit: int) -> int:
    """Deletes up to `limit` jobs of a batch that is over, and then the batch; how many jobs went."""
    own = and_(jobs.c.batch_id == batch_id, jobs.c.batch_id.is_not(None))
    ids = list(tx.execute(select(jobs.c.id).where(own).order_by(jobs.c.batch_item).limit(limit)).scalars())
    removed = remove_many(tx, ids)
    emptied = delete(batches).where(batches.c.id == batch_id, batches.c.finished_at.is_not(None), ~exists().where(own))
    if tx.execute(emptied).rowcount:
        finish.sweep(tx, layout.batch_folder(batch_id))
    return removed


def _prune_uploads(tx: Tx, retention_seconds: float, limit: int) -> int:
    """Deletes old uploads that no job reads any more, and those whose bytes never came."""
    unused = ~exists().where(upload_uses.c.upload_id == uploads.c.id)
    removed = 0
    for stale in (
        and_(uploads.c.created_at < tx.now(-retention_seconds), unused),
        and_(uploads.c.created_at < tx.now(-min(retention_seconds, ABANDONED_SECONDS)), uploads.c.state == "pending"),
    ):
        picked = select(uploads.c.id).where(stale).order_by(uploads.c.created_at).limit(limit)
        ids = list(tx.execute(picked.with_for_update(skip_locked=True)).scalars())
        # Asked again, now that they are locked: a job may have come for one just before.
        gone = tx.execute(
            delete(uploads)
            .where(tx.listed(uploads.c.id, ids), or_(unused, uploads.c.state == "pending"))
            .returning(uploads.c.key_id, uploads.c.storage_key, uploads.c.size)
        ).all()
        finish.sweep_many(tx, [row.storage_key for row in gone])
        usage.removed(tx, [(row.key_id, row.size) for row in gone])
        removed += len(gone)
    return removed


def remove(tx: Tx, job_id: str) -> bool:
    """Deletes a job that has ended, its log and, soon after, its files. False where it has not ended, or runs again.

    What of it was still to be delivered is given up.
    """
    return remove_many(tx, [job_id]) == 1


def remove_many(tx: Tx, job_ids: Collection[str]) -> int:
    """`remove` for many; how many it was."""
    if not job_ids:
        return 0
    transfers.drop(tx, job_ids)
    gone = tx.execute(
        delete(jobs)
        .where(tx.listed(jobs.c.id, job_ids), jobs.c.finished_at.is_not(None))
        .returning(jobs.c.id, jobs.c.key_id, jobs.c.stored_bytes, jobs.c.attempt)
    ).all()
    # One that never began has no files.
    finish.sweep_many(tx, [layout.job_folder(row.id) for row in gone if row.attempt])
    usage.removed(tx, [(row.key_id, row.stored_bytes) for row in gone])
    return len(gone)


def remove_upload(tx: Tx, upload_id: str, storage_key: str) -> None:
    finish.sweep(tx, storage_key)
    gone = delete(uploads).where(uploads.c.id == upload_id).returning(uploads.c.key_id, uploads.c.size)
    usage.removed(tx, [(row.key_id, row.size) for row in tx.execute(gone)])


def remove_voice(tx: Tx, voice: voices.Voice) -> None:
    """Deletes a voice with its audio, the upload it came from, and the jobs that prepared it."""
    voices.remove(tx, voice.id)
    folder = layout.voice_folder(voice.key_id, voice.id)
    finish.sweep(tx, folder)
    for job_id in (voice.transcription_id, voice.job_id):
        job = finish.cancel(tx, job_id) if job_id is not None else None
        if job is None:
            continue
        for source in sources_of(job.request).values():
            upload = upload_rows.get(tx, source.upload, voice.key_id) if source.upload is not None else None
            if upload is not None:
                remove_upload(tx, upload.id, upload.storage_key)
        if not remove(tx, job.id):
            # Its worker may store a file before it notices.
            finish.sweep(tx, folder, finish.SWEEP_AFTER)
