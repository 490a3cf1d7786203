"""The ends of a job. Each writes its callback and wakes or fails what waits for it, in the same transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, delete, insert, select, update

from common.db import usage, voices
from common.db.engine import Tx
from common.db.tables import blocks, jobs, processes, sweeps
from common.engines import Kind
from common.errors import CATALOGUE, NightshiftError
from common.jobs import callbacks, events, speeds, tally, transfers, upstreams
from common.jobs.job import BRIEF, Brief, Job, Lease, LeaseLost
from common.jobs.running import held
from common.params import sources_of
from common.quotas import is_audio
from common.states import Reason, State, Verb, sources
from common.storage import keys as layout

# A worker that lost its lease may write for a while before it notices: its folder is swept after that.
SWEEP_AFTER = 600.0

_STOPPED: dict[str, Any] = {"worker": None, "lease_until": None}


def succeed(tx: Tx, lease: Lease, result: Mapping[str, Any], fingerprint: str | None = None) -> Job:
    """running -> succeeded: publishes the result of this attempt. Raises LeaseLost, also when a cancel came first.

    fingerprint: of all that decides the result; None where no other job may take it over.
    """
    row = tx.execute(
        update(jobs)
        .where(held(lease), jobs.c.cancel_requested.is_(False))
        .values(
            state=State.SUCCEEDED, reason=Reason.CACHED if result.get("cached") else Reason.DONE, error=None,
            result=dict(result), result_attempt=lease.attempt, fingerprint=fingerprint,
            finished_at=tx.now(), updated_at=tx.now(), **_STOPPED, **speeds.measured(result),
            # A voice keeps its audio itself: it outlives the job.
            stored_bytes=case((jobs.c.kind == Kind.VOICE, 0), else_=_bytes_of(result)),
        )
        .returning(jobs)
    ).one_or_none()  # fmt: skip
    if row is None:
        current = tx.execute(select(jobs).where(jobs.c.id == lease.job_id)).one_or_none()
        if current is not None and current.state == State.SUCCEEDED and current.result_attempt == lease.attempt:
            return Job.from_row(current)  # an earlier try of ours was committed although its answer was lost
        raise LeaseLost(lease)
    job = Job.from_row(row)
    # Of what was taken over from another job, nothing was worked on.
    heard = job.length if is_audio(job.kind) and not result.get("cached") else None
    usage.add(tx, job.key_id, bytes=job.stored_bytes, audio_seconds=heard or 0.0)
    tx.execute(delete(blocks).where(blocks.c.job_id == job.id))
    sweep(tx, layout.blocks_folder(job.id))
    if job.kind == Kind.VOICE:
        _take_voice(tx, job, result)
    woken = tx.execute(
        update(jobs)
        .where(jobs.c.upstream == job.id, jobs.c.state == State.WAITING)
        .values(upstream=None, reason=Reason.SUBMITTED, updated_at=tx.now())
        .returning(jobs)
    )
    for downstream in woken.all():
        _wait_on(tx, Job.from_row(downstream))
    # A worker that gets a job through is no suspect.
    tx.execute(
        update(processes)
        .where(processes.c.name == lease.worker, processes.c.role == "worker")
        .values(crashed_jobs=[], quarantined_until=None)
    )
    ended(tx, job)
    return job


def fail(tx: Tx, lease: Lease, error: Mapping[str, Any], reason: Reason = Reason.ERROR) -> Job:
    """running -> failed. Raises LeaseLost."""
    row = tx.execute(
        update(jobs)
        .where(held(lease))
        .values(
            state=State.FAILED, reason=reason, error=dict(error), failures=jobs.c.failures + 1,
            finished_at=tx.now(), updated_at=tx.now(), **_STOPPED,
        )
        .returning(jobs)
    ).one_or_none()  # fmt: skip
    if row is None:
        raise LeaseLost(lease)
    job = Job.from_row(row)
    sweep(tx, layout.attempt_folder(job.id, lease.attempt), SWEEP_AFTER)
    ended(tx, job)
    return job


def retry(tx: Tx, lease: Lease, error: Mapping[str, Any], delay_seconds: float, max_attempts: int) -> Job:
    """running -> waiting for `delay_seconds`; failed where the attempts are used up, cancelled where that was wanted.

    Raises LeaseLost.
    """
    query = select(jobs.c.failures, jobs.c.cancel_requested).where(held(lease)).with_for_update()
    row = tx.execute(query).one_or_none()
    if row is None:
        raise LeaseLost(lease)
    if row.cancel_requested:
        return cancelled(tx, lease)
    if row.failures + 1 >= max_attempts:
        last = {**error, "attempts": row.failures + 1}
        return fail(tx, lease, last, Reason.ATTEMPTS_EXHAUSTED)
    updated = tx.execute(
        update(jobs)
        .where(held(lease))
        .values(
            state=State.WAITING, reason=Reason.BACKOFF, error=dict(error), failures=jobs.c.failures + 1,
            run_at=tx.now(delay_seconds), updated_at=tx.now(), **_STOPPED,
        )
        .returning(jobs)
    ).one()  # fmt: skip
    job = Job.from_row(updated)
    sweep(tx, layout.attempt_folder(job.id, lease.attempt), SWEEP_AFTER)
    events.changed(tx, job)
    return job


def cancelled(tx: Tx, lease: Lease) -> Job:
    """running -> cancelled, said by the worker that has stopped for it. Raises LeaseLost."""
    row = tx.execute(
        update(jobs)
        .where(held(lease), jobs.c.cancel_requested.is_(True))
        .values(state=State.CANCELLED, reason=Reason.BY_CALLER, finished_at=tx.now(), updated_at=tx.now(), **_STOPPED)
        .returning(jobs)
    ).one_or_none()
    if row is None:
        raise LeaseLost(lease)
    job = Job.from_row(row)
    sweep(tx, layout.attempt_folder(job.id, lease.attempt), SWEEP_AFTER)
    ended(tx, job)
    return job


def cancel(tx: Tx, job_id: str) -> Job | None:
    """waiting, queued -> cancelled at once; a running job is flagged, and its worker stops within seconds.

    Idempotent: a job that has ended is returned as it is. None where there is no such job.
    """
    # Locked: a job that its worker gives back between the two statements below would match neither.
    if tx.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update()).first() is None:
        return None
    row = tx.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_(sources(Verb.CANCEL) - {State.RUNNING}))
        .values(
            state=State.CANCELLED, reason=Reason.BY_CALLER, upstream=None, finished_at=tx.now(), updated_at=tx.now()
        )
        .returning(jobs)
    ).one_or_none()
    if row is not None:
        job = Job.from_row(row)
        ended(tx, job)
        return job
    tx.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == State.RUNNING)
        .values(cancel_requested=True, updated_at=tx.now())
    )
    return Job.from_row(tx.execute(select(jobs).where(jobs.c.id == job_id)).one())


def cancel_many(tx: Tx, job_ids: Collection[str]) -> list[Brief]:
    """waiting, queued -> cancelled: those of the jobs that are, their rows locked; the others stay as they are."""
    if not job_ids:
        return []
    rows = tx.execute(
        update(jobs)
        .where(tx.listed(jobs.c.id, job_ids), jobs.c.state.in_(sources(Verb.CANCEL) - {State.RUNNING}))
        .values(
            state=State.CANCELLED, reason=Reason.BY_CALLER, upstream=None, finished_at=tx.now(), updated_at=tx.now()
        )
        .returning(*BRIEF)
    )
    gone = [Brief.from_row(row) for row in rows]
    ended(tx, *gone)
    return gone


def expire(tx: Tx, limit: int = 1000) -> list[Brief]:
    """waiting, queued -> expired: those that have never started and whose deadline has passed."""
    late = (
        select(jobs.c.id)
        .where(
            jobs.c.deadline < tx.now(),
            jobs.c.started_at.is_(None),
            jobs.c.finished_at.is_(None),
            jobs.c.state.in_(sources(Verb.EXPIRE)),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = [row.id for row in tx.execute(late)]
    rows = tx.execute(
        update(jobs)
        .where(tx.listed(jobs.c.id, ids), jobs.c.state.in_(sources(Verb.EXPIRE)))
        .values(
            state=State.EXPIRED, reason=Reason.DEADLINE, upstream=None, finished_at=tx.now(), updated_at=tx.now(),
            error={
                "code": "deadline_passed",
                "message": CATALOGUE["deadline_passed"].title,
                "retryable": False,
                "hint": "Submit it again with a later deadline, or none.",
            },
        )
        .returning(*BRIEF)
    )  # fmt: skip
    expired = [Brief.from_row(row) for row in rows]
    ended(tx, *expired)
    return expired


def sweep(tx: Tx, prefix: str, after_seconds: float = 0.0) -> None:
    """Notes that an object, or every object below a `prefix` that ends with `/`, is to be deleted.

    The scheduler does it, so that a crash between the two loses nothing.
    """
    tx.execute(insert(sweeps).values(prefix=prefix, due_at=tx.now(after_seconds)))


def sweep_many(tx: Tx, prefixes: Iterable[str]) -> None:
    """`sweep` of several, at once."""
    at = tx.instant()
    rows = [{"prefix": prefix, "due_at": at} for prefix in prefixes]
    if rows:
        tx.execute(insert(sweeps), rows)


def _take_voice(tx: Tx, job: Job, result: Mapping[str, Any]) -> None:
    """A voice takes over what its job made of the recording; of one deleted meanwhile nothing is kept."""
    voice_id = job.request["params"]["voice"]
    outputs = {output["name"]: output for output in result["outputs"]}
    excerpt = outputs["excerpt"]
    found = voices.Prepared(
        recording=outputs["recording"]["key"],
        excerpt=excerpt["key"],
        bytes=_bytes_of(result),
        seconds=outputs["recording"]["duration"],
        start=excerpt["start"],
        end=excerpt["end"],
        transcript=excerpt["transcript"],
        exact=excerpt["exact"],
    )
    if not voices.prepared(tx, voice_id, found):
        sweep(tx, layout.voice_folder(job.key_id, voice_id))


def _bytes_of(result: Mapping[str, Any]) -> int:
    """What the outputs of a result take in the store."""
    return sum(output.get("bytes") or 0 for output in result["outputs"])


def ended(tx: Tx, *over: Brief) -> None:
    """What follows from ends: the jobs' logs, callbacks, whoever waits for them, and the counts of their batches."""
    events.changed(tx, *over)
    callbacks.enqueue(tx, over)
    for job in _awaited(tx, [job for job in over if job.state is not State.SUCCEEDED]):
        _fail_downstream(tx, job)
    # Before the counts: a batch that ends with these jobs must know that their results are still on their way.
    for job in over:
        transfers.enqueue(tx, job)
    tally.ended(tx, over)


def _awaited(tx: Tx, unsuccessful: Sequence[Brief]) -> Sequence[Brief]:
    """Those of them that others wait for."""
    if len(unsuccessful) < 2:
        return unsuccessful
    ids = [job.id for job in unsuccessful]
    # One look into the index for each. PostgreSQL would read the whole table, where it does not know yet that few wait.
    waiting = jobs.alias()
    one = select(waiting.c.id).where(waiting.c.upstream == jobs.c.id).limit(1).scalar_subquery()
    found = set(tx.execute(select(jobs.c.id).where(tx.listed(jobs.c.id, ids), one.is_not(None))).scalars())
    return [job for job in unsuccessful if job.id in found]


def _wait_on(tx: Tx, job: Job) -> None:
    """What was woken by one of several upstreams waits for the next, or fails with it."""
    sources = sources_of(job.request)
    if sum(source.job is not None for source in sources.values()) < 2:
        return
    try:
        upstream = upstreams.unfinished(tx, job.key_id, sources)
    except NightshiftError as error:
        _fail_waiting(tx, jobs.c.id == job.id, error.as_job_error())
        return
    if upstream is not None:
        tx.execute(update(jobs).where(jobs.c.id == job.id).values(upstream=upstream, reason=Reason.UPSTREAM))


def _fail_downstream(tx: Tx, upstream: Brief) -> None:
    error = {
        "code": "upstream_failed",
        "message": f"The job {upstream.id}, whose output this one needs, is {upstream.state}.",
        "retryable": False,
        "hint": "Mend and retry that job, then retry this one.",
        "upstream": {"job": upstream.id, "state": upstream.state, "error": dict(upstream.error or {}) or None},
    }
    _fail_waiting(tx, jobs.c.upstream == upstream.id, error)


def _fail_waiting(tx: Tx, which: ColumnElement[bool], error: Mapping[str, Any]) -> None:
    rows = tx.execute(
        update(jobs)
        .where(which, jobs.c.state == State.WAITING)
        .values(
            state=State.FAILED, reason=Reason.UPSTREAM_FAILED, upstream=None, finished_at=tx.now(), updated_at=tx.now(),
            error=dict(error),
        )
        .returning(jobs)
    )  # fmt: skip
    ended(tx, *(Job.from_row(row) for row in rows.all()))
