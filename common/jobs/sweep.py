"""What time brings: leases that expired, results past their keeping, files nobody needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, exists, select, update

from common.db import uploads as upload_rows
from common.db import voices
from common.db.engine import Tx
from common.db.tables import batches, callbacks, jobs, processes, sweeps, uploads
from common.jobs import events, finish, rounds
from common.jobs.job import Job
from common.params import sources_of
from common.states import Reason, State
from common.storage import keys as layout

# However many workers were suspected in a job's stead: some jobs take every worker down.
MAX_LOSSES = 10


def expired_leases(tx: Tx, limit: int = 50) -> list[str]:
    """Ids of running jobs whose lease has run out, to be rescued one transaction each: a bad row stops no other."""
    query = select(jobs.c.id).where(jobs.c.state == State.RUNNING, jobs.c.lease_until < tx.now()).limit(limit)
    return [row.id for row in tx.execute(query)]


def rescue(tx: Tx, job_id: str, *, max_crashes: int, quarantine_seconds: float = 600.0) -> Job | None:
    """running -> waiting, or failed as poisonous, where the lease has expired. None where somebody else was quicker.

    It keeps its place (run_at). `max_crashes` deaths of its worker, or two on the same block, make a job poisonous; but
    a worker that dies on two different jobs in a row is suspected in their stead, and gets no job for
    `quarantine_seconds`. Ten deaths do in any case.
    """
    over = and_(jobs.c.id == job_id, jobs.c.state == State.RUNNING, jobs.c.lease_until < tx.now())
    row = tx.execute(select(jobs).where(over).with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    job = Job.from_row(row)
    if job.cancel_requested:
        return finish.cancelled(tx, job.lease)
    suspect = _suspect_worker(tx, job, quarantine_seconds)
    crashes = job.crashes + (0 if suspect else 1)
    same_block = not suspect and job.crashed_at_block is not None and job.crashed_at_block == job.blocks_done
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
            crashed_at_block=job.blocks_done,
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


def prune(tx: Tx, *, retention_seconds: float, idempotency_seconds: float, limit: int = 500) -> int:
    """Deletes jobs and uploads past their keeping, with their files, and forgets old Idempotency-Keys; how many rows it
    was, up to `limit` of each. 0: nothing is left for now."""
    old = [
        row.id
        for row in tx.execute(
            select(jobs.c.id)
            .where(jobs.c.finished_at < tx.now(-retention_seconds))
            .order_by(jobs.c.finished_at)
            .limit(limit)
        )
    ]
    remove_many(tx, old)
    forgotten = (
        select(jobs.c.id)
        .where(jobs.c.finished_at < tx.now(-idempotency_seconds), jobs.c.idempotency_key.is_not(None))
        .limit(limit)
    )
    nameless = list(tx.execute(forgotten).scalars())
    tx.execute(
        update(jobs).where(tx.listed(jobs.c.id, nameless), jobs.c.finished_at.is_not(None)).values(idempotency_key=None)
    )
    stale = tx.execute(
        select(uploads.c.id, uploads.c.storage_key)
        .where(uploads.c.created_at < tx.now(-retention_seconds))
        .limit(limit)
    ).all()
    for row in stale:
        remove_upload(tx, row.id, row.storage_key)
    told = (
        select(callbacks.c.id)
        .where(callbacks.c.created_at < tx.now(-retention_seconds), callbacks.c.state != "pending")
        .limit(limit)
    )
    messages = list(tx.execute(told).scalars())
    tx.execute(delete(callbacks).where(tx.listed(callbacks.c.id, messages), callbacks.c.state != "pending"))
    gone = (
        select(batches.c.id)
        .where(
            batches.c.finished_at < tx.now(-retention_seconds),
            ~exists().where(jobs.c.batch_id == batches.c.id, jobs.c.batch_id.is_not(None)),
        )
        .limit(limit)
    )
    for batch_id in list(tx.execute(gone).scalars()):
        tx.execute(delete(batches).where(batches.c.id == batch_id, batches.c.finished_at.is_not(None)))
        finish.sweep(tx, layout.batch_folder(batch_id))
    rounds.forget(tx)
    tx.execute(delete(processes).where(processes.c.seen_at < tx.now(-7 * 86400.0)))
    return len(old) + len(nameless) + len(stale) + len(messages)


def remove(tx: Tx, job_id: str) -> bool:
    """Deletes a job that has ended, its log and, soon after, its files. False where it has not ended, or runs again."""
    return remove_many(tx, [job_id]) == 1


def remove_many(tx: Tx, job_ids: Collection[str]) -> int:
    """`remove` of several; how many it was."""
    if not job_ids:
        return 0
    ended = delete(jobs).where(tx.listed(jobs.c.id, job_ids), jobs.c.finished_at.is_not(None))
    gone = tx.execute(ended.returning(jobs.c.id, jobs.c.attempt)).all()
    # One that never began has no files.
    finish.sweep_many(tx, [layout.job_folder(row.id) for row in gone if row.attempt])
    return len(gone)


def remove_upload(tx: Tx, upload_id: str, storage_key: str) -> None:
    finish.sweep(tx, storage_key)
    tx.execute(delete(uploads).where(uploads.c.id == upload_id))


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
