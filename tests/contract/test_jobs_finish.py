"""The ends of jobs: what is published, what is swept, and what waits for them."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from common.db import processes
from common.db.engine import Database
from common.db.tables import jobs, sweeps
from common.db.tables import processes as process_rows
from common.jobs import finish, queueing, running
from common.jobs.job import Job
from common.states import Reason, State
from tests.jobs import (
    ERROR,
    LEASE,
    LONG_AGO,
    brought,
    claimed,
    look,
    new_key,
    result,
    snapshot,
    submitted,
)  # fmt: skip


def _running(database: Database, key_id: str | None = None) -> Job:
    return claimed(database, submitted(database, key_id or new_key(database)).id)


def _swept(database: Database) -> list[str]:
    with database.read() as tx:
        return sorted(tx.execute(select(sweeps.c.prefix)).scalars())


def test_success_publishes_one_result_and_sweeps_the_blocks(database: Database) -> None:
    job = _running(database)
    with database.write() as tx:
        done = finish.succeed(tx, job.lease, result("speech"))
    assert done == look(database, job.id)
    assert (done.result, done.result_attempt, done.error) == (result("speech"), 1, None)
    assert _swept(database) == [f"jobs/{job.id}/blocks/"]


def test_success_told_twice_is_one_success(database: Database) -> None:
    """The answer to the first commit was lost: the worker says it again, and learns that it was heard."""
    job = _running(database)
    with database.write() as tx:
        first = finish.succeed(tx, job.lease, result("speech"))
    with database.read() as tx:
        was = snapshot(tx)
    with database.write() as tx:
        assert finish.succeed(tx, job.lease, result("other")) == first
    with database.read() as tx:
        assert snapshot(tx) == was


def test_success_forgets_the_error_of_an_earlier_try(database: Database) -> None:
    job = _running(database)
    with database.write() as tx:
        waiting = finish.retry(tx, job.lease, ERROR, 0.0, max_attempts=4)
    assert (waiting.error, waiting.failures) == (ERROR, 1)
    job = claimed(database, job.id)
    with database.write() as tx:
        assert finish.succeed(tx, job.lease, result()).error is None


def test_success_clears_its_worker_of_suspicion(database: Database) -> None:
    with database.write() as tx:
        processes.register(tx, "w1", "worker", lanes=["cpu"])
    job = _running(database)
    with database.write() as tx:
        tx.execute(update(process_rows).values(crashed_jobs=["job_a"]))
        finish.succeed(tx, job.lease, result())
        assert processes.list_all(tx, LEASE)[0].crashed_jobs == ()


@pytest.mark.parametrize("end", ["fail", "retry", "cancelled"])
def test_an_attempt_that_came_to_nothing_is_swept_later(database: Database, end: str) -> None:
    """A worker that lost its lease may still be writing there."""
    job = _running(database)
    with database.write() as tx:
        if end == "fail":
            finish.fail(tx, job.lease, ERROR)
        elif end == "retry":
            finish.retry(tx, job.lease, ERROR, 0.0, max_attempts=4)
        else:
            finish.cancel(tx, job.id)
            finish.cancelled(tx, job.lease)
        row = tx.execute(select(sweeps)).one()
        assert row.prefix == f"jobs/{job.id}/1/"
        assert (row.due_at - tx.instant()).total_seconds() > finish.SWEEP_AFTER - 30


def test_a_retry_waits_its_time(database: Database) -> None:
    job = _running(database)
    with database.write() as tx:
        finish.retry(tx, job.lease, ERROR, 500.0, max_attempts=4)
        assert queueing.fill(tx, "cpu", 5, LEASE) == []
        tx.execute(update(jobs).values(run_at=tx.now(-1.0)))
        assert len(queueing.fill(tx, "cpu", 5, LEASE)) == 1


@pytest.mark.parametrize("most", [1, 2, 4])
def test_attempts_are_used_up(database: Database, most: int) -> None:
    job = _running(database)
    for number in range(1, most + 1):
        with database.write() as tx:
            ended = finish.retry(tx, job.lease, ERROR, 0.0, max_attempts=most)
        if number < most:
            assert ended.state is State.WAITING
            job = claimed(database, job.id)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.ATTEMPTS_EXHAUSTED)
    assert ended.error == {**ERROR, "attempts": most}


def test_a_cancel_twice_is_one_cancel(database: Database) -> None:
    for state in (State.WAITING, State.RUNNING, State.SUCCEEDED):
        job = brought(database, new_key(database), state)
        with database.write() as tx:
            first = finish.cancel(tx, job.id)
        with database.write() as tx:
            second = finish.cancel(tx, job.id)
        assert first is not None
        assert second is not None
        assert (first.state, first.cancel_requested, first.finished_at) == (
            second.state, second.cancel_requested, second.finished_at,
        )  # fmt: skip


# --- Deadlines --------------------------------------------------------------------------------------------------------


def test_a_deadline_is_for_the_start(database: Database) -> None:
    """What has started by then and only waits for its turn again is not thrown away."""
    key_id = new_key(database)
    never, started = submitted(database, key_id), claimed(database, submitted(database, key_id).id)
    with database.write() as tx:
        running.give_back(tx, started.lease, Reason.PREEMPTED)
        tx.execute(update(jobs).values(deadline=LONG_AGO))
        assert [job.id for job in finish.expire(tx)] == [never.id]
    assert look(database, started.id).state is State.WAITING


def test_expiry_goes_in_steps(database: Database) -> None:
    key_id = new_key(database)
    for _ in range(5):
        submitted(database, key_id, deadline=LONG_AGO)
    with database.write() as tx:
        assert [len(finish.expire(tx, limit=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_chain_that_expires_together(database: Database) -> None:
    key_id = new_key(database)
    first = submitted(database, key_id, deadline=LONG_AGO)
    second = submitted(database, key_id, input={"job": first.id, "output": "speech"}, deadline=LONG_AGO)
    third = submitted(database, key_id, input={"job": second.id, "output": "speech"})
    with database.write() as tx:
        finish.expire(tx)
        told = snapshot(tx).callbacks
    assert told[first.id] == told[second.id] == ["job.expired"]
    assert told[third.id] == ["job.failed"]


# --- What waits for a job ---------------------------------------------------------------------------------------------


def _chain(database: Database, key_id: str, length: int) -> list[str]:
    ids = [submitted(database, key_id).id]
    while len(ids) < length:
        ids.append(submitted(database, key_id, input={"job": ids[-1], "output": "speech"}).id)
    return ids


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_a_bad_end_goes_down_the_whole_chain(database: Database, end: State) -> None:
    key_id = new_key(database)
    first, *rest = _chain(database, key_id, 4)
    if end is State.FAILED:
        job = claimed(database, first)
        with database.write() as tx:
            finish.fail(tx, job.lease, ERROR)
    elif end is State.CANCELLED:
        with database.write() as tx:
            finish.cancel(tx, first)
    else:
        with database.write() as tx:
            tx.execute(update(jobs).where(jobs.c.id == first).values(deadline=LONG_AGO))
            finish.expire(tx)
    above = first
    for job_id in rest:
        job = look(database, job_id)
        assert (job.state, job.reason, job.upstream, job.attempt) == (State.FAILED, Reason.UPSTREAM_FAILED, None, 0)
        assert job.error is not None
        assert job.error["code"] == "upstream_failed"
        assert job.error["upstream"]["job"] == above
        above = job_id
    with database.read() as tx:
        now = snapshot(tx)
    assert all(now.callbacks[job_id] == ["job.failed"] for job_id in rest)
    assert all(now.events[job_id][-1]["state"] == "failed" for job_id in rest)


def test_a_success_wakes_those_that_wait_for_it_and_no_others(database: Database) -> None:
    key_id = new_key(database)
    first, second, third = _chain(database, key_id, 3)
    job = claimed(database, first)
    with database.write() as tx:
        finish.succeed(tx, job.lease, result())
    woken = look(database, second)
    assert (woken.state, woken.upstream, woken.reason) == (State.WAITING, None, Reason.SUBMITTED)
    assert look(database, third).upstream == second
    with database.write() as tx:
        assert [bell.job_id for bell in queueing.fill(tx, "cpu", 9, LEASE)] == [second]


def test_what_waits_is_not_released_by_a_retry_or_a_yield_above_it(database: Database) -> None:
    key_id = new_key(database)
    first, second = _chain(database, key_id, 2)
    job = claimed(database, first)
    with database.write() as tx:
        finish.retry(tx, job.lease, ERROR, 0.0, max_attempts=4)
        assert [bell.job_id for bell in queueing.fill(tx, "cpu", 9, LEASE)] == [first]
    assert look(database, second).upstream == first


def test_a_cancelled_job_in_the_middle_leaves_the_one_above(database: Database) -> None:
    key_id = new_key(database)
    first, second, third = _chain(database, key_id, 3)
    with database.write() as tx:
        finish.cancel(tx, second)
    assert [look(database, job_id).state for job_id in (first, second, third)] == [
        State.WAITING, State.CANCELLED, State.FAILED,
    ]  # fmt: skip
