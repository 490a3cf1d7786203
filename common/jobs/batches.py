"""A batch is made and its items are taken in, CHUNK of them a transaction: 100,000 hold nobody up, and who finds a
batch half-way goes on with it. What comes then is `steering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from ulid import ULID

from common.db import uploads, voices
from common.db.engine import Tx
from common.db.tables import PRIORITIES, batch_rejects, batches, jobs, taken_items
from common.errors import NightshiftError
from common.jobs import events, gate, quota, submit, tally, upstreams
from common.jobs.batch import Batch, BatchReason, BatchState, OnError
from common.params import Request
from common.quotas import Quotas
from common.states import Reason, State

CHUNK = 500
"""Items taken in at once."""

MAX_INTAKE_FAILURES = 5


@dataclass(frozen=True)
class NewBatch:
    """What a batch is made of. source, template: what the intake makes of them is its own affair."""

    name: str
    source: Mapping[str, Any]
    template: Mapping[str, Any]
    digest: str
    window: str | None = None
    deadline: datetime | None = None
    on_error: OnError = OnError.SKIP
    weight: float = 1.0
    callback: Mapping[str, Any] | None = None
    deliver: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Entry:
    """One item of a source. position: from 1.  Exactly one of `request` and `error`.

    mark: what tells whether an earlier batch took it; None: it is taken in any case.  fields: what names its results.
    source: what it is, in short.  seconds: of its audio, as its source says.
    """

    position: int
    request: Request | None = None
    error: Mapping[str, Any] | None = None
    mark: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    seconds: float | None = None


class IntakeLost(Exception):
    """Somebody else took these items in, or the batch is not to be prepared any more."""


def create(
    tx: Tx, key_id: str, new: NewBatch, *, idempotency_key: str | None = None, schedule_id: str | None = None,
    batch_id: str | None = None,
) -> tuple[Batch, bool]:  # fmt: skip
    """A batch without jobs, to be prepared; False where the Idempotency-Key had already made it.

    Raises `idempotency_mismatch`.
    """
    values = {
        "id": batch_id or new_id(),
        "key_id": key_id,
        "name": new.name,
        "state": BatchState.PREPARING,
        "reason": BatchReason.CREATED,
        "source": dict(new.source),
        "template": dict(new.template),
        "window": new.window,
        "deadline": new.deadline,
        "on_error": new.on_error,
        "weight": new.weight,
        "callback": dict(new.callback) if new.callback else None,
        "deliver": dict(new.deliver) if new.deliver else None,
        "schedule_id": schedule_id,
        "idempotency_key": idempotency_key,
        "request_digest": new.digest,
        "created_at": tx.now(),
        "updated_at": tx.now(),
    }
    row = tx.execute(
        (postgresql.insert if tx.postgresql else sqlite.insert)(batches)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["key_id", "idempotency_key"])
        .returning(batches)
    ).one_or_none()
    if row is not None:
        return Batch.from_row(row), True
    assert idempotency_key is not None
    earlier = by_idempotency_key(tx, key_id, idempotency_key)
    if earlier is None:
        raise NightshiftError("state_conflict", "The batch of this Idempotency-Key was just deleted.", retryable=True)
    if earlier.request_digest != new.digest:
        raise NightshiftError(
            "idempotency_mismatch",
            f"This Idempotency-Key already made {earlier.id}, from another body.",
            hint="Use a new Idempotency-Key for a new request.",
            extra={"batch": earlier.id},
        )
    return earlier, False


def new_id() -> str:
    return f"bat_{ULID()}"


def by_idempotency_key(tx: Tx, key_id: str, idempotency_key: str) -> Batch | None:
    row = tx.execute(
        select(batches).where(batches.c.key_id == key_id, batches.c.idempotency_key == idempotency_key)
    ).one_or_none()
    return Batch.from_row(row) if row is not None else None


def to_prepare(tx: Tx, limit: int = 20) -> list[str]:
    """Ids of batches whose items nobody is taking in."""
    free = or_(batches.c.intake_until.is_(None), batches.c.intake_until < tx.now())
    query = select(batches.c.id).where(batches.c.state == BatchState.PREPARING, batches.c.finished_at.is_(None), free)
    return list(tx.execute(query.order_by(batches.c.id).limit(limit)).scalars())


def prepare(tx: Tx, batch_id: str, lease_seconds: float) -> Batch | None:
    """Takes on the intake of a batch, for `lease_seconds`; None where somebody else has it, or it needs none."""
    free = or_(batches.c.intake_until.is_(None), batches.c.intake_until < tx.now())
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.PREPARING, free)
        .values(intake_until=tx.now(lease_seconds), updated_at=tx.now())
        .returning(batches)
    ).one_or_none()
    return Batch.from_row(row) if row is not None else None


def leave(tx: Tx, batch_id: str) -> None:
    """Gives an intake back half-way, for whoever goes on with it."""
    tx.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.PREPARING)
        .values(intake_until=None, updated_at=tx.now())
    )


def sourced(tx: Tx, batch: Batch, source: Mapping[str, Any], skipped: int) -> Batch:
    """Notes where the items lie that were found in a feed or a bucket, so that whoever goes on takes the same ones.

    Raises IntakeLost.
    """
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.state == BatchState.PREPARING, batches.c.consumed == 0)
        .values(source=dict(source), skipped=skipped, updated_at=tx.now())
        .returning(batches)
    ).one_or_none()
    if row is None:
        raise IntakeLost(batch.id)
    return Batch.from_row(row)


def take_in(tx: Tx, batch: Batch, entries: Sequence[Entry], *, default_quota: Quotas, lease_seconds: float) -> Batch:
    """Makes jobs of the next items: those after the `consumed` ones of `batch`. Raises IntakeLost, `quota_exceeded`."""
    locked = select(batches).where(
        batches.c.id == batch.id, batches.c.state == BatchState.PREPARING, batches.c.consumed == batch.consumed
    )
    if tx.execute(locked.with_for_update()).one_or_none() is None:
        raise IntakeLost(batch.id)
    wanted = [entry for entry in entries if entry.error is None]
    known = taken(tx, batch.key_id, [entry.mark for entry in wanted if entry.mark is not None])
    wanted = _once([entry for entry in wanted if entry.mark not in known])
    own = quota.of(tx, batch.key_id, default_quota)
    quota.check_bytes(tx, batch.key_id, own)
    if not quota.allows(tx, batch.key_id, own, len(wanted)):
        raise NightshiftError(
            "quota_exceeded",
            f"With this batch, more than {own.max_waiting} jobs of this key would be unfinished, which is its quota.",
            hint="Send fewer items, wait for jobs to finish, or ask the operator for more.",
        )
    rejects = [_reject(batch, entry, entry.error) for entry in entries if entry.error is not None]
    at = tx.instant()
    rows: list[dict[str, Any]] = []
    marks: list[str] = []
    uses: list[tuple[str, str]] = []
    for entry in wanted:
        assert entry.request is not None
        try:
            voices.require(tx, batch.key_id, entry.request.voices())
            upstream = upstreams.unfinished(tx, batch.key_id, entry.request.sources())
        except NightshiftError as error:
            rejects.append(_reject(batch, entry, error.as_job_error()))
            continue
        rows.append(_row(batch, entry, upstream, at))
        uses += [(rows[-1]["id"], upload_id) for upload_id in submit.uploads_of(entry.request)]
        if entry.mark is not None:
            marks.append(entry.mark)
    if rows:
        tx.execute(insert(jobs), rows)
        uploads.use(tx, batch.key_id, uses)
        events.submitted(tx, rows)
        _take(tx, batch, marks)
    if rejects:
        tx.execute(insert(batch_rejects), rejects)
    skipped = len(entries) - len(rows) - len(rejects)
    lengths = [row["expected"] for row in rows if row["expected"] is not None]
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id)
        .values(
            total=batches.c.total + len(rows),
            rejected=batches.c.rejected + len(rejects),
            skipped=batches.c.skipped + skipped,
            lengths=batches.c.lengths + len(lengths),
            length=batches.c.length + sum(lengths),
            longest=max(batch.longest, *lengths, 0.0),
            consumed=entries[-1].position,
            intake_until=tx.now(lease_seconds),
            updated_at=tx.now(),
        )
        .returning(batches)
    ).one()
    return Batch.from_row(row)


def _reject(batch: Batch, entry: Entry, error: Mapping[str, Any]) -> dict[str, Any]:
    return {"batch_id": batch.id, "item": entry.position, "source": entry.source, "error": dict(error)}


def _once(entries: list[Entry]) -> list[Entry]:
    """Without those whose mark an earlier one of them has."""
    seen: set[str] = set()
    kept = []
    for entry in entries:
        if entry.mark is not None:
            if entry.mark in seen:
                continue
            seen.add(entry.mark)
        kept.append(entry)
    return kept


def _row(batch: Batch, entry: Entry, upstream: str | None, at: datetime) -> dict[str, Any]:
    request = entry.request
    assert request is not None
    spec = request.spec()
    body, digest = submit.body_of(request)
    return {
        "id": f"job_{ULID()}",
        "key_id": batch.key_id,
        "kind": request.kind,
        "engine": spec.name,
        "lane": request.lane(),
        "batch": request.batch,
        "batch_id": batch.id,
        "batch_item": entry.position,
        "item": dict(entry.fields),
        "expected": entry.seconds,
        "priority": PRIORITIES[request.priority],
        "request": body,
        "state": State.WAITING,
        "reason": Reason.UPSTREAM if upstream else Reason.SUBMITTED,
        "upstream": upstream,
        "run_at": at,
        "deadline": request.deadline,
        "request_digest": digest,
        "created_at": at,
        "updated_at": at,
    }


def taken(tx: Tx, key_id: str, marks: Sequence[str]) -> set[str]:
    """Those of the marks that an earlier batch of the key took."""
    found: set[str] = set()
    for start in range(0, len(marks), CHUNK):
        part = select(taken_items.c.mark).where(
            taken_items.c.key_id == key_id, taken_items.c.mark.in_(marks[start : start + CHUNK])
        )
        found.update(tx.execute(part).scalars())
    return found


def _take(tx: Tx, batch: Batch, marks: list[str]) -> None:
    # In their order: two batches that take the same items must not lock them crosswise.
    rows = [{"key_id": batch.key_id, "mark": mark, "batch_id": batch.id} for mark in sorted(marks)]
    at = tx.instant()
    into = postgresql.insert if tx.postgresql else sqlite.insert
    if rows:
        tx.execute(into(taken_items).on_conflict_do_nothing(), [row | {"created_at": at} for row in rows])


def activate(tx: Tx, batch: Batch) -> Batch:
    """preparing -> active: everything is taken in, and may run when its window is open. Raises IntakeLost.

    With `on_error: stop`, a wrong item ends the batch instead, before anything has run.
    """
    opened = gate.at(batch.window, tx.instant())
    row = tx.execute(
        update(batches)
        .where(
            batches.c.id == batch.id, batches.c.state == BatchState.PREPARING, batches.c.consumed == batch.consumed
        )
        .values(
            state=BatchState.ACTIVE, reason=BatchReason.PREPARED, open_until=opened.open_until,
            changes_at=opened.changes_at, intake_until=None, updated_at=tx.now(),
        )
        .returning(batches)
    ).one_or_none()  # fmt: skip
    if row is None:
        raise IntakeLost(batch.id)
    return tally.settle(tx, Batch.from_row(row))


def refuse(tx: Tx, batch: Batch, error: Mapping[str, Any]) -> Batch:
    """preparing -> cancelling, and then failed: nothing of it will have run. Raises IntakeLost."""
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.state == BatchState.PREPARING)
        .values(
            state=BatchState.CANCELLING, reason=BatchReason.NOT_PREPARED, error=dict(error), intake_until=None,
            updated_at=tx.now(),
        )
        .returning(batches)
    ).one_or_none()  # fmt: skip
    if row is None:
        raise IntakeLost(batch.id)
    return tally.settle(tx, Batch.from_row(row))


def stumbled(tx: Tx, batch: Batch, error: Mapping[str, Any], delay_seconds: float) -> Batch:
    """The source cannot be read now: again later, MAX_INTAKE_FAILURES times in all. Raises IntakeLost."""
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.state == BatchState.PREPARING)
        .values(
            intake_failures=batches.c.intake_failures + 1, intake_until=tx.now(delay_seconds), error=dict(error),
            updated_at=tx.now(),
        )
        .returning(batches)
    ).one_or_none()  # fmt: skip
    if row is None:
        raise IntakeLost(batch.id)
    stopped = Batch.from_row(row)
    return refuse(tx, stopped, error) if stopped.intake_failures >= MAX_INTAKE_FAILURES else stopped
