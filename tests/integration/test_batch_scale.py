"""Batches of thousands: what is done to all of their jobs takes a number of statements that their steps decide, not
their jobs; taking them in takes no memory for each; and who dies in between leaves nothing half done."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from common.batches import control
from common.batches.intake import Intake
from common.db.engine import Database
from common.db.tables import batches as batch_rows
from common.db.tables import callbacks, events, jobs, sweeps
from common.jobs import batch_query, batches, bulk, finish, steering, sweep
from common.jobs.batch import Batch, BatchState
from common.jobs.batches import CHUNK
from common.jobs.bulk import Action
from common.jobs.query import Filter
from common.jobs.steering import STEP
from common.params.batch import BatchWork
from common.quotas import Quotas
from common.states import State
from tests.batches import created, entries, look
from tests.house import House, wait_for
from tests.jobs import ERROR, LEASE, LONG_AGO, RECEIVER, new_key
from worker.scheduler import Scheduler

COUNT = 2 * STEP
# Statements of a step, with the transaction's own; a little more than there are.
OF_A_STEP = 25
QUOTA = Quotas(10 * COUNT)


def _filled(database: Database, key_id: str, count: int = COUNT, **job: Any) -> Batch:
    batch = created(database, key_id)
    for first in range(1, count + 1, CHUNK):
        part = entries(min(CHUNK, count + 1 - first), first, **job)
        with database.write() as tx:
            batch = batches.take_in(tx, batch, part, default_quota=QUOTA, lease_seconds=LEASE)
    with database.write() as tx:
        return batches.activate(tx, batch)


@contextmanager
def _counted(database: Database) -> Iterator[list[str]]:
    """Collects the statements that are sent meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def _told(database: Database, state: State) -> int:
    """How many jobs have one event of that state, and have it last."""
    with database.read() as tx:
        last = select(func.max(events.c.id)).group_by(events.c.job_id).scalar_subquery()
        rows = tx.execute(select(events.c.data).where(events.c.id.in_(last)))
        return sum(row.data["state"] == state for row in rows)


@pytest.mark.parametrize("told", [False, True])
def test_cancelled_in_steps(database: Database, told: bool) -> None:
    batch = _filled(database, new_key(database), callback={"url": RECEIVER} if told else None)
    with database.write() as tx:
        steering.cancel(tx, batch.id)
    with _counted(database) as sent:
        assert control.cancel_all(database, batch.id) == COUNT
    assert len(sent) <= OF_A_STEP * (COUNT // STEP + 1)
    ended = look(database, batch.id)
    assert (ended.state, ended.cancelled, ended.total) == (BatchState.CANCELLED, COUNT, COUNT)
    assert _told(database, State.CANCELLED) == COUNT
    with database.read() as tx:
        sent_to = tx.execute(select(func.count(callbacks.c.job_id.distinct())).where(callbacks.c.state == "pending"))
        assert sent_to.scalar_one() == (COUNT if told else 0)


def test_failures_retried_in_steps(database: Database) -> None:
    batch = _filled(database, new_key(database))
    with database.write() as tx:
        ids = list(tx.execute(select(jobs.c.id)).scalars())
        tx.execute(update(jobs).values(state=State.FAILED, error=ERROR, attempt=2, finished_at=tx.now()))
        finish.ended(tx, *(job for job in batch_query.items(tx, batch.id, after=0, limit=COUNT)))
    assert look(database, batch.id).state is BatchState.FINISHED
    with _counted(database) as sent:
        assert control.retry_failed(database, batch.id, QUOTA) == control.Retries(len(ids), 0, 0)
    assert len(sent) <= OF_A_STEP * (COUNT // STEP + 1)
    again = look(database, batch.id)
    assert (again.state, again.failed) == (BatchState.ACTIVE, 0)
    assert _told(database, State.WAITING) == COUNT
    with database.read() as tx:
        tries = tx.execute(select(events.c.data).order_by(events.c.id.desc()).limit(1)).scalar_one()
    assert tries["attempt"] == 2


def test_expired_cancelled_and_deleted_by_a_filter_in_steps(database: Database) -> None:
    key_id = new_key(database)
    _filled(database, key_id, deadline=LONG_AGO.isoformat())
    steps = [
        lambda tx: len(finish.expire(tx, STEP)),
        lambda tx: bulk.step(tx, key_id, Action.CANCEL, Filter(), before=None, default_quota=QUOTA, limit=STEP).done,
        lambda tx: bulk.step(tx, key_id, Action.DELETE, Filter(), before=None, default_quota=QUOTA, limit=STEP).done,
    ]
    for step in steps:
        with database.write() as tx, _counted(database) as sent:
            assert step(tx) == STEP
        assert len(sent) <= OF_A_STEP
    with database.read() as tx:
        assert tx.execute(select(func.count()).select_from(jobs)).scalar_one() == COUNT - STEP


def test_pruned_in_steps_with_the_files_of_those_that_ran(database: Database) -> None:
    batch = _filled(database, new_key(database), STEP)
    with database.write() as tx:
        tx.execute(update(jobs).values(state=State.CANCELLED, finished_at=tx.now(-2000.0)))
        tx.execute(update(jobs).where(jobs.c.batch_item <= 3).values(attempt=1))
        tx.execute(
            update(batch_rows).values(
                state=BatchState.FINISHED, finished_at=tx.now(-2000.0), open_until=None, changes_at=None
            )
        )
    keep = {"retention_seconds": 1000.0, "idempotency_seconds": 100.0}
    with database.write() as tx, _counted(database) as sent:
        assert sweep.prune(tx, **keep, limit=STEP) == STEP
    assert len(sent) <= OF_A_STEP
    with database.read() as tx:
        assert tx.execute(select(func.count()).select_from(jobs)).scalar_one() == 0
        assert tx.execute(select(func.count()).select_from(events)).scalar_one() == 0
        gone = [row.prefix for row in tx.execute(select(sweeps))]
        assert len([prefix for prefix in gone if prefix.startswith("jobs/")]) == 3, "what never ran has no files"
    assert batch.total == STEP


# --- Taken in ---------------------------------------------------------------------------------------------------------


def _manifest(count: int) -> io.BytesIO:
    """Every second title is there twice, so that results need telling apart; some lines are wrong, one is endless."""
    lines = [
        json.dumps({"input": f"https://media.example/{n}.mp3", "title": f"Episode {n - n % 2}"}) for n in range(count)
    ]
    lines[:: CHUNK // 5] = ['{"inptu": 1}'] * len(lines[:: CHUNK // 5])
    lines[1] = '{"title": "' + "x" * 200_000 + '"}'
    return io.BytesIO("\n".join(lines).encode())


def _peak(house: House, count: int) -> int:
    """The most memory that taking in so many items had at a time, bytes."""
    intake = Intake(house.settings, house.database, house.store)
    work = BatchWork.model_validate(
        {"engine": "fast", "params": {"prompts": ["speech"]}, "naming": "{title}.{stem}.{ext}"}
    )
    made, _ = intake.make(house.key.id, work, body=_manifest(count))
    tracemalloc.start()
    try:
        batch = intake.run(made.id)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch is not None
    assert (batch.state, batch.consumed) == (BatchState.ACTIVE, count)
    assert batch.total + batch.rejected == count
    return peak


def test_taking_in_many_items_takes_no_memory_for_each(sqlite_house: House) -> None:
    _peak(sqlite_house, CHUNK)  # what is compiled and cached once
    few, many = _peak(sqlite_house, 2 * CHUNK), _peak(sqlite_house, 6 * CHUNK)
    for_each = (many - few) / (4 * CHUNK)
    assert for_each < 250, f"{for_each:.0f} bytes for each item, of which the names may take some"


# --- Killed -----------------------------------------------------------------------------------------------------------


def _cancel_and_die(url: str, batch_id: str) -> None:
    database = Database(url)
    for _ in range(3):
        with database.write() as tx:
            steering.cancel_some(tx, batch_id, limit=50)
    with database.write() as tx:
        steering.cancel_some(tx, batch_id, limit=50)
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_cancelled_by_the_scheduler(house: House, scheduler: Scheduler) -> None:
    batch = _filled(house.database, house.key.id, 300, callback={"url": RECEIVER}, engine="fast")
    with house.database.write() as tx:
        steering.cancel(tx, batch.id)
    dying = multiprocessing.get_context("spawn").Process(
        target=_cancel_and_die, args=(house.database.url, batch.id)
    )  # fmt: skip
    dying.start()
    dying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    left = look(house.database, batch.id)
    assert (left.state, left.cancelled) == (BatchState.CANCELLING, 150), "all of a step, or nothing"
    # PostgreSQL may hold the dead one's locks for a moment.
    wait_for(lambda: scheduler.cancel() and look(house.database, batch.id).over)
    ended = look(house.database, batch.id)
    assert (ended.state, ended.cancelled) == (BatchState.CANCELLED, 300)
    assert _told(house.database, State.CANCELLED) == 300
    with house.database.read() as tx:
        assert tx.execute(select(func.count(callbacks.c.job_id))).scalar_one() == 300
