"""Schedules: a batch for each tick of a clock."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import url_for

from api import schemas
from api.batch_view import schedule_view, tick_view
from api.context import caller, service
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from common.batches.clockwork import batch_of
from common.batches.intake import Intake
from common.cron import Cron
from common.db.engine import Tx
from common.db.keys import Scope
from common.errors import NightshiftError
from common.jobs import schedules
from common.jobs.schedules import Schedule
from common.params.batch import ScheduleRequest

resource = Resource("schedules", "Schedules", "A batch for each tick of a clock")

_ERRORS = (
    "invalid_schedule", "unknown_preset", "unknown_engine", "engine_unsupported", "url_forbidden", "bucket_forbidden",
)  # fmt: skip


@resource.operation(
    "POST",
    "/v1/schedules",
    "Make a schedule",
    scope=Scope.WRITE,
    body=ScheduleRequest,
    answers={201: Answer("The schedule", schemas.Schedule, headers={"Location": "Its address"})},
    errors=_ERRORS,
)
def create_schedule(body: ScheduleRequest) -> Any:
    """Each tick makes one batch of a feed or a bucket, however many schedulers run. Of a feed, and with `only_new` of a
    bucket too, a batch takes what no earlier one took."""
    clock = _checked(body)
    with service().database.write() as tx:
        made = schedules.create(tx, caller().id, body.name, clock, body.missed, _kept(body), _after(body))
    return schedule_view(made), 201, {"Location": url_for("schedules.get_schedule", schedule_id=made.id)}


@resource.operation(
    "GET",
    "/v1/schedules",
    "List schedules",
    scope=Scope.READ,
    query=PageQuery,
    answers={200: Answer("A page of schedules", schemas.SchedulePage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_schedules(query: PageQuery) -> Any:
    """The key's schedules, newest first."""
    with service().database.read() as tx:
        found = schedules.page(tx, caller().id, before=query.before("schedules"), limit=query.limit + 1)
    items, cursor, link = cut("schedules", query, found)
    return schemas.SchedulePage(items=[schedule_view(one) for one in items], next=cursor), 200, link


@resource.operation(
    "GET",
    "/v1/schedules/{schedule_id}",
    "Get a schedule",
    scope=Scope.READ,
    answers={200: Answer("The schedule", schemas.Schedule)},
)
def get_schedule(schedule_id: str) -> Any:
    """With its next tick."""
    with service().database.read() as tx:
        return schedule_view(_find(tx, schedule_id))


@resource.operation(
    "PUT",
    "/v1/schedules/{schedule_id}",
    "Replace a schedule",
    scope=Scope.WRITE,
    body=ScheduleRequest,
    answers={200: Answer("The schedule", schemas.Schedule)},
    errors=_ERRORS,
)
def replace_schedule(schedule_id: str, body: ScheduleRequest) -> Any:
    """From now on it ticks by the new clock and makes the new batch."""
    clock = _checked(body)
    with service().database.write() as tx:
        _find(tx, schedule_id)
        changed = schedules.replace(tx, schedule_id, body.name, clock, body.missed, _kept(body), _after(body))
        return schedule_view(changed)


@resource.operation(
    "DELETE",
    "/v1/schedules/{schedule_id}",
    "Delete a schedule",
    scope=Scope.WRITE,
    answers={204: Answer("It is deleted; its batches stay")},
)
def delete_schedule(schedule_id: str) -> Any:
    """Deletes it with its history."""
    with service().database.write() as tx:
        _find(tx, schedule_id)
        schedules.remove(tx, schedule_id)
    return None, 204


@resource.operation(
    "POST",
    "/v1/schedules/{schedule_id}/pause",
    "Pause a schedule",
    scope=Scope.WRITE,
    answers={200: Answer("It makes no batches", schemas.Schedule)},
)
def pause_schedule(schedule_id: str) -> Any:
    """Its batches go on."""
    with service().database.write() as tx:
        _find(tx, schedule_id)
        return schedule_view(schedules.pause(tx, schedule_id))


@resource.operation(
    "POST",
    "/v1/schedules/{schedule_id}/resume",
    "Resume a schedule",
    scope=Scope.WRITE,
    answers={200: Answer("It ticks again", schemas.Schedule)},
)
def resume_schedule(schedule_id: str) -> Any:
    """What ticked while it was paused was not missed."""
    with service().database.write() as tx:
        _find(tx, schedule_id)
        return schedule_view(schedules.resume(tx, schedule_id))


@resource.operation(
    "POST",
    "/v1/schedules/{schedule_id}/run",
    "Run a schedule now",
    scope=Scope.WRITE,
    answers={202: Answer("A batch was made beside the clock", schemas.ScheduleTick)},
    errors=("unknown_preset", "invalid_request"),
)
def run_schedule(schedule_id: str) -> Any:
    """Its clock goes on as before; also a paused one can be run."""
    with service().database.write() as tx:
        _find(tx, schedule_id)
        done = schedules.run_now(tx, schedule_id, partial(batch_of, tx))
    return tick_view(done), 202


@resource.operation(
    "GET",
    "/v1/schedules/{schedule_id}/ticks",
    "Get the history of a schedule",
    scope=Scope.READ,
    answers={200: Answer("Its last 100 ticks, the newest first", schemas.TickList)},
)
def list_ticks(schedule_id: str) -> Any:
    """What became of each tick: the batch that was made, or why none was."""
    with service().database.read() as tx:
        _find(tx, schedule_id)
        return schemas.TickList(items=[tick_view(one) for one in schedules.history(tx, schedule_id)])


def _checked(body: ScheduleRequest) -> Cron:
    if body.batch.items is not None or body.batch.manifest is not None:
        raise NightshiftError(
            "invalid_request",
            "The items of a schedule's batches come from a feed or a bucket.",
            hint="Give rss or s3; items and manifests would be the same at every tick.",
            pointer="/batch",
        )
    if body.batch.deadline is not None:
        raise NightshiftError(
            "invalid_request",
            "One deadline cannot be that of every night's batch.",
            hint="Give the schedule deadline_after instead: how long after each tick its batch is to be done.",
            pointer="/batch/deadline",
        )
    intake = Intake(service().settings, service().database, service().store)
    try:
        intake.check(body.batch)
        intake.template(caller().id, body.batch)
    except NightshiftError as error:
        error.pointer = f"/batch{error.pointer}" if error.pointer else "/batch"
        raise
    return Cron.parse(body.cron, body.timezone)


def _kept(body: ScheduleRequest) -> dict[str, Any]:
    return body.batch.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _after(body: ScheduleRequest) -> float | None:
    return body.deadline_after.total_seconds() if body.deadline_after is not None else None


def _find(tx: Tx, schedule_id: str) -> Schedule:
    schedule = schedules.get(tx, schedule_id, caller().id)
    if schedule is None:
        raise NightshiftError("not_found", "There is no such schedule.")
    return schedule
