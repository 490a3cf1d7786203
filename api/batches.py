"""Batches: thousands of jobs submitted at once, run in their window, steered and collected together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from flask import Response, request, stream_with_context, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import schemas
from api.batch_view import batch_view, plan_view, reject_view
from api.context import caller, service
from api.intake import Intake as Body
from api.job_view import item_view
from api.jobs import Instant, fill
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from api.results import linked
from common import naming
from common.batches import control, planning
from common.batches.intake import Intake
from common.db.engine import Tx
from common.db.keys import Scope
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs import batches, outlook
from common.jobs.batch import Batch, BatchState, OnError
from common.jobs.job import Job
from common.jobs.outlook import Outlook
from common.params.batch import BatchRequest, BatchWork
from common.states import UNSUCCESSFUL, State
from common.windows import Windows

resource = Resource("batches", "Batches", "Many jobs at once, run in their window")

# What takes longer, the scheduler goes on with after the answer.
ANSWER_SECONDS = 20.0
_PAGE = 500
_LINES = "application/x-ndjson"


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
    media={_LINES: "A manifest: a JSON object a line, each an item; Content-Length is needed"},
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
    told = query.model_dump(exclude={"dry_run", "window"}, exclude_none=True)
    if query.window is not None:
        told["window"] = Windows.parse(query.window)
    try:
        return BatchWork.model_validate(told)
    except ValidationError as error:
        wrong = [{"parameter": str(e["loc"][0]), "detail": e["msg"]} for e in error.errors()]
        raise NightshiftError("invalid_request", wrong[0]["detail"], extra={"errors": wrong}) from error


def _lines() -> BinaryIO:
    if request.mimetype not in (_LINES, "application/jsonl", "application/json-lines"):
        raise NightshiftError(
            "unsupported_media_type",
            f"A batch cannot be sent as {request.mimetype[:100] or 'nothing'}.",
            hint=f"Send JSON, or a manifest as {_LINES}.",
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
        found = batches.page(
            tx, caller().id, before=before, limit=query.limit + 1, states=query.state, schedule_id=query.schedule
        )
        items, cursor, link = cut("batches", query, found)
        outlooks = _outlooks(tx, items)
        views = [_view(tx, batch, outlooks.get(batch.id)) for batch in items]
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
        found = batches.items(tx, batch_id, after=after, limit=query.limit + 1, states=query.state)
    items, cursor, link = cut(name, query, found, key=lambda job: str(job.batch_item))
    return schemas.ItemPage(items=[item_view(job) for job in items], next=cursor), 200, link


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
    return _steer(batch_id, batches.pause)


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
    return _steer(batch_id, batches.resume)


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
        batches.cancel(tx, batch_id)
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
    """Runs again what failed or expired; a batch that was over goes on."""
    with service().database.read() as tx:
        _find(tx, batch_id)
    done = control.retry_failed(service().database, batch_id, service().settings.max_waiting_per_key)
    _fill()
    return schemas.Retried(again=done.again, refused=done.refused, batch=_answer(batch_id)), 202


# --- What came of it --------------------------------------------------------------------------------------------------


@resource.operation(
    "GET",
    "/v1/batches/{batch_id}/output.jsonl",
    "Get the results of a batch",
    scope=Scope.READ,
    answers={200: Answer("A line for each item that has succeeded, in their order", media=_LINES)},
)
def get_output(batch_id: str) -> Any:
    """Each line names an item, its job and its outputs, with the names that the batch's template gives them and links
    that work for a while without a key."""
    with service().database.read() as tx:
        batch = _find(tx, batch_id)
    template = naming.Template.parse(batch.template["naming"])

    def line(job: Job) -> dict[str, Any]:
        outputs = [
            {**output.model_dump(mode="json", exclude_none=True), "path": path}
            for output, path in zip(linked(job), paths(batch, template, job), strict=True)
        ]
        return {"item": job.batch_item, "job": job.id, **_told(job), "outputs": outputs}

    return _stream(_items(batch_id, (State.SUCCEEDED,)), line, f"{batch_id}-output.jsonl")


@resource.operation(
    "GET",
    "/v1/batches/{batch_id}/errors.jsonl",
    "Get what went wrong in a batch",
    scope=Scope.READ,
    answers={
        200: Answer("A line for each item that could not become a job, or whose job did not succeed", media=_LINES)
    },
)
def get_errors(batch_id: str) -> Any:
    """First the items that could not become jobs, then the jobs that failed, expired or were cancelled."""
    with service().database.read() as tx:
        _find(tx, batch_id)

    def line(one: Any) -> dict[str, Any]:
        if isinstance(one, Job):
            error = dict(one.error) if one.error else {"code": str(one.state), "message": f"The job was {one.state}."}
            return {"item": one.batch_item, "job": one.id, "state": one.state, **_told(one), "error": error}
        return {"state": "rejected", "job": None, **reject_view(one).model_dump(exclude_unset=True)}

    def found() -> Iterator[Any]:
        yield from _rejects(batch_id)
        yield from _items(batch_id, tuple(sorted(UNSUCCESSFUL)))

    return _stream(found(), line, f"{batch_id}-errors.jsonl")


def paths(batch: Batch, template: naming.Template, job: Job) -> list[str]:
    """Where the outputs of a job belong, by the batch's template; no two of a batch are the same."""
    given = {**(job.item or {}), "batch": batch.name, "index": str(job.batch_item), "job": job.id}
    suffix = given.pop("suffix", "")
    outputs = (job.result or {})["outputs"]
    names = []
    for output in outputs:
        stem, _, ending = str(output["filename"]).rpartition(".")
        names.append(template.render(given, stem or output["name"], ending, suffix))
    return names


def _told(job: Job) -> dict[str, Any]:
    """What the source said of an item."""
    given = {name: value for name, value in (job.item or {}).items() if name in ("title", "show", "date", "guid")}
    return {**given, "metadata": dict(job.request.get("metadata") or {})}


def _items(batch_id: str, states: tuple[State, ...]) -> Iterator[Job]:
    after = 0
    while True:
        with service().database.read() as tx:
            found = batches.items(tx, batch_id, after=after, limit=_PAGE, states=states)
        yield from found
        if len(found) < _PAGE:
            return
        after = found[-1].batch_item or 0


def _rejects(batch_id: str) -> Iterator[Any]:
    after = 0
    while True:
        with service().database.read() as tx:
            found = batches.rejects(tx, batch_id, after=after, limit=_PAGE)
        yield from found
        if len(found) < _PAGE:
            return
        after = found[-1].item


def _stream(found: Iterator[Any], line: Callable[[Any], dict[str, Any]], filename: str) -> Response:
    def lines() -> Iterator[str]:
        for one in found:
            yield json.dumps(line(one), ensure_ascii=False, separators=(",", ":")) + "\n"

    response = Response(stream_with_context(lines()), mimetype=_LINES)
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    return response


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
        return _view(tx, batch, _outlooks(tx, [batch]).get(batch_id))


def _outlooks(tx: Tx, found: Sequence[Batch]) -> dict[str, Outlook]:
    """Of those that are not over. How things stand is read once for all of them."""
    ids = [batch.id for batch in found if not batch.over]
    if not ids:
        return {}
    standing = outlook.read(tx, service().settings.alive_seconds, ids)
    return {batch_id: one for batch_id in ids if (one := outlook.of_batch(standing, batch_id)) is not None}


def _view(tx: Tx, batch: Batch, found: Outlook | None = None) -> schemas.Batch:
    under_way = {} if batch.over else batches.under_way(tx, batch.id)
    return batch_view(batch, under_way, tx.instant(), found)


def _find(tx: Tx, batch_id: str) -> Batch:
    batch = batches.get(tx, batch_id, caller().id)
    if batch is None:
        raise NightshiftError("not_found", "There is no such batch.")
    return batch


def _intake() -> Intake:
    return Intake(service().settings, service().database, service().store)
