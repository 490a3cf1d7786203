"""What a worker says of the job it holds, and what it is told."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from common.db import processes
from common.db.engine import Database
from common.db.tables import jobs
from common.db.tables import processes as process_rows
from common.jobs import claiming, finish, queueing, running, submit
from common.jobs.job import Job, LeaseLost, Orders
from common.states import Reason, State
from tests.jobs import LEASE, QUOTA, checkpointed, claimed, look, lose_lease, new_key, queue_up, result, submitted


def _running(database: Database, priority: str = "batch", worker: str = "w1") -> Job:
    return claimed(database, submitted(database, new_key(database), priority=priority).id, worker)


def _orders(database: Database, job: Job, worker: str = "w1", lanes: tuple[str, ...] = ("cpu",)) -> Orders:
    with database.read() as tx:
        return running.orders(tx, job.lease, worker, lanes, LEASE)


def _workers(database: Database, **lanes: str) -> None:
    with database.write() as tx:
        for name, served in lanes.items():
            processes.register(tx, name, "worker", lanes=served.split("+"))


def _somebody_in_a_hurry(database: Database, lane: str = "cpu") -> Job:
    quick = submitted(database, new_key(database), priority="interactive")
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == quick.id).values(lane=lane))
    queue_up(database, quick.id)
    return quick


# --- Renewal and progress ---------------------------------------------------------------------------------------------


def test_renewal_prolongs_the_lease_and_keeps_progress(database: Database) -> None:
    job = _running(database)
    with database.write() as tx:
        running.renew(tx, job.lease, 500.0, {"phase": "separating", "fraction": 0.5})
    with database.write() as tx:
        running.renew(tx, job.lease, 1000.0)
        now = tx.instant()
    renewed = look(database, job.id)
    assert renewed.progress == {"phase": "separating", "fraction": 0.5}
    assert renewed.lease_until is not None
    assert 900 < (renewed.lease_until - now).total_seconds() <= 1000


def test_a_late_worker_may_go_on_until_somebody_rescued_its_job(database: Database) -> None:
    job = _running(database)
    lose_lease(database, job.id)
    with database.write() as tx:
        running.renew(tx, job.lease, LEASE)
    assert _orders(database, job) == Orders(held=True)


@pytest.mark.parametrize(
    "progress",
    [
        {"loudness": float("-inf"), "gain": float("nan")},
        {"message": "the file said \0 and \udc80"},
        {"\0name": [1, (2.5, float("inf"))], "nested": {"a": ["\ud83d"]}},
    ],
)
def test_what_json_cannot_hold_does_not_stop_a_worker(database: Database, progress: dict[str, object]) -> None:
    """A measured silence and a broken file's words are stored as near as may be, the same on both databases."""
    job = _running(database)
    with database.write() as tx:
        running.renew(tx, job.lease, LEASE, progress)
        done = finish.succeed(tx, job.lease, result(told=progress))
    kept = look(database, job.id)
    assert kept == done
    assert kept.result is not None
    assert kept.progress == kept.result["told"]
    assert set(kept.progress) == {name.replace("\0", "�") for name in progress}
    text = repr(kept.progress)
    assert not any(bad in text for bad in ("inf", "nan", "\\x00", "\\ud"))


# --- Orders -----------------------------------------------------------------------------------------------------------


def test_nothing_to_do_but_go_on(database: Database) -> None:
    assert _orders(database, _running(database)) == Orders(held=True)


def test_a_cancel_is_seen(database: Database) -> None:
    job = _running(database)
    with database.write() as tx:
        finish.cancel(tx, job.id)
    assert _orders(database, job).cancel


def test_a_drain_is_seen(database: Database) -> None:
    _workers(database, w1="cpu")
    job = _running(database)
    with database.write() as tx:
        processes.order(tx, "w1", "drain")
    assert _orders(database, job).yield_for is Reason.DRAINED


def test_a_batch_job_yields_to_one_in_a_hurry(database: Database) -> None:
    _workers(database, w1="cpu")
    job = _running(database)
    _somebody_in_a_hurry(database)
    assert _orders(database, job).yield_for is Reason.PREEMPTED


def test_an_interactive_job_yields_to_nobody(database: Database) -> None:
    _workers(database, w1="cpu")
    job = _running(database, priority="interactive")
    _somebody_in_a_hurry(database)
    assert _orders(database, job) == Orders(held=True)


def test_nobody_yields_while_another_worker_is_free(database: Database) -> None:
    _workers(database, w1="cpu", w2="cpu+gpu")
    job = _running(database)
    _somebody_in_a_hurry(database)
    assert _orders(database, job).yield_for is None
    _running(database, worker="w2")
    assert _orders(database, job).yield_for is Reason.PREEMPTED


def test_a_free_worker_of_another_lane_is_no_help(database: Database) -> None:
    _workers(database, w1="cpu", w2="gpu", w3="gpu", w4="gpu")
    job = _running(database)
    _somebody_in_a_hurry(database)
    assert _orders(database, job).yield_for is Reason.PREEMPTED


def test_a_job_in_a_hurry_of_another_lane_is_not_waited_for(database: Database) -> None:
    _workers(database, w1="cpu")
    job = _running(database)
    _somebody_in_a_hurry(database, lane="gpu")
    assert _orders(database, job).yield_for is None
    assert _orders(database, job, lanes=("cpu", "gpu")).yield_for is Reason.PREEMPTED


def test_nobody_yields_to_a_job_it_could_not_run(database: Database) -> None:
    """It would be given back at every block, and claimed again, until another worker takes that job."""
    _workers(database, w1="cpu")
    job = _running(database)
    _somebody_in_a_hurry(database)
    with database.read() as tx:
        assert running.orders(tx, job.lease, "w1", ["cpu"], LEASE, ["another"]).yield_for is None
        assert running.orders(tx, job.lease, "w1", ["cpu"], LEASE, [job.engine]).yield_for is Reason.PREEMPTED


@pytest.mark.parametrize("why", ["paused", "in quarantine", "lost"])
def test_a_worker_that_takes_nothing_is_not_free(database: Database, why: str) -> None:
    _workers(database, w1="cpu", w2="cpu")
    job = _running(database)
    _somebody_in_a_hurry(database)
    with database.write() as tx:
        other = update(process_rows).where(process_rows.c.name == "w2")
        if why == "paused":
            processes.order(tx, "w2", "pause")
        elif why == "lost":
            tx.execute(other.values(seen_at=tx.now(-LEASE - 5)))
        else:
            tx.execute(other.values(quarantined_until=tx.now(100.0)))
    assert _orders(database, job).yield_for is Reason.PREEMPTED


def test_a_paused_worker_does_not_yield_what_it_could_not_replace(database: Database) -> None:
    _workers(database, w1="cpu")
    job = _running(database)
    _somebody_in_a_hurry(database)
    with database.write() as tx:
        processes.order(tx, "w1", "pause")
    assert _orders(database, job) == Orders(held=True)


def test_one_in_a_hurry_gets_the_place_of_a_batch_job(database: Database) -> None:
    """The whole way on one worker: submitted, released past the queue, the batch job yields, claimed next."""
    _workers(database, w1="cpu")
    key_id = new_key(database)
    for _ in range(6):
        submitted(database, key_id, priority="batch")
    with database.write() as tx:
        queueing.fill(tx, "cpu", 2, LEASE)
        job = claiming.claim(tx, "w1", ["cpu"], LEASE)
        queueing.fill(tx, "cpu", 2, LEASE)
    assert job is not None
    quick = submitted(database, new_key(database), priority="interactive")
    with database.write() as tx:
        queueing.fill(tx, "cpu", 2, LEASE)
    orders = _orders(database, job)
    assert orders.yield_for is Reason.PREEMPTED
    with database.write() as tx:
        running.give_back(tx, job.lease, orders.yield_for)
        taken = claiming.claim(tx, "w1", ["cpu"], LEASE)
    assert taken is not None
    assert taken.id == quick.id


# --- Blocks -----------------------------------------------------------------------------------------------------------


def test_blocks_outlive_yield_retry_and_resubmit_until_success(database: Database) -> None:
    job = _running(database)
    checkpointed(database, job, 0)
    checkpointed(database, job, 1)
    expected = {0: {"speech": "blocks/0"}, 1: {"speech": "blocks/1"}}

    def blocks() -> dict[int, dict[str, str]]:
        with database.read() as tx:
            return running.finished_blocks(tx, job.id, "print")

    with database.write() as tx:
        running.give_back(tx, job.lease, Reason.PREEMPTED)
    job = claimed(database, job.id)
    assert blocks() == expected
    with database.write() as tx:
        finish.retry(tx, job.lease, {"code": "internal", "message": "x"}, 0.0, max_attempts=9)
    job = claimed(database, job.id)
    assert blocks() == expected
    with database.write() as tx:
        finish.fail(tx, job.lease, {"code": "internal", "message": "x"})
        submit.resubmit(tx, job.id, default_quota=QUOTA)
    job = claimed(database, job.id)
    assert blocks() == expected
    with database.write() as tx:
        finish.succeed(tx, job.lease, result())
    assert blocks() == {}


def test_blocks_of_another_fingerprint_are_not_seen(database: Database) -> None:
    job = _running(database)
    checkpointed(database, job, 0)
    with database.write() as tx:
        running.checkpoint(tx, job.lease, LEASE, "other", 0, 3, {"speech": "elsewhere"})
        assert running.finished_blocks(tx, job.id, "other") == {0: {"speech": "elsewhere"}}
        assert running.finished_blocks(tx, job.id, "print") == {0: {"speech": "blocks/0"}}
        assert running.finished_blocks(tx, job.id, "none") == {}


def test_a_block_reported_twice_counts_once(database: Database) -> None:
    job = _running(database)
    for index in (0, 1, 1, 0):
        checkpointed(database, job, index)
    now = look(database, job.id)
    assert (now.blocks_done, now.blocks_total) == (2, 3)


def test_a_yield_costs_no_attempt_of_those_that_count(database: Database) -> None:
    job = _running(database)
    for _ in range(12):
        with database.write() as tx:
            running.give_back(tx, job.lease, Reason.PREEMPTED)
        job = claimed(database, job.id)
    assert (job.attempt, job.failures, job.crashes) == (13, 0, 0)
    with database.write() as tx:
        assert finish.retry(tx, job.lease, {"code": "internal", "message": "x"}, 0.0, 4).state is State.WAITING


def test_a_refused_write_undoes_what_came_before_it(database: Database) -> None:
    job = _running(database)
    with pytest.raises(LeaseLost), database.write() as tx:
        running.renew(tx, job.lease, LEASE, {"mine": True})
        finish.cancelled(tx, job.lease)
    assert look(database, job.id) == job
