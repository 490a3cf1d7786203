"""One action on all jobs that a filter means."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api import schemas
from api.context import caller, service
from api.jobs import Instant, fill
from api.operations import Answer, Resource
from common.db.keys import Scope
from common.engines import Kind, Lane
from common.jobs import bulk
from common.jobs.bulk import Action
from common.jobs.query import Filter
from common.states import State

resource = Resource("bulk", "Bulk", "One action on many jobs")

MAX_COUNTED = 100_000
ANSWER_SECONDS = 20.0


class BulkFilter(BaseModel):
    """Which of the key's jobs; all conditions together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: list[State] | None = Field(None, min_length=1, max_length=10)
    kind: Kind | None = None
    engine: str | None = Field(None, max_length=64)
    batch: str | None = Field(None, max_length=120, description="The label")
    created_after: Instant | None = None
    created_before: Instant | None = None

    @model_validator(mode="after")
    def _some(self) -> BulkFilter:
        if not self.model_dump(exclude_none=True):
            raise ValueError("name at least one condition: an empty filter would mean every job")
        return self


class BulkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action
    filter: BulkFilter
    dry_run: bool = Field(False, description="Says how many it would be, and does nothing")


@resource.operation(
    "POST",
    "/v1/jobs/bulk",
    "Cancel, retry or delete many jobs",
    scope=Scope.WRITE,
    body=BulkRequest,
    answers={200: Answer("What was done, or would be", schemas.Bulk)},
    errors=("quota_exceeded",),
)
def act_on_jobs(body: BulkRequest) -> Any:
    """Cancels what has not ended, retries what failed, expired or was cancelled, or deletes what has ended; jobs that
    the action does not fit are left alone. Where `left` is true, send the request again for the rest."""
    wanted = body.filter
    which = Filter(
        tuple(wanted.state) if wanted.state else None,
        wanted.kind,
        wanted.engine,
        wanted.batch,
        wanted.created_after,
        wanted.created_before,
    )
    with service().database.read() as tx:
        matched, sample = bulk.count(tx, caller().id, body.action, which, MAX_COUNTED)
    if body.dry_run:
        return schemas.Bulk(action=body.action, dry_run=True, matched=matched, sample=sample, left=bool(matched))
    done = refused = 0
    before: str | None = None
    ends = time.monotonic() + ANSWER_SECONDS
    while True:
        with service().database.write() as tx:
            step = bulk.step(
                tx,
                caller().id,
                body.action,
                which,
                before=before,
                default_quota=service().settings.quotas,
            )
        done, refused, before = done + step.done, refused + step.refused, step.last
        if before is None or time.monotonic() > ends:
            break
        service().database.give_way()
    bells = []
    for lane in Lane:
        with service().database.write() as tx:
            bells += fill(tx, lane)
    service().ringer.ring(bells)
    return schemas.Bulk(
        action=body.action, matched=matched, done=done, refused=refused, sample=sample, left=before is not None
    )
