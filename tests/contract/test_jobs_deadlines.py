"""Deadlines that are warned of, once, on real databases."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from common.db import processes
from common.db.engine import Database, SimulatedClock
from common.db.tables import callbacks
from common.forecast import Risk
from common.jobs import batch_query, batches, deadlines, events, finish, steering, submit
from common.jobs.batch import Batch
from common.jobs.batches import Entry
from common.jobs.deadlines import CALM_SECONDS, Finding
from common.jobs.job import Job
from tests.batches import created, look
from tests.jobs import ERROR, LEASE, QUOTA, RECEIVER, claimed, new_key, request, result, submitted
from tests.jobs import look as look_at

NOON = datetime(2030, 5, 6, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def clock(database: Database) -> SimulatedClock:
    database.clock = clock = SimulatedClock(NOON)
    return clock


@pytest.fixture
def key_id(database: Database, clock: SimulatedClock) -> str:
    """Of a house with one card, on which an hour of audio takes six minutes."""
    key_id = new_key(database)
    _card(database)
    for _ in range(12):
        job = claimed(database, submitted(database, key_id).id)
        with database.write() as tx:
            finish.succeed(tx, job.lease, result(metrics={"audio_seconds": 3600.0, "seconds": 360.0}))
    return key_id


def _card(database: Database) -> None:
    with database.write() as tx:
        processes.register(tx, "card", "worker", lanes=["cpu"])


def _batch(database: Database, key_id: str, episodes: int, deadline: datetime | None, **members: Any) -> Batch:
    """An active batch of episodes of an hour each."""
    members = {"callback": {"url": RECEIVER}, "deadline": deadline, **members}
    batch = created(database, key_id, **members)
    asked = request(priority="batch", callback=None)
    found = [Entry(n, asked, seconds=3600.0) for n in range(1, episodes + 1)]
    with database.write() as tx:
        batch = batches.take_in(tx, batch, found, default_quota=QUOTA, lease_seconds=LEASE)
        return batches.activate(tx, batch)


def _found(database: Database) -> list[Finding]:
    _card(database)  # which is still alive
    with database.read() as tx:
        return deadlines.look(tx, LEASE)


def _warn(database: Database) -> list[bool]:
    """What the scheduler does."""
    told = []
    for one in _found(database):
        with database.write() as tx:
            told.append(deadlines.tell(tx, one))
    return told


def _sent(database: Database) -> list[dict[str, Any]]:
    with database.read() as tx:
        rows = tx.execute(select(callbacks.c.body).where(callbacks.c.event.like("%deadline%")).order_by(callbacks.c.id))
        return [json.loads(row.body) for row in rows]


def _logged(database: Database, job: Job) -> list[tuple[str, str]]:
    with database.read() as tx:
        found = [event.data for event in events.after(tx, job.id) if event.type == "log"]
    return [(data["level"], data["code"]) for data in found]


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_will_be_late_is_told_once(database: Database, key_id: str) -> None:
    batch = _batch(database, key_id, 20, NOON + HOUR)
    _batch(database, key_id, 1, None)
    seen = _found(database), _found(database)
    told = []
    for several in seen:
        for one in several:
            with database.write() as tx:
                told.append(deadlines.tell(tx, one))
    assert told == [True, False], "two schedulers found the same"
    assert _warn(database) == []
    after = look(database, batch.id)
    assert (after.risk, after.risk_at) == (Risk.LATE, NOON)
    (message,) = _sent(database)
    assert message["type"] == "batch.deadline_at_risk"
    data = message["data"]
    assert (data["id"], data["risk"], data["deadline"]) == (batch.id, "late", "2030-05-06T13:00:00Z")
    likely = datetime.fromisoformat(data["forecast"]["likely"])
    assert NOON + 2 * HOUR <= likely <= NOON + 2.2 * HOUR


def test_all_is_well_is_written_down_and_not_sent(database: Database, key_id: str) -> None:
    batch = _batch(database, key_id, 20, NOON + 10 * HOUR)
    assert _warn(database) == [True]
    assert look(database, batch.id).risk is Risk.ON_TIME
    assert _warn(database) == [] and _sent(database) == []


def test_what_gets_better_is_told_after_a_while_and_what_gets_worse_at_once(
    database: Database, key_id: str, clock: SimulatedClock
) -> None:
    """A second batch comes and goes, and with it half of the card."""
    batch = _batch(database, key_id, 20, NOON + 3 * HOUR)
    assert _warn(database) == [True]

    def risks() -> list[tuple[str, str]]:
        return [(message["type"].partition("_")[2], message["data"]["risk"]) for message in _sent(database)]

    other = _batch(database, key_id, 20, None)
    assert _warn(database) == [True]
    assert risks() == [("at_risk", "late")]
    with database.write() as tx:
        steering.pause(tx, other.id)
    clock.now += timedelta(minutes=5)
    assert _warn(database) == [] and look(database, batch.id).risk is Risk.LATE, "it may be a flicker"
    clock.now = NOON + timedelta(seconds=CALM_SECONDS - 1)
    for job in _jobs(database, batch)[:10]:
        _done(database, job)
    assert _warn(database) == []
    clock.now += timedelta(seconds=1)
    assert _warn(database) == [True]
    assert risks() == [("at_risk", "late"), ("on_time", "on_time")]
    assert look(database, batch.id).risk is Risk.ON_TIME
    with database.write() as tx:
        steering.resume(tx, other.id)
    clock.now = NOON + 3 * HOUR - timedelta(minutes=10)
    assert _warn(database) == [True], "worse, and within the hour"
    assert risks()[-1] == ("at_risk", "late")


def test_a_scheduler_that_slept_does_not_tell_of_better_days(
    database: Database, key_id: str, clock: SimulatedClock
) -> None:
    batch = _batch(database, key_id, 20, NOON + HOUR)
    assert _warn(database) == [True]
    clock.now += 2 * timedelta(seconds=CALM_SECONDS)
    slept = Finding(look(database, batch.id), Risk.ON_TIME, None)
    for risk in (Risk.ON_TIME, Risk.LATE):
        with database.write() as tx:
            assert deadlines.tell(tx, Finding(look(database, batch.id), risk, None))
    with database.write() as tx:
        assert not deadlines.tell(tx, slept)
    assert look(database, batch.id).risk is Risk.LATE


def test_past_its_deadline_is_late_whatever_is_known(database: Database, clock: SimulatedClock) -> None:
    key_id = new_key(database)
    batch = _batch(database, key_id, 1, NOON + HOUR)
    assert _warn(database) == [], "nothing was measured: nobody can tell"
    clock.now += 1.1 * HOUR
    assert _warn(database) == [True]
    assert look(database, batch.id).risk is Risk.LATE
    (message,) = _sent(database)
    assert message["data"]["forecast"] == {"earliest": None, "likely": None, "latest": None}


def test_what_is_over_or_being_cancelled_is_not_warned_of(database: Database, key_id: str) -> None:
    batch = _batch(database, key_id, 20, NOON + HOUR)
    found = _found(database)
    with database.write() as tx:
        steering.cancel(tx, batch.id)
    assert _found(database) == []
    with database.write() as tx:
        steering.cancel_some(tx, batch.id)
    assert look(database, batch.id).over
    with database.write() as tx:
        assert not deadlines.tell(tx, found[0])
    assert _sent(database) == []


def test_the_audio_of_what_succeeded_is_added_up(database: Database, key_id: str) -> None:
    batch = _batch(database, key_id, 3, None)
    first, second, _ = _jobs(database, batch)
    _done(database, first, 3000.0)
    job = claimed(database, second.id)
    with database.write() as tx:
        finish.fail(tx, job.lease, ERROR)
        submit.resubmit(tx, second.id, default_quota=QUOTA)
    after = look(database, batch.id)
    assert (after.audio_done, after.length, after.lengths) == (3000.0, 7200.0, 2)
    _done(database, second, 3500.0)
    assert look(database, batch.id).audio_done == 6500.0


def _jobs(database: Database, batch: Batch) -> list[Job]:
    with database.read() as tx:
        return batch_query.items(tx, batch.id, after=0, limit=100)


def _done(database: Database, job: Job, audio: float = 3600.0) -> None:
    held = claimed(database, job.id)
    with database.write() as tx:
        finish.succeed(tx, held.lease, result(metrics={"audio_seconds": audio, "seconds": audio / 10}))


# --- Jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_behind_others_is_warned_of_before_it_expires(database: Database, key_id: str) -> None:
    for _ in range(20):
        submitted(database, key_id)
    near = submitted(database, key_id, deadline=(NOON + HOUR).isoformat())
    far = submitted(database, key_id, deadline=(NOON + 10 * HOUR).isoformat())
    assert _warn(database) == [True, True]
    assert (look_at(database, near.id).risk, look_at(database, far.id).risk) == (Risk.LATE, Risk.ON_TIME)
    assert (_logged(database, near), _logged(database, far)) == ([("warning", "deadline_at_risk")], [])
    (message,) = _sent(database)
    assert (message["type"], message["data"]["id"]) == ("job.deadline_at_risk", near.id)
    likely = datetime.fromisoformat(message["data"]["forecast"]["likely"])
    assert abs(likely - (NOON + 2 * HOUR)) < timedelta(minutes=10), "twenty jobs of six minutes are before it"
    assert _warn(database) == []


def test_a_job_that_has_started_is_in_time(database: Database, key_id: str) -> None:
    for _ in range(20):
        submitted(database, key_id)
    job = submitted(database, key_id, deadline=(NOON + HOUR).isoformat())
    (found,) = _found(database)
    claimed(database, job.id, worker="card")
    assert _found(database) == []
    with database.write() as tx:
        assert not deadlines.tell(tx, found)
    assert look_at(database, job.id).risk is None


def test_a_job_on_a_free_card_starts_now(database: Database, key_id: str) -> None:
    job = submitted(database, key_id, deadline=(NOON + timedelta(minutes=1)).isoformat())
    (found,) = _found(database)
    assert found.risk is Risk.ON_TIME and found.forecast is not None and found.forecast.latest == NOON
    claimed(database, submitted(database, new_key(database)).id, worker="card")
    (found,) = _found(database)
    assert found.risk is Risk.LATE, "somebody else's job has the card for six minutes"
    with database.write() as tx:
        deadlines.tell(tx, found)
        finish.cancel(tx, job.id)
    with database.write() as tx:
        again = submit.resubmit(tx, job.id, default_quota=QUOTA)
    assert (again.risk, again.risk_at, again.deadline) == (None, None, None)


def test_of_jobs_that_wait_for_others_or_belong_to_a_batch_nothing_is_said(database: Database, key_id: str) -> None:
    first = submitted(database, key_id)
    reads = {"input": {"job": first.id, "output": "speech"}}
    submitted(database, key_id, **reads, deadline=(NOON + timedelta(minutes=1)).isoformat())
    batch = created(database, key_id)
    asked = request(priority="batch", deadline=(NOON + timedelta(minutes=1)).isoformat())
    with database.write() as tx:
        batches.take_in(tx, batch, [Entry(1, asked)], default_quota=QUOTA, lease_seconds=LEASE)
    assert _found(database) == []
