"""The life of a batch, on real databases: taken in, gated, counted, steered, ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from common.db import processes
from common.db.engine import Database, SimulatedClock
from common.db.tables import batches as batch_rows
from common.db.tables import callbacks, taken_items
from common.db.tables import jobs as job_rows
from common.errors import NightshiftError
from common.forecast import Risk
from common.jobs import batch_query, batches, claiming, events, finish, queueing, running, steering, submit
from common.jobs.batch import Batch, BatchReason, BatchState, OnError
from common.jobs.batches import Entry, IntakeLost
from common.quotas import Quotas
from common.states import Reason, State
from tests.batches import ALWAYS, NIGHTLY, created, entries, items, look, made, start
from tests.jobs import ERROR, LEASE, QUOTA, RECEIVER, brought, new_key, queue_up, request, result, submitted

EVENING = datetime(2030, 5, 6, 19, 0, tzinfo=UTC)  # 21:00 in Madrid


def _take(database: Database, batch: Batch, found: list[Entry], quota: Quotas = QUOTA) -> Batch:
    with database.write() as tx:
        return batches.take_in(tx, batch, found, default_quota=quota, lease_seconds=LEASE)


def _told(database: Database) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as tx:
        rows = tx.execute(select(callbacks.c.event, callbacks.c.body).order_by(callbacks.c.created_at, callbacks.c.id))
        return [(row.event, json.loads(row.body)["data"]) for row in rows]


def _states(database: Database, batch_id: str) -> list[State]:
    return [job.state for job in items(database, batch_id)]


# --- Taken in ---------------------------------------------------------------------------------------------------------


def test_items_become_jobs_in_their_order(database: Database) -> None:
    batch = created(database, new_key(database))
    batch = _take(database, batch, entries(3))
    batch = _take(database, batch, [*entries(2, 4), Entry(6, error=ERROR, source="line 6")])
    assert (batch.total, batch.rejected, batch.consumed, batch.state) == (5, 1, 6, BatchState.PREPARING)
    found = items(database, batch.id)
    assert [job.batch_item for job in found] == [1, 2, 3, 4, 5]
    assert {(job.batch, job.batch_id, job.state, job.reason) for job in found} == {
        ("nightly", batch.id, State.WAITING, Reason.SUBMITTED)
    }
    assert found[0].item == {"title": "Episode 1"}
    with database.read() as tx:
        (reject,) = batch_query.rejects(tx, batch.id, after=0, limit=9)
        assert (reject.item, reject.source, reject.error) == (6, "line 6", ERROR)
        assert [event.data["state"] for event in events.after(tx, found[0].id)] == ["waiting"]


def test_nothing_runs_before_all_is_taken_in(database: Database) -> None:
    batch = _take(database, created(database, new_key(database)), entries(2))
    assert start(database) is None
    with database.write() as tx:
        assert batches.activate(tx, batch).state is BatchState.ACTIVE
    assert start(database) is not None


def test_two_that_take_in_the_same_items_make_each_once(database: Database) -> None:
    batch = created(database, new_key(database))
    _take(database, batch, entries(2))
    with pytest.raises(IntakeLost):
        _take(database, batch, entries(2))
    assert look(database, batch.id).total == 2


def test_who_dies_half_way_leaves_the_rest_to_another(database: Database) -> None:
    clock = SimulatedClock(EVENING)
    database.clock = clock
    batch = created(database, new_key(database))
    with database.write() as tx:
        assert batches.to_prepare(tx) == [batch.id]
        mine = batches.prepare(tx, batch.id, 30.0)
        assert mine is not None
        assert batches.prepare(tx, batch.id, 30.0) is None
    _take(database, mine, entries(2))
    clock.now += timedelta(seconds=31)
    with database.write() as tx:
        assert batches.to_prepare(tx) == [batch.id]
        other = batches.prepare(tx, batch.id, 30.0)
    assert other is not None
    assert other.consumed == 2


def test_what_was_taken_before_is_not_taken_again(database: Database) -> None:
    key_id, stranger = new_key(database), new_key(database)
    asked = request(priority="batch")

    def marked(*marks: str) -> list[Entry]:
        return [Entry(n, asked, mark=mark) for n, mark in enumerate(marks, 1)]

    first = _take(database, created(database, key_id), marked("a", "b", "b"))
    again = _take(database, created(database, key_id), marked("a", "b", "c"))
    others = _take(database, created(database, stranger), marked("a"))
    assert [(batch.total, batch.skipped) for batch in (first, again, others)] == [(2, 1), (1, 2), (1, 0)]
    with database.read() as tx:
        assert len(tx.execute(select(taken_items)).all()) == 4


def test_over_the_quota_nothing_is_taken_in(database: Database) -> None:
    batch = _take(database, created(database, new_key(database)), entries(3), quota=Quotas(4))
    with pytest.raises(NightshiftError, match="quota_exceeded"):
        _take(database, batch, entries(2, 4), quota=Quotas(4))
    with database.write() as tx:
        assert batches.refuse(tx, batch, ERROR).state is BatchState.CANCELLING
        steering.cancel_some(tx, batch.id)
    ended = look(database, batch.id)
    assert (ended.state, ended.reason, ended.cancelled) == (BatchState.FAILED, BatchReason.NOT_PREPARED, 3)
    assert ended.error == ERROR


def test_a_source_that_cannot_be_read_is_given_up_at_last(database: Database) -> None:
    batch = created(database, new_key(database))
    with database.write() as tx:
        for _ in range(batches.MAX_INTAKE_FAILURES - 1):
            assert batches.stumbled(tx, batch, ERROR, 5.0).state is BatchState.PREPARING
        assert batches.stumbled(tx, batch, ERROR, 5.0).state is BatchState.FAILED


def test_an_item_may_wait_for_a_job(database: Database) -> None:
    key_id = new_key(database)
    upstream = submitted(database, key_id)
    linked = request(input={"job": upstream.id, "output": "speech"}, priority="batch")
    nowhere = request(input={"job": "job_none", "output": "speech"}, priority="batch")
    batch = _take(database, created(database, key_id), [Entry(1, linked), Entry(2, nowhere, source="two")])
    assert (batch.total, batch.rejected) == (1, 1)
    assert items(database, batch.id)[0].upstream == upstream.id


def test_the_same_idempotency_key_makes_one_batch(database: Database) -> None:
    key_id = new_key(database)
    with database.write() as tx:
        new = batches.NewBatch("nightly", {}, {}, "digest")
        first, made_it = batches.create(tx, key_id, new, idempotency_key="one")
        second, made_again = batches.create(tx, key_id, new, idempotency_key="one")
        assert (first.id, made_it, made_again) == (second.id, True, False)
        with pytest.raises(NightshiftError, match="idempotency_mismatch"):
            batches.create(tx, key_id, batches.NewBatch("other", {}, {}, "other"), idempotency_key="one")


# --- Windows ----------------------------------------------------------------------------------------------------------


def test_nothing_starts_outside_the_window(database: Database) -> None:
    clock = SimulatedClock(EVENING)
    database.clock = clock
    batch = made(database, new_key(database), 2, window=NIGHTLY)
    assert (batch.state, batch.open_until, batch.changes_at) == (BatchState.ACTIVE, None, EVENING + timedelta(hours=1))
    assert start(database) is None
    clock.now += timedelta(hours=1)
    assert start(database) is None, "a window is opened by the scheduler"
    with database.write() as tx:
        (opened,) = steering.turn_windows(tx)
    assert opened.open_until == EVENING + timedelta(hours=9)
    job = start(database)
    assert job is not None
    assert job.batch_id == batch.id


def test_a_window_closes_on_time_although_no_scheduler_runs(database: Database) -> None:
    clock = SimulatedClock(EVENING + timedelta(hours=2))
    database.clock = clock
    batch = made(database, new_key(database), 3, window=NIGHTLY)
    with database.write() as tx:
        processes.register(tx, "w1", "worker", lanes=["cpu"])
        queueing.fill(tx, "cpu", 2, 1e9)
        job = claiming.claim(tx, "w1", ["cpu"], 1e9)
        assert job is not None
        assert running.orders(tx, job.lease, "w1", ["cpu"], 1e9).yield_for is None
    clock.now = EVENING + timedelta(hours=9)
    with database.write() as tx:
        assert claiming.claim(tx, "w2", ["cpu"], LEASE) is None, "queued, but closed"
        assert queueing.fill(tx, "cpu", 5, 1e9) == []
        assert running.orders(tx, job.lease, "w1", ["cpu"], 1e9).yield_for is Reason.WINDOW_CLOSED
        given = running.give_back(tx, job.lease, Reason.WINDOW_CLOSED)
        assert given.run_at == job.run_at
        assert [(one.state, one.reason) for one in queueing.recall(tx)] == [(State.WAITING, Reason.WINDOW_CLOSED)]
    assert set(_states(database, batch.id)) == {State.WAITING}
    with database.write() as tx:
        assert [turned.open_until for turned in steering.turn_windows(tx)] == [None]
    clock.now = EVENING + timedelta(hours=25)
    with database.write() as tx:
        steering.turn_windows(tx)
    again = start(database, "w7")
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 2), "the next night, on another card, first in line"


def test_a_closed_batch_holds_no_place_in_the_queue(database: Database) -> None:
    key_id = new_key(database)
    batch = made(database, key_id, 5)
    with database.write() as tx:
        assert len(queueing.fill(tx, "cpu", 2, LEASE)) == 2
        steering.pause(tx, batch.id)
    other = submitted(database, key_id, priority="batch")
    with database.write() as tx:
        assert [bell.job_id for bell in queueing.fill(tx, "cpu", 2, LEASE)] == [other.id]


def test_a_window_without_end_is_never_turned(database: Database) -> None:
    batch = made(database, new_key(database), 1, window=ALWAYS)
    assert batch.changes_at is None
    assert start(database) is not None


# --- Steered ----------------------------------------------------------------------------------------------------------


def test_paused_and_resumed(database: Database) -> None:
    batch = made(database, new_key(database), 3)
    job = start(database)
    assert job is not None
    with database.write() as tx:
        queueing.fill(tx, "cpu", 2, LEASE)
        paused = steering.pause(tx, batch.id)
        assert (paused.state, paused.reason) == (BatchState.PAUSED, BatchReason.BY_CALLER)
        assert steering.pause(tx, batch.id).updated_at == paused.updated_at
        assert running.orders(tx, job.lease, "w1", ["cpu"], LEASE).yield_for is Reason.PAUSED
        running.give_back(tx, job.lease, Reason.PAUSED)
    assert _states(database, batch.id) == [State.WAITING] * 3
    assert start(database) is None
    with database.write() as tx:
        assert steering.resume(tx, batch.id).state is BatchState.ACTIVE
    assert start(database) is not None


def test_resumed_outside_its_window_it_still_waits_for_it(database: Database) -> None:
    database.clock = SimulatedClock(EVENING)
    batch = made(database, new_key(database), 1, window=NIGHTLY)
    with database.write() as tx:
        steering.pause(tx, batch.id)
        resumed = steering.resume(tx, batch.id)
    assert (resumed.open_until, resumed.changes_at) == (None, EVENING + timedelta(hours=1))


def test_another_window_counts_at_once(database: Database) -> None:
    database.clock = SimulatedClock(EVENING + timedelta(hours=2))
    batch = made(database, new_key(database), 2, window=NIGHTLY)
    job = start(database)
    assert job is not None
    with database.write() as tx:
        queueing.fill(tx, "cpu", 2, LEASE)
        closed = steering.change(tx, batch.id, {"window": "12:00-13:00 UTC"})
        assert (closed.window, closed.open_until) == ("12:00-13:00 UTC", None)
        assert closed.changes_at is not None
        assert running.orders(tx, job.lease, "w1", ["cpu"], LEASE).yield_for is Reason.WINDOW_CLOSED
        running.give_back(tx, job.lease, Reason.WINDOW_CLOSED)
    assert _states(database, batch.id) == [State.WAITING] * 2
    assert start(database) is None
    with database.write() as tx:
        opened = steering.change(tx, batch.id, {"window": None, "weight": 3.0})
    assert (opened.window, opened.changes_at, opened.weight) == (None, None, 3.0)
    assert start(database) is not None


def test_a_paused_batch_finds_its_new_window_when_it_is_resumed(database: Database) -> None:
    database.clock = SimulatedClock(EVENING)
    batch = made(database, new_key(database), 1)
    with database.write() as tx:
        steering.pause(tx, batch.id)
        changed = steering.change(tx, batch.id, {"window": NIGHTLY})
        assert (changed.state, changed.open_until, changed.changes_at) == (BatchState.PAUSED, None, None)
        resumed = steering.resume(tx, batch.id)
    assert (resumed.open_until, resumed.changes_at) == (None, EVENING + timedelta(hours=1))


def test_what_was_told_of_a_deadline_goes_with_it(database: Database) -> None:
    batch = made(database, new_key(database), 1)
    with database.write() as tx:
        tx.execute(update(batch_rows).where(batch_rows.c.id == batch.id).values(risk=Risk.LATE, risk_at=tx.now()))
        assert steering.change(tx, batch.id, {"weight": 2.0}).risk is Risk.LATE
        changed = steering.change(tx, batch.id, {"deadline": EVENING})
    assert (changed.deadline, changed.risk, changed.risk_at) == (EVENING, None, None)


def test_cancelled_at_once_and_by_its_workers(database: Database) -> None:
    batch = made(database, new_key(database), 5, callback={"url": RECEIVER})
    job = start(database)
    assert job is not None
    with database.write() as tx:
        assert steering.cancel(tx, batch.id).state is BatchState.CANCELLING
        assert steering.to_cancel(tx) == [batch.id]
    assert start(database, "w2") is None
    with database.write() as tx:
        assert [steering.cancel_some(tx, batch.id, limit=3).done for _ in range(3)] == [3, 1, 0]
        assert running.orders(tx, job.lease, "w1", ["cpu"], LEASE).cancel
    assert look(database, batch.id).state is BatchState.CANCELLING
    with database.write() as tx:
        finish.cancelled(tx, job.lease)
        assert steering.to_cancel(tx) == []
    ended = look(database, batch.id)
    assert (ended.state, ended.cancelled, ended.finished_at is not None) == (BatchState.CANCELLED, 5, True)
    assert [event for event, _ in _told(database)] == ["batch.cancelled"]
    with database.read() as tx:
        for one in items(database, batch.id):
            assert [event.data["state"] for event in events.after(tx, one.id)][-1] == "cancelled"


def test_what_waits_for_a_cancelled_item_fails_with_it(database: Database) -> None:
    key_id = new_key(database)
    batch = made(database, key_id, 3, job={"callback": {"url": RECEIVER}})
    waits = submitted(database, key_id, input={"job": items(database, batch.id)[1].id, "output": "speech"})
    with database.write() as tx:
        steering.cancel(tx, batch.id)
        steering.cancel_some(tx, batch.id)
    assert brought(database, key_id, State.WAITING).state is State.WAITING
    with database.read() as tx:
        states = {row.id: row.state for row in tx.execute(select(job_rows.c.id, job_rows.c.state))}
    assert states[waits.id] == State.FAILED
    assert sorted(event for event, _ in _told(database)) == ["job.cancelled"] * 3 + ["job.failed"]


def _end_all(database: Database, batch: Batch, *, fail: int = 0) -> None:
    for number, job in enumerate(items(database, batch.id)):
        queue_up(database, job.id)
        with database.write() as tx:
            mine = claiming.claim(tx, "w1", ["cpu"], LEASE, job_id=job.id)
            assert mine is not None
            if number < fail:
                finish.fail(tx, mine.lease, ERROR)
            else:
                finish.succeed(tx, mine.lease, result())


def test_finished_with_its_last_job(database: Database) -> None:
    batch = made(database, new_key(database), 3, callback={"url": RECEIVER})
    _end_all(database, batch)
    ended = look(database, batch.id)
    assert (ended.state, ended.reason, ended.succeeded) == (BatchState.FINISHED, BatchReason.DONE, 3)
    ((event, data),) = _told(database)
    assert event == "batch.finished"
    assert (data["id"], data["counts"]["succeeded"], data["percent"]) == (batch.id, 3, 100.0)


def test_an_empty_batch_is_finished_at_once(database: Database) -> None:
    assert made(database, new_key(database), 0).state is BatchState.FINISHED


def test_progress_is_told_in_steps(database: Database) -> None:
    batch = made(database, new_key(database), 10, callback={"url": RECEIVER, "every_percent": 25})
    _end_all(database, batch, fail=1)
    assert [(event, data["percent"]) for event, data in _told(database)] == [
        ("batch.progress", 30.0),
        ("batch.progress", 50.0),
        ("batch.progress", 80.0),
        ("batch.finished_with_errors", 100.0),
    ]


def test_failures_are_retried_and_the_batch_goes_on(database: Database) -> None:
    key_id = new_key(database)
    batch = made(database, key_id, 5)
    _end_all(database, batch, fail=3)
    with database.write() as tx:
        first = steering.retry_some(tx, batch.id, default_quota=QUOTA, limit=2)
        assert (first.again, first.refused, first.last) == (2, 0, 2)
        rest = steering.retry_some(tx, batch.id, default_quota=QUOTA, after=2, limit=2)
        assert (rest.again, rest.last) == (1, None)
    again = look(database, batch.id)
    assert (again.state, again.reason, again.failed, again.succeeded) == (
        BatchState.ACTIVE, BatchReason.RETRIED, 0, 2,
    )  # fmt: skip
    assert again.finished_at is None
    _end_all_waiting(database)
    assert (look(database, batch.id).state, look(database, batch.id).succeeded) == (BatchState.FINISHED, 5)


def _end_all_waiting(database: Database) -> None:
    while (job := start(database)) is not None:
        with database.write() as tx:
            finish.succeed(tx, job.lease, result())


def test_one_item_retried_by_itself_counts_too(database: Database) -> None:
    batch = made(database, new_key(database), 1)
    _end_all(database, batch, fail=1)
    with database.write() as tx:
        submit.resubmit(tx, items(database, batch.id)[0].id, default_quota=QUOTA)
    assert (look(database, batch.id).state, look(database, batch.id).failed) == (BatchState.ACTIVE, 0)


def test_the_first_failure_stops_a_batch_that_asked_for_it(database: Database) -> None:
    batch = made(database, new_key(database), 3, on_error=OnError.STOP, callback={"url": RECEIVER})
    job = start(database)
    assert job is not None
    with database.write() as tx:
        finish.fail(tx, job.lease, ERROR)
    stopped = look(database, batch.id)
    assert (stopped.state, stopped.reason) == (BatchState.PAUSED, BatchReason.ITEM_FAILED)
    assert start(database) is None
    assert [event for event, _ in _told(database)] == ["batch.stopped"]
    with database.write() as tx:
        steering.resume(tx, batch.id)
    assert start(database) is not None


@pytest.mark.parametrize(
    "verb", [steering.pause, steering.resume, lambda tx, batch_id: steering.change(tx, batch_id, {"weight": 2.0})]
)
def test_steering_what_is_over_is_refused(database: Database, verb: Any) -> None:
    batch = made(database, new_key(database), 0)
    with pytest.raises(NightshiftError, match="state_conflict"), database.write() as tx:
        verb(tx, batch.id)
    with pytest.raises(NightshiftError, match="not_found"), database.write() as tx:
        verb(tx, "bat_none")


# --- Turns ------------------------------------------------------------------------------------------------------------


def test_batches_of_one_key_share_by_their_weights(database: Database) -> None:
    key_id, other = new_key(database), new_key(database)
    light, heavy = made(database, key_id, 60), made(database, key_id, 60, weight=3.0)
    alone = made(database, other, 60)
    counted: dict[str | None, int] = {}
    for _ in range(80):
        job = start(database)
        assert job is not None
        counted[job.batch_id] = counted.get(job.batch_id, 0) + 1
        with database.write() as tx:
            finish.succeed(tx, job.lease, result())
    assert counted == {light.id: 10, heavy.id: 30, alone.id: 40}


def test_behind_a_closed_batch_nothing_is_looked_through(database: Database) -> None:
    key_id = new_key(database)
    batch = made(database, key_id, 50)
    with database.write() as tx:
        steering.pause(tx, batch.id)
        tx.execute(update(job_rows).values(run_at=tx.now(-3600.0)))
    job = submitted(database, key_id, priority="batch")
    found = start(database)
    assert found is not None
    assert found.id == job.id


# --- Looked at --------------------------------------------------------------------------------------------------------


def test_pages_of_items(database: Database) -> None:
    key_id = new_key(database)
    batch = made(database, key_id, 7)
    job = start(database)
    assert job is not None
    with database.read() as tx:
        first = batch_query.items(tx, batch.id, after=0, limit=3)
        second = batch_query.items(tx, batch.id, after=3, limit=3)
        assert [one.batch_item for one in (*first, *second)] == [1, 2, 3, 4, 5, 6]
        assert [one.id for one in batch_query.items(tx, batch.id, after=0, limit=9, states=[State.RUNNING])] == [job.id]
        assert batch_query.under_way(tx, batch.id) == {State.QUEUED: 0, State.RUNNING: 1}
        two = batch_query.items(tx, batch.id, after=0, limit=9, states=[State.RUNNING, State.WAITING])
        assert [one.batch_item for one in two] == [1, 2, 3, 4, 5, 6, 7]


def test_pages_of_batches(database: Database) -> None:
    key_id, other = new_key(database), new_key(database)
    mine = [made(database, key_id, 1, name=f"n{n}") for n in range(3)]
    made(database, other, 1)
    with database.read() as tx:
        assert [batch.id for batch in batch_query.page(tx, key_id, before=None, limit=2)] == [mine[2].id, mine[1].id]
        assert [batch.id for batch in batch_query.page(tx, key_id, before=mine[1].id, limit=2)] == [mine[0].id]
        assert batch_query.page(tx, key_id, before=None, limit=5, states=[BatchState.PAUSED]) == []
        assert batch_query.get(tx, mine[0].id, other) is None
