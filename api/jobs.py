"""Jobs: submitted, looked at, cancelled, retried, deleted."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from flask import url_for
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from api import schemas, sources
from api.context import caller, service
from api.job_view import job_view
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from common.db import presets, processes
from common.db.engine import Tx
from common.db.keys import Scope
from common.engines import Kind
from common.errors import NightshiftError
from common.jobs import finish, queueing, quota, sweep, transfers
from common.jobs import query as jobs
from common.jobs import submit as submitting
from common.jobs.job import Job
from common.jobs.queueing import Bell
from common.jobs.transfers import Transfer
from common.params import JobRequest, Request
from common.states import State

resource = Resource("jobs", "Jobs", "Work on media")


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the instant lies outside the calendar") from error


Instant = Annotated[AwareDatetime, AfterValidator(_utc)]


class SubmitHeaders(BaseModel):
    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?$",
        description="The same key with the same body gives the same job, however often it is sent",
    )
    prefer: str | None = Field(
        None, alias="Prefer", max_length=200, description="`wait=N`: answers when the job has ended, at most N seconds"
    )


class JobQuery(PageQuery):
    state: list[State] = Field([], max_length=10, description="May be given several times")
    kind: Kind | None = None
    engine: str | None = Field(None, max_length=64)
    batch: str | None = Field(None, max_length=120)
    created_after: Instant | None = None
    created_before: Instant | None = None


_JOB_HEADERS = {
    "Location": "Address of the job",
    "Idempotency-Replayed": "`true` where an earlier request made this job",
    "Preference-Applied": "The wait that was granted",
}


def _with_preset(body: Any) -> Any:
    """The body with the preset that it names merged in. Raises `unknown_preset`."""
    if not isinstance(body, dict) or body.get("preset") is None:
        return body
    with service().database.read() as tx:
        return presets.resolve(tx, caller().id, body)


@resource.operation(
    "POST",
    "/v1/jobs",
    "Submit a job",
    scope=Scope.WRITE,
    headers=SubmitHeaders,
    body=JobRequest,
    complete=_with_preset,
    answers={
        202: Answer("The job was accepted", schemas.Job, headers=_JOB_HEADERS),
        200: Answer("The job has ended already", schemas.Job, headers=_JOB_HEADERS),
    },
    errors=(
        "unknown_engine", "engine_unsupported", "unknown_preset", "input_missing", "upload_incomplete",
        "upstream_failed", "url_forbidden", "bucket_forbidden", "voice_missing", "voice_not_ready",
        "idempotency_mismatch", "quota_exceeded", "state_conflict", "storage_failed",
    ),
)  # fmt: skip
def submit_job(headers: SubmitHeaders, body: Any) -> Any:
    """Accepts the job and answers at once; the work is done when a worker is free. Send an `Idempotency-Key`, so that
    repeating the request after a broken connection makes no second job."""
    sources.check_addresses(body)
    sources.settle_uploads(body)
    job, created = _accept(body, headers.idempotency_key)
    more = {"Location": url_for("jobs.get_job", job_id=job.id)}
    if not created:
        more["Idempotency-Replayed"] = "true"
    seconds = _wait_seconds(headers.prefer)
    if seconds is not None and service().waiters.acquire(blocking=False):
        try:
            job = _until_ended(job, seconds)
        finally:
            service().waiters.release()
        more["Preference-Applied"] = f"wait={seconds}"
    return _view(job, _queue(job)), 200 if job.terminal else 202, more


@resource.operation(
    "GET",
    "/v1/jobs",
    "List jobs",
    scope=Scope.READ,
    query=JobQuery,
    answers={200: Answer("A page of jobs", schemas.JobPage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_jobs(query: JobQuery) -> Any:
    """The key's jobs, newest first."""
    which = jobs.Filter(
        states=tuple(query.state) or None,
        kind=query.kind,
        engine=query.engine,
        batch=query.batch,
        created_after=query.created_after,
        created_before=query.created_before,
    )
    with service().database.read() as tx:
        found = jobs.page(tx, caller().id, which, before=query.before("jobs"), limit=query.limit + 1)
    items, cursor, link = cut("jobs", query, found)
    return schemas.JobPage(items=[_view(job) for job in items], next=cursor), 200, link


@resource.operation(
    "GET",
    "/v1/jobs/{job_id}",
    "Get a job",
    scope=Scope.READ,
    answers={200: Answer("The job", schemas.Job)},
)
def get_job(job_id: str) -> Any:
    """A job of the key, with its progress and its place in the queue."""
    job = find(job_id)
    with service().database.read() as tx:
        transfer = transfers.of(tx, [job_id]).get(job_id)
    return _view(job, _queue(job), transfer)


@resource.operation(
    "POST",
    "/v1/jobs/{job_id}/cancel",
    "Cancel a job",
    scope=Scope.WRITE,
    answers={
        200: Answer("The job is cancelled", schemas.Job),
        202: Answer("The job is running; its worker stops within seconds", schemas.Job),
    },
    errors=("state_conflict",),
)
def cancel_job(job_id: str) -> Any:
    """Cancelling a cancelled job changes nothing; a job that ended otherwise cannot be cancelled."""
    with service().database.write() as tx:
        before = _find(tx, job_id)
        if before.terminal and before.state is not State.CANCELLED:
            raise NightshiftError("state_conflict", f"The job is {before.state}.", extra={"state": before.state})
        job = finish.cancel(tx, job_id)
        assert job is not None
        bells = fill(tx, job.lane)
    service().ringer.ring(bells)
    return _view(job), 200 if job.terminal else 202


@resource.operation(
    "POST",
    "/v1/jobs/{job_id}/retry",
    "Retry a job",
    scope=Scope.WRITE,
    answers={202: Answer("The job waits again", schemas.Job)},
    errors=(
        "state_conflict", "quota_exceeded", "input_missing", "upstream_failed", "voice_missing", "voice_not_ready",
    ),
)  # fmt: skip
def retry_job(job_id: str) -> Any:
    """Runs a job again that failed, was cancelled or expired; its finished blocks are kept where they still fit."""
    with service().database.write() as tx:
        _find(tx, job_id)
        job = submitting.resubmit(tx, job_id, default_quota=service().settings.quotas)
        bells = fill(tx, job.lane)
    service().ringer.ring(bells)
    return _view(job), 202


@resource.operation(
    "DELETE",
    "/v1/jobs/{job_id}",
    "Delete a job",
    scope=Scope.WRITE,
    answers={204: Answer("It is deleted; its files follow soon")},
    errors=("state_conflict",),
)
def delete_job(job_id: str) -> Any:
    """Deletes a job that has ended, with its log and its results."""
    with service().database.write() as tx:
        job = _find(tx, job_id)
        if not job.terminal:
            raise NightshiftError(
                "state_conflict", f"The job is {job.state}.", hint="Cancel it first.", extra={"state": job.state}
            )
        sweep.remove(tx, job_id)
    return None, 204


def find(job_id: str) -> Job:
    """A job of the caller. Raises `not_found`, the same for others' jobs and none."""
    with service().database.read() as tx:
        return _find(tx, job_id)


def _find(tx: Tx, job_id: str) -> Job:
    job = jobs.get(tx, job_id, caller().id)
    if job is None:
        raise NightshiftError("not_found", "There is no such job.")
    return job


def _accept(request: Request, idempotency_key: str | None) -> tuple[Job, bool]:
    settings = service().settings
    with service().database.write() as tx:
        submitted = submitting.submit(
            tx, caller().id, request, default_quota=settings.quotas, idempotency_key=idempotency_key
        )
        bells: list[Bell] = []
        if submitted.created:
            # Only now: a repeated request gets its job although the upload may be gone since.
            sources.require_uploads(tx, request)
            bells = fill(tx, submitted.job.lane)
    service().ringer.ring(bells)
    released = any(bell.job_id == submitted.job.id for bell in bells)
    return (find(submitted.job.id) if released else submitted.job), submitted.created


def fill(tx: Tx, lane: str) -> list[Bell]:
    """Releases what a lane has room for; returns the bells to ring after the commit."""
    settings = service().settings
    return queueing.fill(
        tx, lane, settings.release_ahead, settings.alive_seconds, settings.max_audio_hours_per_day_per_key
    )  # fmt: skip


def _wait_seconds(prefer: str | None) -> int | None:
    """Seconds from `Prefer: wait=N`, at most what the operator allows; None without a wish."""
    found = re.search(r"(?:^|,)\s*wait\s*=\s*(\d{1,9})\s*(?:$|[,;])", prefer or "", re.IGNORECASE)
    return min(int(found[1]), service().settings.max_wait_seconds) if found else None


def _until_ended(job: Job, seconds: float) -> Job:
    deadline = time.monotonic() + seconds
    pause = 0.05
    while not job.terminal and (left := deadline - time.monotonic()) > 0:
        if service().stopping.wait(min(pause, left)):
            break
        pause = min(pause * 1.5, 1.0)
        job = find(job.id)
    return job


def _view(job: Job, queue: schemas.Queue | None = None, transfer: Transfer | None = None) -> schemas.Job:
    return job_view(job, service().settings.retention, queue, transfer)


def _queue(job: Job) -> schemas.Queue | None:
    if job.terminal:
        return None
    with service().database.read() as tx:
        can_wait = job.state is State.WAITING and (not job.interactive or job.batch_id is not None)
        held = held_until(tx) if can_wait else None
        ahead = jobs.ahead(tx, job) if job.state in (State.WAITING, State.QUEUED) else 0
        workers = processes.list_all(tx, service().settings.alive_seconds, "worker")
    alive = sum(worker.alive and job.lane in worker.lanes for worker in workers)
    return schemas.Queue(lane=job.lane, ahead=ahead, workers=alive, held_until=held)


def held_until(tx: Tx) -> datetime | None:
    """Until when the caller's batches wait, because the key has used its hours of today."""
    return quota.held_until(tx, caller().id, caller().quotas(service().settings.quotas))
