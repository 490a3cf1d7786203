"""Pure: a job as its owner sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api import schemas
from common.jobs.job import Job
from common.jobs.transfers import Transfer
from common.retention import Retention
from common.states import State


def job_view(
    job: Job, keep: Retention, queue: schemas.Queue | None = None, transfer: Transfer | None = None
) -> schemas.Job:  # fmt: skip
    """keep: how long this service keeps what has ended.  transfer: of its results."""
    request = job.request
    result = job.result or {}
    callback = request.get("callback")
    return schemas.Job(
        id=job.id,
        kind=job.kind,
        engine=job.engine,
        state=job.state,
        reason=job.reason,
        priority="interactive" if job.interactive else "batch",
        batch=job.batch,
        batch_id=job.batch_id,
        preset=request.get("preset"),
        input=_named(request["input"]) if request.get("input") else None,
        inputs=[_named(source) for source in request["inputs"]] if request.get("inputs") else None,
        params=dict(request["params"]),
        metadata=dict(request.get("metadata") or {}),
        callback_url=callback["url"] if callback else None,
        upstream=job.upstream,
        attempt=job.attempt,
        failures=job.failures,
        worker=job.worker,
        cancel_requested=job.cancel_requested,
        progress=progress_view(job),
        queue=queue,
        error=schemas.JobError(**job.error) if job.error else None,
        outputs=outputs_view(result) if job.result is not None else None,
        warnings=[schemas.Warning(**warning) for warning in result.get("warnings", [])],
        metrics=result.get("metrics"),
        delivery=_delivery(transfer) if transfer is not None else None,
        cached_from=cached_view(result),
        deadline=job.deadline,
        risk=job.risk if job.started_at is None and not job.terminal else None,
        run_at=job.run_at,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        # What is of a batch goes with it.
        expires_at=keep.expires_at(job.finished_at, job.expiry_told_at) if job.batch_id is None else None,
        warned_at=job.expiry_told_at,
        updated_at=job.updated_at,
    )


def item_view(job: Job, keep: Retention, transfer: Transfer | None) -> schemas.BatchItem:
    """A job of a batch."""
    return schemas.BatchItem(**job_view(job, keep, transfer=transfer).model_dump(), item=job.batch_item or 0)


def _delivery(transfer: Transfer) -> schemas.Delivery:
    return schemas.Delivery(
        state=transfer.state,
        tries=transfer.tries,
        next_at=transfer.next_at,
        bytes=transfer.bytes,
        error=schemas.JobError(**transfer.error) if transfer.error else None,
        ended_at=transfer.ended_at,
    )


def _named(source: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if value is not None}


def outputs_view(result: Mapping[str, Any]) -> list[schemas.Output]:
    """The outputs of a result, without the keys they are stored under."""
    return [
        schemas.Output(**{name: value for name, value in output.items() if name != "key"})
        for output in result["outputs"]
    ]


def cached_view(result: Mapping[str, Any]) -> schemas.Cached | None:
    """Where a result was taken from, if it was."""
    cached = result.get("cached")
    return schemas.Cached(**cached) if cached else None


def progress_view(job: Job) -> schemas.Progress | None:
    """How far a job is; None before it starts. A job that succeeded is done, whatever was said last."""
    said = job.progress
    if job.state is State.SUCCEEDED:
        blocks = job.blocks_total or (said or {}).get("blocks") or None
        return schemas.Progress(phase="done", block=blocks, blocks=blocks, percent=100.0)
    if said is None:
        if not job.blocks_total:
            return None
        return schemas.Progress(block=job.blocks_done, blocks=job.blocks_total)
    done, total = said.get("done"), said.get("total")
    share = min(1.0, max(0.0, done / total)) if done is not None and total else None
    return schemas.Progress(
        phase=said.get("phase"),
        done=done,
        total=total,
        unit=said.get("unit"),
        block=said.get("block") or job.blocks_done or None,
        blocks=said.get("blocks") or job.blocks_total or None,
        percent=None if share is None else round(100 * share, 1),
        eta_seconds=_eta(job, share),
    )


def _eta(job: Job, share: float | None) -> float | None:
    """Time left, from the rate so far.

    Only in a phase that counts seconds of media or characters of text, the one that takes the time; and only in a first
    attempt: later ones start in the middle, and how long they have been running is not known.
    """
    if share is None or share < 0.02 or job.attempt != 1 or job.state is not State.RUNNING or job.started_at is None:
        return None
    if (job.progress or {}).get("unit") not in ("s", "characters"):
        return None
    elapsed = (job.updated_at - job.started_at).total_seconds()
    return round(elapsed * (1 - share) / share, 1)
