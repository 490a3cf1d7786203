"""One verb on all jobs that a filter means, step by step: each step is a transaction of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select, update

from common.db.engine import Tx
from common.db.tables import jobs
from common.jobs import finish, submit, sweep
from common.jobs.job import BRIEF, Brief
from common.jobs.query import Filter, matching
from common.quotas import Quotas
from common.states import ACTIVE, TERMINAL, State, Verb, sources

STEP = 2000


class Action(StrEnum):
    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"


FROM = {Action.CANCEL: ACTIVE, Action.RETRY: sources(Verb.RESUBMIT), Action.DELETE: TERMINAL}
"""The states from which each may be done; jobs in others are left alone."""


@dataclass(frozen=True)
class Step:
    """done, refused: of this step.  last: pass as `before` for the next one; None where this was the last."""

    done: int
    refused: int
    last: str | None


def narrowed(action: Action, which: Filter) -> Filter:
    """The filter, of the states from which the action may be done only."""
    wanted = FROM[action] if which.states is None else FROM[action] & set(which.states)
    return Filter(
        tuple(sorted(wanted)), which.kind, which.engine, which.batch, which.created_after, which.created_before
    )  # fmt: skip


def count(tx: Tx, key_id: str, action: Action, which: Filter, at_most: int) -> tuple[int, list[str]]:
    """How many jobs the action would be done to, counted up to `at_most`, and the newest ten of them."""
    found = select(jobs.c.id).where(*matching(key_id, narrowed(action, which))).order_by(jobs.c.id.desc())
    counted = tx.execute(select(func.count()).select_from(found.limit(at_most).subquery())).scalar_one()
    return int(counted), list(tx.execute(found.limit(10)).scalars())


def step(
    tx: Tx, key_id: str, action: Action, which: Filter, *, before: str | None, default_quota: Quotas, limit: int = STEP
) -> Step:  # fmt: skip
    """The action on up to `limit` jobs, the newest first, of those before the id `before`. Raises `quota_exceeded`."""
    query = select(*BRIEF).where(*matching(key_id, narrowed(action, which)))
    if before is not None:
        query = query.where(jobs.c.id < before)
    rows = tx.execute(query.order_by(jobs.c.id.desc()).limit(limit).with_for_update())
    found = [Brief.from_row(row) for row in rows]
    refused = 0
    if action is Action.CANCEL:
        _flag(tx, [job.id for job in found if job.state is State.RUNNING])
        finish.cancel_many(tx, [job.id for job in found if job.state is not State.RUNNING])
    elif action is Action.RETRY:
        refused = submit.resubmit_many(tx, key_id, found, default_quota=default_quota)
    else:
        refused = len(found) - sweep.remove_many(tx, [job.id for job in found])
    last = found[-1].id if len(found) == limit else None
    return Step(len(found) - refused, refused, last)


def _flag(tx: Tx, running: list[str]) -> None:
    if running:
        tx.execute(
            update(jobs)
            .where(jobs.c.id.in_(running), jobs.c.state == State.RUNNING)
            .values(cancel_requested=True, updated_at=tx.now())
        )
