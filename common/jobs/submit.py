"""Accepting a job, and accepting one again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from ulid import ULID

from common.db import uploads, voices
from common.db.engine import Tx
from common.db.tables import INTERACTIVE, PRIORITIES, jobs
from common.engines import Kind
from common.errors import NightshiftError
from common.jobs import events, quota, tally, upstreams
from common.jobs.job import BRIEF, Brief, Job
from common.params import Request, parse_request
from common.quotas import Quotas, is_audio
from common.states import Reason, State, Verb, sources


@dataclass(frozen=True)
class Submitted:
    """created: False where the Idempotency-Key had already made this job."""

    job: Job
    created: bool


def submit(
    tx: Tx, key_id: str, request: Request, *, default_quota: Quotas, idempotency_key: str | None = None
) -> Submitted:
    """- -> waiting. Raises `unknown_engine`, `engine_unsupported`, `idempotency_mismatch`, `quota_exceeded`,
    `input_missing`, `upstream_failed`, `voice_missing` and `voice_not_ready`."""
    spec = request.spec()
    body, digest = body_of(request)
    if idempotency_key is not None:
        earlier = _earlier(tx, key_id, idempotency_key, digest)
        if earlier is not None:
            return Submitted(earlier, created=False)
    priority = PRIORITIES[request.priority]
    _check_quota(tx, key_id, default_quota, hours=is_audio(request.kind) and priority >= INTERACTIVE)
    voices.require(tx, key_id, request.voices())
    upstream = upstreams.unfinished(tx, key_id, request.sources())
    values: dict[str, Any] = {
        "id": f"job_{ULID()}",
        "key_id": key_id,
        "kind": request.kind,
        "engine": spec.name,
        "lane": request.lane(),
        "batch": request.batch,
        "priority": priority,
        "request": body,
        "state": State.WAITING,
        "reason": Reason.UPSTREAM if upstream else Reason.SUBMITTED,
        "upstream": upstream,
        "run_at": tx.now(),
        "deadline": request.deadline,
        "idempotency_key": idempotency_key,
        "request_digest": digest,
        "created_at": tx.now(),
        "updated_at": tx.now(),
    }
    dialect_insert = postgresql.insert if tx.postgresql else sqlite.insert
    row = tx.execute(
        dialect_insert(jobs)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["key_id", "idempotency_key"])
        .returning(jobs)
    ).one_or_none()
    if row is None:
        # A racing request with the same key was committed first: its job is this one's answer.
        assert idempotency_key is not None
        earlier = _earlier(tx, key_id, idempotency_key, digest)
        if earlier is None:
            raise NightshiftError("state_conflict", "The job of this Idempotency-Key was just deleted.", retryable=True)
        return Submitted(earlier, created=False)
    job = Job.from_row(row)
    uploads.use(tx, key_id, [(job.id, upload_id) for upload_id in uploads_of(request)])
    events.changed(tx, job)
    return Submitted(job, created=True)


def uploads_of(request: Request) -> list[str]:
    """Ids of the uploads that a request reads."""
    return [source.upload for source in request.sources().values() if source.upload is not None]


def body_of(request: Request) -> tuple[dict[str, Any], str]:
    """What is kept of a request, and the SHA-256 of it."""
    body = request.model_dump(mode="json")
    return body, hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def resubmit(tx: Tx, job_id: str, *, default_quota: Quotas) -> Job:
    """failed, cancelled, expired -> waiting: the same job again, with the blocks that are still valid.

    Raises `not_found`, `state_conflict`, `quota_exceeded` and what `submit` raises about its upstream and its voices.
    """
    row = tx.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one_or_none()
    if row is None:
        raise NightshiftError("not_found", "There is no such job.")
    old = Job.from_row(row)
    if old.state not in sources(Verb.RESUBMIT):
        raise NightshiftError(
            "state_conflict",
            f"The job is {old.state}.",
            hint="Only a job that failed, was cancelled or expired can be retried.",
        )
    _check_quota(tx, old.key_id, default_quota, hours=_goes_at_once(old))
    request = parse_request(dict(old.request))
    voices.require(tx, old.key_id, request.voices())
    upstream = upstreams.unfinished(tx, old.key_id, request.sources())
    row = tx.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_(sources(Verb.RESUBMIT)))
        .values(upstream=upstream, **_anew(tx))
        .returning(jobs)
    ).one()
    job = Job.from_row(row)
    events.changed(tx, job)
    tally.again(tx, [old])
    return job


def resubmit_many(tx: Tx, key_id: str, ended: Sequence[Brief], *, default_quota: Quotas) -> int:
    """`resubmit` for jobs of a key whose rows are locked; how many were refused, because what they wait for is not
    there. Raises `quota_exceeded` where it does not allow all of them."""
    own = quota.of(tx, key_id, default_quota)
    if not quota.allows(tx, key_id, own, len(ended)):
        raise NightshiftError("quota_exceeded", hint="Wait for some jobs to finish, then retry the rest.")
    quota.check_bytes(tx, key_id, own)
    ids = [job.id for job in ended]
    if any(_goes_at_once(row) for row in tx.execute(select(*_HURRY).where(tx.listed(jobs.c.id, ids)).distinct())):
        quota.check_hours(tx, key_id, own)
    needy = _needy(tx, ids)
    refused = 0
    for job_id in needy:
        try:
            resubmit(tx, job_id, default_quota=default_quota)
        except NightshiftError:
            refused += 1
    _resubmit_plain(tx, [job for job in ended if job.id not in needy])
    return refused


# Kinds that may speak in a voice, or name jobs elsewhere than as their input.
_INVOLVED = (Kind.TTS, Kind.CONVERSATION, Kind.VOICE)


def _needy(tx: Tx, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that need more than themselves: a voice, or what another job makes."""
    perhaps = or_(
        jobs.c.kind.in_(_INVOLVED),
        jobs.c.request["input", "job"].as_string().is_not(None),
        jobs.c.request["inputs"].as_string().is_not(None),
    )
    needy = set()
    for row in tx.execute(select(jobs.c.id, jobs.c.request).where(tx.listed(jobs.c.id, job_ids), perhaps)):
        asked = parse_request(dict(row.request))
        if asked.voices() or any(source.job for source in asked.sources().values()):
            needy.add(row.id)
    return needy


def _resubmit_plain(tx: Tx, ended: Sequence[Brief]) -> None:
    if not ended:
        return
    rows = tx.execute(
        update(jobs)
        .where(tx.listed(jobs.c.id, [job.id for job in ended]), jobs.c.state.in_(sources(Verb.RESUBMIT)))
        .values(**_anew(tx))
        .returning(*BRIEF)
    )
    anew = [Brief.from_row(row) for row in rows]
    events.changed(tx, *anew)
    ids = {job.id for job in anew}
    tally.again(tx, [job for job in ended if job.id in ids])


def _anew(tx: Tx) -> dict[str, Any]:
    return {
        "state": State.WAITING, "reason": Reason.RESUBMITTED, "run_at": tx.now(), "failures": 0, "crashes": 0,
        "losses": 0, "crashed_at_block": None, "error": None, "finished_at": None, "cancel_requested": False,
        "progress": None, "expiry_told_at": None, "updated_at": tx.now(),
        # One that has passed would end it again at once.
        "deadline": None, "risk": None, "risk_at": None,
    }  # fmt: skip


def _earlier(tx: Tx, key_id: str, idempotency_key: str, digest: str) -> Job | None:
    row = tx.execute(
        select(jobs).where(jobs.c.key_id == key_id, jobs.c.idempotency_key == idempotency_key)
    ).one_or_none()
    if row is None:
        return None
    job = Job.from_row(row)
    if job.request_digest != digest:
        raise NightshiftError(
            "idempotency_mismatch",
            f"This Idempotency-Key already made {job.id}, from another body.",
            hint="Use a new Idempotency-Key for a new request.",
            extra={"job": job.id},
        )
    return job


_HURRY = (jobs.c.kind, jobs.c.priority, jobs.c.batch_id)


def _goes_at_once(job: Job | Row[Any]) -> bool:
    """Whether a job cannot wait for its key's next day: it is of audio, interactive and of no batch."""
    return is_audio(job.kind) and job.priority >= INTERACTIVE and job.batch_id is None


def _check_quota(tx: Tx, key_id: str, default_quota: Quotas, *, hours: bool) -> None:
    """hours: whether the job needs some of the key's hours of today."""
    own = quota.of(tx, key_id, default_quota)
    if not quota.allows(tx, key_id, own, 1):
        raise NightshiftError(
            "quota_exceeded",
            f"{own.max_waiting} jobs of this key are unfinished, which is its quota.",
            hint="Wait for some to finish, cancel some, or ask the operator for more.",
        )
    quota.check_bytes(tx, key_id, own)
    if hours:
        quota.check_hours(tx, key_id, own)
