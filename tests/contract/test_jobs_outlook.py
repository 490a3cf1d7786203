"""Measured speeds and the forecast of a batch, on real databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from common.db import processes
from common.db.engine import Database, SimulatedClock
from common.db.tables import jobs
from common.forecast import Risk, Why
from common.jobs import batches, finish, outlook, running, speeds, steering, submit
from common.jobs.batch import Batch
from common.jobs.batches import Entry
from common.jobs.job import Job
from common.jobs.outlook import Outlook, Standing
from common.states import Reason, State
from tests.batches import NIGHTLY, created, items, look, start
from tests.jobs import ERROR, LEASE, QUOTA, claimed, new_key, request, result, submitted

NOON = datetime(2030, 5, 6, 10, 0, tzinfo=UTC)
CPU = ("rnnoise", "cpu")


def _batch(database: Database, key_id: str, *seconds: float | None, **members: Any) -> Batch:
    """An active batch of jobs whose length its source tells, or (None) does not."""
    batch = created(database, key_id, **members)
    asked = request(priority="batch", callback=None)
    found = [Entry(n, asked, seconds=length) for n, length in enumerate(seconds, 1)]
    with database.write() as tx:
        batch = batches.take_in(tx, batch, found, default_quota=QUOTA, lease_seconds=LEASE)
        return batches.activate(tx, batch)


def _done(database: Database, job: Job, audio: float, seconds: float, **more: Any) -> None:
    with database.write() as tx:
        finish.succeed(tx, job.lease, result(metrics={"audio_seconds": audio, "seconds": seconds, **more}))


def _finished(database: Database, key_id: str, audio: float, seconds: float, **more: Any) -> Job:
    job = claimed(database, submitted(database, key_id).id)
    _done(database, job, audio, seconds, **more)
    return job


def _cards(database: Database, count: int) -> None:
    with database.write() as tx:
        for n in range(count):
            processes.register(tx, f"w{n}", "worker", lanes=["cpu"])


def _standing(database: Database, batch_id: str | None = None) -> Standing:
    with database.read() as tx:
        return outlook.read(tx, LEASE, [batch_id] if batch_id else ())


def _outlook(database: Database, batch: Batch) -> Outlook:
    found = outlook.of_batch(_standing(database, batch.id), batch.id)
    assert found is not None
    return found


# --- Speeds -----------------------------------------------------------------------------------------------------------


def test_speed_is_measured_on_finished_jobs(database: Database) -> None:
    key_id = new_key(database)
    for audio, seconds in ((100.0, 10.0), (300.0, 30.0), (200.0, 26.0)):
        _finished(database, key_id, audio, seconds)
    with database.read() as tx:
        found = speeds.speeds(tx, [CPU, ("rnnoise", "gpu"), ("other", "cpu")])
    assert list(found) == [CPU]
    speed = found[CPU]
    assert (speed.jobs, speed.mean, speed.ratio) == (3, 200.0, pytest.approx(0.11))
    # The residuals are -1, -3 and 4 seconds.
    assert speed.deviation == pytest.approx(13**0.5)


def test_an_attempt_that_went_on_after_blocks_counts_for_its_share(database: Database) -> None:
    key_id = new_key(database)
    _finished(database, key_id, 600.0, 30.0, blocks=4, blocks_resumed=1)
    _finished(database, key_id, 600.0, 1.0, blocks=4, blocks_resumed=3)
    with database.read() as tx:
        (speed,) = speeds.speeds(tx, [CPU]).values()
        rows = [(row.length, row.work_seconds) for row in tx.execute(jobs.select().order_by(jobs.c.id))]
    assert rows == [(600.0, 40.0), (600.0, None)], "a quarter of a job says little of the whole"
    assert speed.jobs == 1


@pytest.mark.parametrize(
    ("metrics", "kept"),
    [
        ({}, (None, None)),
        ({"audio_seconds": 0.0, "seconds": 3.0}, (None, None)),
        ({"audio_seconds": 60.0, "seconds": 0.0}, (60.0, None)),
        ({"images": 8, "images_resumed": 2, "seconds": 3.0}, (8.0, 4.0)),
        ({"audio_seconds": 60.0, "seconds": 3.0, "blocks": 2, "blocks_resumed": 2}, (60.0, None)),
    ],
)
def test_what_a_result_tells_of_its_job(metrics: dict[str, Any], kept: tuple[float | None, float | None]) -> None:
    found = speeds.measured({"metrics": metrics})
    assert (found["length"], found["work_seconds"]) == kept


def test_a_result_taken_from_another_job_tells_no_speed() -> None:
    metrics = {"audio_seconds": 60.0, "seconds": 0.1, "cached": True}
    found = speeds.measured({"metrics": metrics, "cached": {"job": "job_1", "finished_at": "2026-01-01T00:00:00Z"}})
    assert found == {"length": 60.0, "work_seconds": None}


def test_the_latest_jobs_count_and_a_long_history_is_not_read(database: Database) -> None:
    key_id = new_key(database)
    count = 5_000
    body = request().model_dump(mode="json")
    plain = {
        "key_id": key_id, "kind": "separation", "engine": "rnnoise", "lane": "cpu", "priority": 0, "request": body,
        "state": State.SUCCEEDED, "reason": Reason.DONE, "request_digest": "0", "attempt": 1, "result_attempt": 1,
        "result": {}, "length": 100.0,
    }  # fmt: skip
    rows = [
        {
            **plain, "id": f"job_{n:06}", "work_seconds": 50.0 if n < count - speeds.LATEST else 5.0,
            **dict.fromkeys(("run_at", "created_at", "updated_at", "finished_at"), NOON + timedelta(seconds=n)),
        }
        for n in range(count)
    ]  # fmt: skip
    with database.write() as tx:
        tx.execute(insert(jobs), rows)
    with database.write() as tx:
        tx.execute(text("ANALYZE jobs"))
    with database.read() as tx:
        (speed,) = speeds.speeds(tx, [CPU]).values()
    assert (speed.jobs, speed.ratio) == (speeds.LATEST, 0.05)
    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    asked: list[tuple[str, Any]] = []
    event.listen(
        database.engine, "before_cursor_execute", lambda _c, _u, sql, bound, *_: asked.append((sql, bound))
    )  # fmt: skip
    with database.read() as tx:
        speeds.speeds(tx, [CPU])
        sql, bound = asked[-1]
        plan = " ".join(str(row) for row in tx.connection.exec_driver_sql(explain + sql, bound))
    assert "ix_jobs_speed" in plan, plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan


# --- What is left of a batch ------------------------------------------------------------------------------------------


def test_what_is_expected_of_a_batch_is_counted_down_and_up_again(database: Database) -> None:
    batch = _batch(database, new_key(database), 600.0, None, 1200.0)
    assert (batch.lengths, batch.length, batch.longest) == (2, 1800.0, 1200.0)
    first, second, third = items(database, batch.id)
    _done(database, claimed(database, first.id), 610.0, 61.0)
    batch = look(database, batch.id)
    assert (batch.lengths, batch.length) == (1, 1200.0), "by what was expected, not by what was found"
    _done(database, claimed(database, second.id), 900.0, 90.0)
    assert look(database, batch.id).length == 1200.0
    job = claimed(database, third.id)
    with database.write() as tx:
        finish.fail(tx, job.lease, ERROR)
    assert (look(database, batch.id).lengths, look(database, batch.id).length) == (0, 0.0)
    with database.write() as tx:
        submit.resubmit(tx, third.id, default_quota=QUOTA)
    assert (look(database, batch.id).lengths, look(database, batch.id).length) == (1, 1200.0)


def test_nothing_is_foretold_before_something_is_known(database: Database) -> None:
    key_id = new_key(database)
    batch = _batch(database, key_id, 600.0)
    found = _outlook(database, batch).forecast
    assert found.likely is None
    assert [missing.why for missing in found.missing] == [Why.NOT_MEASURED]
    _finished(database, key_id, 100.0, 10.0)
    assert [missing.why for missing in _outlook(database, batch).forecast.missing] == [Why.NO_CARDS]
    _cards(database, 1)
    assert _outlook(database, batch).forecast.likely is not None


def test_done_when_its_audio_is_computed_in_its_window(database: Database) -> None:
    clock = SimulatedClock(NOON)
    database.clock = clock
    key_id = new_key(database)
    _cards(database, 2)
    for _ in range(30):
        _finished(database, key_id, 3600.0, 360.0)
    batch = _batch(database, key_id, *[3600.0] * 200, window=NIGHTLY, deadline=NOON + timedelta(days=1))
    found = _outlook(database, batch)
    # 200 jobs of 6 minutes on two cards: ten hours, of which eight in the night that begins at 20:00 UTC.
    assert found.forecast.likely is not None
    assert found.forecast.closes == NOON + timedelta(hours=18)
    assert abs(found.forecast.likely - (NOON + timedelta(hours=36))) < timedelta(minutes=10)
    assert found.forecast.by_close is not None
    assert found.forecast.by_close.likely == pytest.approx(0.8, abs=0.01)
    assert found.risk is Risk.LATE


def test_unknown_lengths_are_taken_from_what_the_batch_had_so_far(database: Database) -> None:
    key_id = new_key(database)
    _cards(database, 1)
    _finished(database, key_id, 60.0, 6.0)
    batch = _batch(database, key_id, *[None] * 12)
    before = _outlook(database, batch).forecast.card_seconds
    assert before.likely == pytest.approx(12 * 6.0), "as long as the engine's other jobs"
    for job in items(database, batch.id)[:6]:
        _done(database, claimed(database, job.id), 600.0, 60.0)
    after = _outlook(database, batch).forecast.card_seconds
    assert after.likely == pytest.approx(6 * 60.0)
    assert after.high / after.likely < before.high / before.likely


def test_what_a_running_job_has_done_is_not_to_be_done_again(database: Database) -> None:
    key_id = new_key(database)
    _cards(database, 1)
    _finished(database, key_id, 60.0, 6.0)
    batch = _batch(database, key_id, 600.0, 600.0)
    job = start(database, "w0")
    assert job is not None
    with database.write() as tx:
        running.checkpoint(tx, job.lease, LEASE, "print", 0, 2, {})
    assert _outlook(database, batch).forecast.card_seconds.likely == pytest.approx(90.0)


def test_others_have_their_share_and_what_is_urgent_goes_first(database: Database) -> None:
    mine, other = new_key(database), new_key(database)
    _cards(database, 1)
    for _ in range(20):
        _finished(database, mine, 600.0, 60.0)
    batch = _batch(database, mine, *[600.0] * 60)

    def hours() -> float:
        standing = _standing(database)
        found = outlook.of_batch(standing, batch.id)
        assert found is not None
        assert found.forecast.likely is not None
        return (found.forecast.likely - standing.now).total_seconds() / 3600

    assert hours() == pytest.approx(1.0, abs=0.03)
    theirs = _batch(database, other, *[600.0] * 30)
    assert hours() == pytest.approx(1.5, abs=0.03), "until their half hour is done, it has half of the card"
    for _ in range(15):
        submitted(database, other)
    assert hours() == pytest.approx(1.75, abs=0.04), "interactive jobs, a quarter of an hour"
    with database.write() as tx:
        steering.pause(tx, theirs.id)
    assert hours() == pytest.approx(1.25, abs=0.04), "what is paused takes nothing"


def test_a_paused_batch_is_foretold_as_if_it_went_on(database: Database) -> None:
    key_id = new_key(database)
    _cards(database, 1)
    _finished(database, key_id, 60.0, 6.0)
    batch = _batch(database, key_id, 600.0)
    with database.write() as tx:
        steering.pause(tx, batch.id)
    assert outlook.of_batch(_standing(database), batch.id) is None
    assert _outlook(database, batch).forecast.likely is not None


def test_of_what_is_over_nothing_is_foretold(database: Database) -> None:
    batch = _batch(database, new_key(database), 60.0)
    _done(database, claimed(database, items(database, batch.id)[0].id), 60.0, 6.0)
    assert outlook.of_batch(_standing(database, batch.id), batch.id) is None


def test_something_only_planned(database: Database) -> None:
    key_id = new_key(database)
    _cards(database, 2)
    for _ in range(20):
        _finished(database, key_id, 600.0, 60.0)
    with database.read() as tx:
        standing = outlook.read(tx, LEASE, engines=[CPU])
    work = outlook.Work(*CPU, jobs=100, audio=60_000.0, longest=600.0)
    found = outlook.outlook(standing, [outlook.Waiting(key_id, 1.0, 1.0, work)])
    assert found.forecast.card_seconds.likely == pytest.approx(6000.0)
    assert found.risk is None
    assert found.forecast.likely is not None
    assert abs((found.forecast.likely - standing.now).total_seconds() - 3000.0) < 60.0
