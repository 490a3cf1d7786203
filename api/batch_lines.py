"""What came of a batch, as JSON lines: its results, and what went wrong. Read page by page while it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from flask import Response, stream_with_context

from api.batch_view import reject_view
from api.context import service
from api.job_view import cached_view
from api.results import linked
from common import naming
from common.batches.outputs import paths, targets
from common.db.engine import Tx
from common.jobs import batch_query, transfers
from common.jobs.batch import Batch, Reject
from common.jobs.job import Job
from common.jobs.transfers import Transfer
from common.states import UNSUCCESSFUL, State

LINES = "application/x-ndjson"

_PAGE = 500

T = TypeVar("T")


def output(batch: Batch) -> Response:
    """A line for each item that has succeeded, in their order."""
    template = naming.Template.parse(batch.template["naming"])

    def line(found: tuple[Job, Transfer | None]) -> dict[str, Any]:
        job, transfer = found
        done = transfer is not None and transfer.state == "done"
        places = zip(linked(job), paths(batch, template, job), targets(batch, template, job), strict=True)
        outputs = [
            {**output.model_dump(mode="json", exclude_none=True), "path": path, "delivered": target if done else None}
            for output, path, target in places
        ]
        cached = cached_view(job.result or {})
        return {
            "item": job.batch_item,
            "job": job.id,
            "cached_from": cached.model_dump(mode="json") if cached else None,
            **_told(job),
            "warnings": list((job.result or {}).get("warnings", ())),
            "outputs": outputs,
        }

    return _stream(_delivered(batch), line, f"{batch.id}-output.jsonl")


def errors(batch_id: str) -> Response:
    """A line for each item that could not become a job, did not succeed, or could not be delivered, in that order."""

    def line(one: Any) -> dict[str, Any]:
        if isinstance(one, Job):
            error = dict(one.error) if one.error else {"code": str(one.state), "message": f"The job was {one.state}."}
            return {"item": one.batch_item, "job": one.id, "state": one.state, **_told(one), "error": error}
        if isinstance(one, tuple):
            job, transfer = one
            state = {"item": job.batch_item, "job": job.id, "state": "undelivered"}
            return {**state, **_told(job), "error": dict(transfer.error)}
        return {"state": "rejected", "job": None, **reject_view(one).model_dump(exclude_unset=True)}

    def found() -> Iterator[Any]:
        yield from _rejects(batch_id)
        yield from _items(batch_id, tuple(sorted(UNSUCCESSFUL)))
        yield from _undelivered(batch_id)

    return _stream(found(), line, f"{batch_id}-errors.jsonl")


def _told(job: Job) -> dict[str, Any]:
    """What the source said of an item."""
    given = {name: value for name, value in (job.item or {}).items() if name in ("title", "show", "date", "guid")}
    return {**given, "metadata": dict(job.request.get("metadata") or {})}


def _items(batch_id: str, states: tuple[State, ...]) -> Iterator[Job]:
    def page(tx: Tx, after: int) -> list[Job]:
        return batch_query.items(tx, batch_id, after=after, limit=_PAGE, states=states)

    return _pages(page, lambda job: job.batch_item or 0)


def _delivered(batch: Batch) -> Iterator[tuple[Job, Transfer | None]]:
    """Jobs that have succeeded, each with the delivery of its results."""
    found = _items(batch.id, (State.SUCCEEDED,))
    while part := list(islice(found, _PAGE)):
        with service().database.read() as tx:
            known = transfers.of(tx, [job.id for job in part]) if batch.deliver else {}
        yield from ((job, known.get(job.id)) for job in part)


def _undelivered(batch_id: str) -> Iterator[tuple[Job, Transfer]]:
    def page(tx: Tx, after: int) -> list[tuple[Job, Transfer]]:
        return transfers.undelivered(tx, batch_id, after=after, limit=_PAGE)

    return _pages(page, lambda one: one[1].item)


def _rejects(batch_id: str) -> Iterator[Reject]:
    def page(tx: Tx, after: int) -> list[Reject]:
        return batch_query.rejects(tx, batch_id, after=after, limit=_PAGE)

    return _pages(page, lambda reject: reject.item)


def _pages(page: Callable[[Tx, int], list[T]], item: Callable[[T], int]) -> Iterator[T]:
    """All that pages hold, each read in a transaction of its own. item: the place that the next one begins after."""
    after = 0
    while True:
        with service().database.read() as tx:
            found = page(tx, after)
        yield from found
        if len(found) < _PAGE:
            return
        after = item(found[-1])


def _stream(found: Iterator[Any], line: Callable[[Any], dict[str, Any]], filename: str) -> Response:
    def lines() -> Iterator[str]:
        for one in found:
            yield json.dumps(line(one), ensure_ascii=False, separators=(",", ":")) + "\n"

    response = Response(stream_with_context(lines()), mimetype=LINES)
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    return response
