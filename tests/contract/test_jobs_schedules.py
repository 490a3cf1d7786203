"""Schedules on real databases: a batch for each tick, once, whoever asks and however often."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import update

from common.batches.clockwork import batch_of
from common.cron import Cron, Missed
from common.db.engine import Database, SimulatedClock
from common.db.tables import schedules as rows
from common.errors import NightshiftError
from common.jobs import batch_query, schedules
from common.jobs.batches import NewBatch
from common.jobs.schedules import Outcome, Schedule, Tick
from tests.jobs import new_key

# The day before the clocks of Madrid go forward: 20:00 there.
SATURDAY = datetime(2030, 3, 30, 19, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def clock(database: Database) -> SimulatedClock:
    database.clock = clock = SimulatedClock(SATURDAY)
    return clock


def build(schedule: Schedule, _tick: datetime) -> NewBatch:
    return NewBatch(schedule.name, {"of": schedule.id}, {}, schedule.id)


def nightly(database: Database, key_id: str, cron: str = "0 21 * * *", missed: Missed = Missed.ONCE) -> Schedule:
    with database.write() as tx:
        return schedules.create(tx, key_id, "nightly", Cron(cron, "Europe/Madrid"), missed, {})


def tick(database: Database, schedule: Schedule) -> Tick | None:
    with database.write() as tx:
        return schedules.tick(tx, schedule.id, build)


def made(database: Database, key_id: str) -> list[str]:
    with database.read() as tx:
        return [batch.id for batch in batch_query.page(tx, key_id, before=None, limit=100)]


def test_a_tick_makes_one_batch(database: Database, clock: SimulatedClock) -> None:
    key_id = new_key(database)
    schedule = nightly(database, key_id)
    assert schedule.next_at == SATURDAY + HOUR
    assert tick(database, schedule) is None
    clock.now += HOUR
    done = tick(database, schedule)
    assert done is not None
    assert (done.tick, done.outcome, done.missed) == (SATURDAY + HOUR, Outcome.MADE, 0)
    assert tick(database, schedule) is None
    assert made(database, key_id) == [done.batch_id]
    with database.read() as tx:
        after = schedules.get(tx, schedule.id)
        batch = batch_query.get(tx, done.batch_id or "")
        assert schedules.history(tx, schedule.id) == [done]
    assert after is not None
    assert after.next_at == SATURDAY + 24 * HOUR, "the night in between is an hour shorter"
    assert batch is not None
    assert (batch.schedule_id, batch.key_id, batch.state) == (schedule.id, key_id, "preparing")


def test_however_many_schedulers_run(database: Database) -> None:
    """On real clocks and threads: each tick, once a minute, is due at once."""
    key_id = new_key(database)
    found = [nightly(database, key_id, "* * * * *") for _ in range(5)]
    with database.write() as tx:
        tx.execute(update(rows).values(next_at=tx.now(-60.0), last_tick=tx.now(-120.0)))
    start = threading.Barrier(6)

    def schedule_all() -> None:
        start.wait()
        for schedule in found:
            tick(database, schedule)

    threads = [threading.Thread(target=schedule_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made(database, key_id)) == 5


@pytest.mark.parametrize(
    ("missed", "late", "outcome", "passed"),
    [
        (Missed.ONCE, timedelta(days=2, hours=20), Outcome.MADE, 2),
        (Missed.SKIP, timedelta(days=2, hours=20), Outcome.SKIPPED, 2),
        (Missed.SKIP, timedelta(minutes=1), Outcome.MADE, 0),
        # Of the third tick, across the hour that is left out: a minute late.
        (Missed.SKIP, timedelta(days=1, hours=23, minutes=1), Outcome.MADE, 2),
    ],
)
def test_missed_ticks(
    database: Database, clock: SimulatedClock, missed: Missed, late: timedelta, outcome: Outcome, passed: int
) -> None:
    key_id = new_key(database)
    schedule = nightly(database, key_id, missed=missed)
    clock.now = SATURDAY + HOUR
    clock.now += late
    done = tick(database, schedule)
    assert done is not None
    assert (done.outcome, done.missed) == (outcome, passed)
    assert len(made(database, key_id)) == (outcome is Outcome.MADE)
    assert tick(database, schedule) is None


def test_paused_it_misses_nothing(database: Database, clock: SimulatedClock) -> None:
    key_id = new_key(database)
    schedule = nightly(database, key_id)
    with database.write() as tx:
        schedules.pause(tx, schedule.id)
    clock.now += timedelta(days=5)
    with database.read() as tx:
        assert schedules.due(tx) == []
    assert tick(database, schedule) is None
    with database.write() as tx:
        resumed = schedules.resume(tx, schedule.id)
        assert schedules.resume(tx, schedule.id).next_at == resumed.next_at
    assert resumed.next_at > clock.now
    assert made(database, key_id) == []


def test_a_request_that_is_wrong_by_now_is_told_and_the_clock_goes_on(
    database: Database, clock: SimulatedClock
) -> None:  # fmt: skip
    schedule = nightly(database, new_key(database))
    clock.now += HOUR

    def refuse(_: Schedule, _tick: datetime) -> NewBatch:
        raise NightshiftError("unknown_preset", "There is no preset 'gone'.")

    with database.write() as tx:
        done = schedules.tick(tx, schedule.id, refuse)
    assert done is not None
    assert (done.outcome, (done.error or {})["code"], done.batch_id) == (Outcome.REFUSED, "unknown_preset", None)
    with database.read() as tx:
        assert schedules.due(tx) == []


def test_the_deadline_of_a_batch_is_reckoned_from_its_tick(database: Database, clock: SimulatedClock) -> None:
    """Also where the tick is acted on late, and over a change of the clocks."""
    body = {"rss": {"url": "https://media.example/feed.xml"}, "params": {"prompts": ["speech"]}}
    key_id = new_key(database)
    with database.write() as tx:
        schedule = schedules.create(
            tx, key_id, "nightly", Cron("0 21 * * *", "Europe/Madrid"), Missed.ONCE, body, 9 * 3600.0
        )
    clock.now += HOUR + timedelta(minutes=3)
    with database.write() as tx:
        done = schedules.tick(tx, schedule.id, partial(batch_of, tx))
        assert done is not None
        batch = batch_query.get(tx, done.batch_id or "")
    assert batch is not None
    assert (done.tick, batch.deadline) == (SATURDAY + HOUR, SATURDAY + 10 * HOUR)


def test_run_now_leaves_the_clock_alone(database: Database, clock: SimulatedClock) -> None:
    key_id = new_key(database)
    schedule = nightly(database, key_id)
    with database.write() as tx:
        schedules.pause(tx, schedule.id)
        done = schedules.run_now(tx, schedule.id, build)
        after = schedules.get(tx, schedule.id)
    assert done.outcome is Outcome.BY_HAND
    assert after is not None
    assert (after.next_at, after.last_tick) == (schedule.next_at, schedule.last_tick)
    assert made(database, key_id) == [done.batch_id]


def test_deleted_its_batches_stay(database: Database, clock: SimulatedClock) -> None:
    key_id = new_key(database)
    schedule = nightly(database, key_id)
    clock.now += HOUR
    tick(database, schedule)
    with database.write() as tx:
        schedules.remove(tx, schedule.id)
        assert schedules.get(tx, schedule.id) is None
        assert schedules.history(tx, schedule.id) == []
    assert len(made(database, key_id)) == 1
