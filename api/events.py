"""The log of a job, as a list or as server-sent events that follow it to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from api import schemas
from api.context import Service, caller, service
from api.job_view import progress_view
from api.jobs import find
from api.operations import Answer, Resource
from common.db.keys import Scope
from common.errors import NightshiftError
from common.jobs import events, query
from common.jobs.events import Event
from common.jobs.job import Job

resource = Resource("events", "Events", "What happens to a job")

POLL_SECONDS = (0.25, 1.0)  # while something happens, and at most
HEARTBEAT_SECONDS = 15.0  # proxies cut connections that are silent for a minute
_PAGE = 500


class EventQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=2**63 - 1, description="Only events after this id")


class EventHeaders(BaseModel):
    last_event_id: int | None = Field(
        None, alias="Last-Event-ID", ge=0, le=2**63 - 1, description="The same, as browsers send it"
    )


@resource.operation(
    "GET",
    "/v1/jobs/{job_id}/events",
    "Follow a job",
    scope=Scope.READ,
    query=EventQuery,
    headers=EventHeaders,
    answers={
        200: Answer("The events", schemas.EventList, "text/event-stream"),
        204: Answer("The job has ended and everything was told: do not connect again"),
    },
    errors=("unavailable",),
)
def follow_job(job_id: str, query: EventQuery, headers: EventHeaders) -> Any:
    """With `Accept: application/json` a list; else a stream of server-sent events: `state` and `log`, with ids to go on
    from after a broken connection, and `progress`, without. The stream ends after the event that ends the job."""
    job = find(job_id)
    after = max(query.after, headers.last_event_id or 0)
    if request.accept_mimetypes.best_match(["text/event-stream", "application/json"]) == "application/json":
        return _list(job, after)
    here = service()
    if job.terminal:
        with here.database.read() as tx:
            if not events.after(tx, job_id, after, 1):
                return None, 204
    if not here.waiters.acquire(blocking=False):
        raise NightshiftError(
            "unavailable",
            "Too many requests are waiting for jobs.",
            hint="Ask for the job now and then instead, or let a callback tell you.",
        )
    response = Response(_stream(here, job_id, caller().id, after), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep the events back
    response.call_on_close(here.waiters.release)
    return response


def _list(job: Job, after: int) -> schemas.EventList:
    with service().database.read() as tx:
        found = events.after(tx, job.id, after, _PAGE)
    more = len(found) == _PAGE
    return schemas.EventList(items=[_view(event) for event in found], next=found[-1].id if more else None)


def _view(event: Event) -> schemas.Event:
    return schemas.Event(id=event.id, at=event.at, type=event.type, data=dict(event.data))


def _stream(here: Service, job_id: str, key_id: str, after: int) -> Iterator[str]:
    """Ends with the job, and when it is deleted; also when the database is away or this process is to stop: the client
    then connects again."""
    yield "retry: 2000\n\n"
    told: schemas.Progress | None = None
    pause, beat = POLL_SECONDS[0], time.monotonic()
    while True:
        try:
            # The job first: when it has ended, the event that says so is there.
            with here.database.read() as tx:
                job = query.get(tx, job_id, key_id)
                found = events.after(tx, job_id, after, _PAGE)
        except SQLAlchemyError:
            return
        if job is None:
            return
        progress = progress_view(job)
        moved = bool(found) or progress != told
        for event in found:
            after = event.id
            yield f"id: {event.id}\nevent: {event.type}\ndata: {_view(event).model_dump_json()}\n\n"
        if progress is not None and progress != told:
            told = progress
            yield f"event: progress\ndata: {progress.model_dump_json()}\n\n"
        if job.terminal and len(found) < _PAGE:
            return
        if moved:
            beat = time.monotonic()
        elif time.monotonic() - beat >= HEARTBEAT_SECONDS:
            beat = time.monotonic()
            yield ": still here\n\n"
        pause = POLL_SECONDS[0] if moved else min(pause * 1.5, POLL_SECONDS[1])
        if len(found) < _PAGE and here.stopping.wait(pause):
            return
