"""What a schedule's tick makes a batch of."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from common.batches.intake import new_batch, source_of
from common.batches.template import Template
from common.db import presets
from common.db.engine import Tx
from common.jobs.batches import NewBatch
from common.jobs.schedules import Schedule
from common.params.batch import BatchRequest


def batch_of(tx: Tx, schedule: Schedule, tick: datetime) -> NewBatch:
    """The batch of a tick, whose items are still to be found. The preset is the one of now, the deadline reckoned from
    the tick.

    Raises `unknown_preset`.
    """
    request = BatchRequest.model_validate(schedule.batch)
    given = request.model_dump(mode="json", include={"preset", "kind", "engine", "params"}, exclude_none=True)
    work = presets.resolve(tx, schedule.key_id, given)
    template = Template.of(request, work, request.name or schedule.name)
    new = new_batch(request, template, source_of(request), schedule.id)
    if schedule.deadline_after is None:
        return new
    return replace(new, deadline=tick + timedelta(seconds=schedule.deadline_after))
