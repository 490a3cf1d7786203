"""Batches: thousands of jobs submitted at once, run in their window, steered and collected together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, BinaryIO, TypeVar, cast

from flask import request, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import batch_lines, schemas
from api.batch_lines import LINES
from api.batch_view import batch_view, plan_view
from api.context import caller, service
from api.intake import Intake as Body
from api.job_view import item_view
from api.jobs import Instant, fill, held_until
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from common.batches import control, planning
from common.batches.intake import Intake
from common.db.engine import Tx
from common.db.keys import Scope
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs import batch_query, outlook, steering, transfers
from common.jobs.batch import Batch, BatchState, OnError
from common.jobs.outlook import Outlook
from common.params.batch import BatchChange, BatchRequest, BatchWork
from common.states import State
from common.windows import Windows

T = TypeVar("T")

resource = Resource("batches", "Batches", "Many jobs at once, run in their window")

# What takes longer, the scheduler goes on with after the answer.
ANSWER_SECONDS = 20.0
# In a list: each costs some milliseconds, more where many batches wait.
_FORECASTS = 20


class BatchHeaders(BaseModel):
    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?$",
        description="The same key with the same body gives the same batch, however often it is sent",
    )


class BatchOptions(BaseModel):
    """For a manifest sent as the body itself; with JSON, the body says them, and only `dry_run` may be given."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="Plans the batch, and makes nothing")
    name: str | None = Field(None, min_length=1, max_length=120)
    preset: str | None = Field(None, max_length=72)
    engine: str | None = Field(None, max_length=64)
    window: str | None = Field(None, max_length=2000)
    deadline: Instant | None = None
    on_error: OnError = OnError.SKIP
    weight: float = Field(1.0, gt=0, le=1000)
    naming: str | None = Field(None, max_length=300)
    only_new: bool | None = None
    deliver: str | None = Field(None, max_length=400, description="`s3://bucket/prefix/` to copy the results to")
    deliver_overwrite: bool = False
    deliver_pictures: bool = False


class BatchListQuery(PageQuery):
    state: list[BatchState] = Field([], max_length=10, description="May be given several times")
    schedule: str | None = Field(None, max_length=64, description="Only those of this schedule")


class ItemQuery(PageQuery):
    state: list[State] = Field([], max_length=10, description="May be given several times")


@resource.operation(
    "POST",
    "/v1/batches",
    "Start or plan a batch",
    scope=Scope.WRITE,
    query=BatchOptions,
    headers=BatchHeaders,
    body=BatchRequest,
    media={LINES: "A manifest: a JSON object a line, each an item; Content-Length is needed"},
    answers={
        202: Answer(
            "The batch was accepted",
            schemas.Batch,
            headers={"Location": "Address of the batch", "Idempotency-Replayed": "`true` where it was made before"},
        ),
        200: Answer("The plan, with `dry_run`", schemas.Plan),
    },
    errors=(
        "unknown_preset", "unknown_engine", "engine_unsupported", "url_forbidden", "bucket_forbidden", "input_missing",
        "upload_incomplete", "idempotency_mismatch", "storage_failed", "state_conflict", "invalid_window",
        "invalid_feed", "input_refused", "input_unreachable", "input_too_slow", "too_large", "length_required",
        "quota_exceeded",
    ),
)  # fmt: skip
def start_batch(query: BatchOptions, headers: BatchHeaders, body: BatchRequest | None) -> Any:
    """From items, a manifest, a pattern over a bucket, or a podcast's feed. Items that are wrong are told by
    `errors.jsonl`; the others become jobs, which run when the batch's window is open. A long manifest is `preparing`
    for a while; nothing runs before all of it is taken in. With `dry_run` nothing is made: the answer is a plan."""
    stream = None
    wanted: BatchWork
    if body is not None:
        _only_dry_run()
        wanted = body
    else:
        wanted, stream = _work(query), _lines()
    intake = _intake()
    if query.dry_run:
        return plan_view(planning.plan(intake, caller().id, wanted, stream)), 200
    batch, made = intake.make(caller().id, wanted, body=stream, idempotency_key=headers.idempotency_key)
    if made:
        batch = intake.run(batch.id, ANSWER_SECONDS) or batch
        if batch.state is BatchState.CANCELLING:
            control.cancel_all(service().database, batch.id, ANSWER_SECONDS)
        _fill()
    more = {"Location": url_for("batches.get_batch", batch_id=batch.id)}
    if not made:
        more["Idempotency-Replayed"] = "true"
    return _answer(batch.id), 202, more


def _only_dry_run() -> None:
    more = set(request.args) - {"dry_run"}
    if more:
        raise NightshiftError(
            "invalid_request",
            f"{', '.join(sorted(more))}: with a JSON body, the body says this.",
            extra={"errors": [{"parameter": name, "detail": "Say it in the body."} for name in sorted(more)]},
        )


def _work(query: BatchOptions) -> BatchWork:
    """What the query says of a manifest."""
    told = query.model_dump(
        exclude={"dry_run", "window", "deliver", "deliver_overwrite", "deliver_pictures"}, exclude_none=True
    )
    if query.deliver is not None:
        how = {"overwrite": query.deliver_overwrite, "pictures": query.deliver_pictures}
        told["deliver"] = {"to": query.deliver, **how}
    if query.window is not None:
        told["window"] = Windows.parse(query.window)
    try:
        return BatchWork.model_validate(told)
    except ValidationError as error:
        wrong = [{"parameter": str(e["loc"][0]), "detail": e["msg"]} for e in error.errors()]
        raise NightshiftError("invalid_request", wrong[0]["detail"], extra={"errors": wrong}) from error


def _lines() -> BinaryIO:
    if request.mimetype not in (LINES, "application/jsonl", "application/json-lines"):
        raise NightshiftError(
            "unsupported_media_type",
            f"A batch cannot be sent as {request.mimetype[:100] or 'nothing'}.",
            hint=f"Send JSON, or a manifest as {LINES}.",
        )
    size = request.content_length
    if size is None:
        raise NightshiftError("length_required", "A manifest needs Content-Length.")
    if size > service().settings.max_upload_bytes:
        raise NightshiftError("too_large", f"A manifest has at most {service().settings.max_upload_bytes} bytes.")
    return cast(BinaryIO, Body(request.stream, size, None))


@resource.operation(
    "GET",
    "/v1/batches",
    "List batches",
    scope=Scope.READ,
    query=BatchListQuery,
    answers={200: Answer("A page of batches", schemas.BatchPage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_batches(query: BatchListQuery) -> Any:
    """The key's batches, newest first."""
    before = query.before("batches")
    with service().database.read() as tx:
        found = batch_query.page(
            tx, caller().id, before=before, limit=query.limit + 1, states=query.state, schedule_id=query.schedule
        )
        items, cursor, link = cut("batches", query, found)
        unfinished = [batch for batch in items if not batch.over]
        held = held_until(tx) if unfinished else None
        outlooks = _outlooks(tx, unfinished[:_FORECASTS])
        views = [_view(tx, batch, held, outlooks.get(batch.id)) for batch in items]
    return schemas.BatchPage(items=views, next=cursor), 200, link


@resource.operation(
    "GET",
    "/v1/batches/{batch_id}",
    "Get a batch",
    scope=Scope.READ,
    answers={200: Answer("The batch", schemas.Batch)},
)
def get_batch(batch_id: str) -> Any:
    """A batch of the key, with the counts of its jobs."""
    return _answer(batch_id)


@resource.operation(
    "GET",
    "/v1/batches/{batch_id}/items",
    "List the items of a batch",
    scope=Scope.READ,
    query=ItemQuery,
    answers={200: Answer("A page of its jobs", schemas.ItemPage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_items(batch_id: str, query: ItemQuery) -> Any:
    """The jobs of a batch, in the order of its items. Items that could not become jobs are in `errors.jsonl`."""
    name = f"items:{batch_id}"
    after = int(query.before(name) or 0)
    with service().database.read() as tx:
        _find(tx, batch_id)
        found = batch_query.items(tx, batch_id, after=after, limit=query.limit + 1, states=query.state)
        known = transfers.of(tx, [job.id for job in found])
    items, cursor, link = cut(name, query, found, key=lambda job: str(job.batch_item))
    keep = service().settings.retention
    views = [item_view(job, keep, known.get(job.id)) for job in items]
    return schemas.ItemPage(items=views, next=cursor), 200, link


# --- Steering ---------------------------------------------------------------------------------------------------------


@resource.operation(
    "POST",
    "/v1/batches/{batch_id}/pause",
    "Pause a batch",
    scope=Scope.WRITE,
    answers={200: Answer("The batch is paused", schemas.Batch)},
    errors=("state_conflict",),
)
def pause_batch(batch_id: str) -> Any:
    """Nothing more of it starts; what runs yields at its next block, and keeps what it has done."""
    return _steer(batch_id, steering.pause)


@resource.operation(
    "POST",
    "/v1/batches/{batch_id}/resume",
    "Resume a batch",
    scope=Scope.WRITE,
    answers={200: Answer("The batch goes on", schemas.Batch)},
    errors=("state_conflict",),
)
def resume_batch(batch_id: str) -> Any:
    """It goes on when its window is open; also a batch that a failed item stopped."""
    return _steer(batch_id, steering.resume)


@resource.operation(
    "PATCH",
    "/v1/batches/{batch_id}",
    "Change a batch",
    scope=Scope.WRITE,
    body=BatchChange,
    answers={200: Answer("The batch", schemas.Batch)},
    errors=("invalid_window", "state_conflict"),
)
def change_batch(batch_id: str, body: BatchChange) -> Any:
    """Another window, deadline or share, from now on: where the new window is closed, what runs yields at its next
    block. Only while it is active or paused."""
    values = body.model_dump(include=body.model_fields_set)
    if "window" in values:
        values["window"] = str(body.window) if body.window is not None else None
    return _steer(batch_id, lambda tx, one: steering.change(tx, one, values))


@resource.operation(
    "POST",
    "/v1/batches/{batch_id}/cancel",
    "Cancel a batch",
    scope=Scope.WRITE,
    answers={
        200: Answer("The batch is over", schemas.Batch),
        202: Answer("Nothing more of it starts; jobs that run stop within seconds", schemas.Batch),
    },
)
def cancel_batch(batch_id: str) -> Any:
    """Cancels every job of it that has not ended. Cancelling a batch that is over changes nothing."""
    with service().database.write() as tx:
        _find(tx, batch_id)
        steering.cancel(tx, batch_id)
    control.cancel_all(service().database, batch_id, ANSWER_SECONDS)
    _fill()
    answer = _answer(batch_id)
    return answer, 202 if answer.finished_at is None else 200


@resource.operation(
    "POST",
    "/v1/batches/{batch_id}/retry-failed",
    "Retry the failed items of a batch",
    scope=Scope.WRITE,
    answers={202: Answer("They wait again", schemas.Retried)},
    errors=("state_conflict", "quota_exceeded"),
)
def retry_batch(batch_id: str) -> Any:
    """Runs again what failed or expired; a batch that was over goes on. Deliveries that failed are tried again too."""
    with service().database.read() as tx:
        _find(tx, batch_id)
    done = control.retry_failed(service().database, batch_id, service().settings.quotas)
    _fill()
    return schemas.Retried(
        again=done.again, refused=done.refused, deliveries=done.deliveries, batch=_answer(batch_id)
    ), 202


# --- What came of it --------------------------------------------------------------------------------------------------


@resource.operation(
    "GET",
    "/v1/batches/{batch_id}/output.jsonl",
    "Get the results of a batch",
    scope=Scope.READ,
    answers={200: Answer("A line for each item that has succeeded, in their order", media=LINES)},
)
def get_output(batch_id: str) -> Any:
    """Each line names an item, its job and its outputs, with the names that the batch's template gives them and links
    that work for a while without a key. `delivered` is the `s3://` address where a copy lies, null where none does.
    `warnings` say what was wrong with an input that was processed all the same: one that is cut short, for instance."""
    with service().database.read() as tx:
        batch = _find(tx, batch_id)
    return batch_lines.output(batch)


@resource.operation(
    "GET",
    "/v1/batches/{batch_id}/errors.jsonl",
    "Get what went wrong in a batch",
    scope=Scope.READ,
    answers={
        200: Answer(
            "A line for each item that could not become a job, whose job did not succeed, or whose results could not "
            "be delivered",
            media=LINES,
        )
    },
)
def get_errors(batch_id: str) -> Any:
    """First the items that could not become jobs, then the jobs that failed, expired or were cancelled, then those that
    succeeded but whose results could not be delivered, with the state `undelivered`."""
    with service().database.read() as tx:
        _find(tx, batch_id)
    return batch_lines.errors(batch_id)


# --- Beneath ----------------------------------------------------------------------------------------------------------


def _steer(batch_id: str, verb: Callable[[Tx, str], Batch]) -> schemas.Batch:
    with service().database.write() as tx:
        _find(tx, batch_id)
        verb(tx, batch_id)
    _fill()
    return _answer(batch_id)


def _fill() -> None:
    bells = []
    for lane in Lane:
        with service().database.write() as tx:
            bells += fill(tx, lane)
    service().ringer.ring(bells)


def _answer(batch_id: str) -> schemas.Batch:
    with service().database.read() as tx:
        batch = _find(tx, batch_id)
        if batch.over:
            return _view(tx, batch, None)
        return _view(tx, batch, held_until(tx), _outlooks(tx, [batch]).get(batch_id))


def _outlooks(tx: Tx, unfinished: Sequence[Batch]) -> dict[str, Outlook]:
    """How things stand is read once for all of them."""
    if not unfinished:
        return {}
    ids = [batch.id for batch in unfinished]
    standing = outlook.read(tx, service().settings.alive_seconds, ids)
    return {batch_id: one for batch_id in ids if (one := outlook.of_batch(standing, batch_id)) is not None}


def _view(tx: Tx, batch: Batch, held: datetime | None, found: Outlook | None = None) -> schemas.Batch:
    under_way = {} if batch.over else batch_query.under_way(tx, batch.id)
    return batch_view(batch, service().settings.retention, under_way, tx.instant(), found, held)


def _find(tx: Tx, batch_id: str) -> Batch:
    batch = batch_query.get(tx, batch_id, caller().id)
    if batch is None:
        raise NightshiftError("not_found", "There is no such batch.")
    return batch


def _intake() -> Intake:
    return Intake(service().settings, service().database, service().store)
