"""Verbs at the same moment, on real connections: what one statement guards must hold for two callers at once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, update

from common.db import processes
from common.db.engine import Database
from common.db.tables import BATCH, INTERACTIVE, events, jobs
from common.errors import NightshiftError
from common.jobs import callbacks, claiming, finish, queueing, running, submit, sweep
from common.jobs.job import Job, LeaseLost
from common.states import Reason, State
from tests.jobs import (
    ERROR,
    LEASE,
    QUOTA,
    brought,
    claimed,
    look,
    lose_lease,
    new_key,
    queue_up,
    request,
    result,
    snapshot,
    submitted,
)


def _at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Starts all calls at one moment, each in its thread; gives what each returned or raised."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait(30)
        try:
            return call()
        except (LeaseLost, NightshiftError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(run, call) for call in calls]]


def _verb(database: Database, verb: Callable[..., Any], *args: Any, **more: Any) -> Callable[[], Any]:
    def call() -> Any:
        with database.write() as tx:
            return verb(tx, *args, **more)

    return call


def _many(database: Database, key_id: str, count: int) -> list[str]:
    model = submitted(database, key_id)
    with database.write() as tx:
        row = dict(tx.execute(select(jobs).where(jobs.c.id == model.id)).one()._mapping)
        ids = [model.id, *(f"job_{n:05}" for n in range(count - 1))]
        tx.execute(insert(jobs), [row | {"id": job_id} for job_id in ids[1:]])
    return ids


def test_eight_workers_claim_each_job_once(database: Database) -> None:
    ids = _many(database, new_key(database), 200)
    queue_up(database, *ids)

    def work(name: str) -> list[Job]:
        mine: list[Job] = []
        while (job := database.run(claiming.claim, name, ["cpu"], LEASE)) is not None:
            mine.append(job)
        return mine

    got = _at_once(*(lambda name=f"w{n}": work(name) for n in range(8)))
    assert Counter(job.id for mine in got for job in mine) == dict.fromkeys(ids, 1)
    assert {job.attempt for mine in got for job in mine} == {1}
    with database.read() as tx:
        assert tx.execute(select(func.count()).select_from(events).where(events.c.job_id.in_(ids))).scalar_one() == 201


def test_eight_workers_told_of_one_job(database: Database) -> None:
    job = brought(database, new_key(database), State.QUEUED)
    got = _at_once(*(_verb(database, claiming.claim, f"w{n}", ["cpu"], LEASE, job_id=job.id) for n in range(8)))
    assert sum(one is not None for one in got) == 1


def test_fifty_submissions_with_one_idempotency_key_make_one_job(database: Database) -> None:
    key_id = new_key(database)
    one = _verb(database, submit.submit, key_id, request(), default_quota=QUOTA, idempotency_key="once")
    answers = _at_once(*[one] * 50)
    assert len({answer.job.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    with database.read() as tx:
        assert len(snapshot(tx).jobs) == 1


def test_fifty_submissions_with_one_key_and_two_bodies_make_one_job(database: Database) -> None:
    key_id = new_key(database)
    bodies = [request(metadata={"body": str(n % 2)}) for n in range(50)]
    answers = _at_once(
        *(_verb(database, submit.submit, key_id, body, default_quota=QUOTA, idempotency_key="once") for body in bodies)
    )
    refused = [answer for answer in answers if isinstance(answer, NightshiftError)]
    made = [answer for answer in answers if not isinstance(answer, NightshiftError)]
    assert {error.code for error in refused} == {"idempotency_mismatch"}
    assert (len(made), len(refused)) == (25, 25)
    assert len({answer.job.id for answer in made}) == 1
    with database.read() as tx:
        assert len(snapshot(tx).jobs) == 1


def test_parallel_submissions_overshoot_the_quota_by_no_more_than_their_number(database: Database) -> None:
    """The quota is counted without a lock: what is under way at the same moment may come on top, and no more."""
    key_id = new_key(database, max_waiting=5)
    answers = _at_once(*[_verb(database, submit.submit, key_id, request(), default_quota=QUOTA)] * 12)
    made = sum(not isinstance(answer, NightshiftError) for answer in answers)
    assert 5 <= made <= 12
    if not database.url.startswith("postgresql"):
        assert made == 5


@pytest.mark.parametrize("turn", range(6))
def test_rescue_against_success(database: Database, turn: int) -> None:
    job = claimed(database, submitted(database, new_key(database)).id)
    lose_lease(database, job.id)
    rescued, succeeded = _at_once(
        _verb(database, sweep.rescue, job.id, max_crashes=3), _verb(database, finish.succeed, job.lease, result())
    )
    won = isinstance(succeeded, Job)
    assert won == (rescued is None)
    assert look(database, job.id).state is (State.SUCCEEDED if won else State.WAITING)


@pytest.mark.parametrize("turn", range(6))
def test_cancel_against_claim(database: Database, turn: int) -> None:
    job = brought(database, new_key(database), State.QUEUED)
    cancelled, got = _at_once(
        _verb(database, finish.cancel, job.id),
        lambda: database.run(claiming.claim, "w1", ["cpu"], LEASE, job_id=job.id),
    )
    now = look(database, job.id)
    if got is None:
        assert (cancelled.state, now.state) == (State.CANCELLED, State.CANCELLED)
    else:
        assert (cancelled.state, now.state, now.cancel_requested) == (State.RUNNING, State.RUNNING, True)


@pytest.mark.parametrize("turn", range(6))
def test_cancel_against_success(database: Database, turn: int) -> None:
    job = brought(database, new_key(database), State.RUNNING)
    cancelled, succeeded = _at_once(
        _verb(database, finish.cancel, job.id), _verb(database, finish.succeed, job.lease, result())
    )
    now = look(database, job.id)
    if isinstance(succeeded, Job):
        assert (cancelled.state, now.state) == (State.SUCCEEDED, State.SUCCEEDED)
    else:
        assert (now.state, now.cancel_requested) == (State.RUNNING, True)


def test_two_schedulers_release_nothing_twice_and_little_too_much(database: Database) -> None:
    """Each counts the room for itself, so together they may fill it once each: never more than that."""
    key_id, ahead = new_key(database), 3
    _many(database, key_id, 60)
    for _ in range(5):
        filled = _at_once(*[_verb(database, queueing.fill, "cpu", ahead, LEASE)] * 2)
        ids = [bell.job_id for bells in filled for bell in bells]
        assert len(ids) == len(set(ids))
        with database.read() as tx:
            queued = tx.execute(select(func.count()).where(jobs.c.state == State.QUEUED)).scalar_one()
        assert ahead <= queued <= 2 * ahead
        for _ in range(queued):
            with database.write() as tx:
                job = claiming.claim(tx, "w1", ["cpu"], LEASE)
                assert job is not None
                finish.succeed(tx, job.lease, result())
    with database.read() as tx:
        told = tx.execute(
            select(events.c.job_id, func.count()).where(events.c.type == "state").group_by(events.c.job_id)
        ).all()
    assert max(count for _, count in told) <= 4


# --- One verb stopped between two of its statements -------------------------------------------------------------------


@contextmanager
def _after_statement(database: Database, number: int, between: Callable[[], None]) -> Iterator[None]:
    """Runs `between` after the n-th statement of this thread's next verb."""
    me, count = threading.get_ident(), 0

    def seen(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() == me:
            count += 1
            if count == number:
                between()

    event.listen(database.engine, "after_cursor_execute", seen)
    try:
        yield
    finally:
        event.remove(database.engine, "after_cursor_execute", seen)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("verb", ["give back", "retry", "succeed"])
def test_a_cancel_is_never_lost(postgres_database: Database, number: int, verb: str) -> None:
    """The worker gives its job back between two statements of a cancel: it is cancelled, or flagged before that."""
    database = postgres_database
    job = brought(database, new_key(database), State.RUNNING)
    worker = {
        "give back": _verb(database, running.give_back, job.lease, Reason.DRAINED),
        "retry": _verb(database, finish.retry, job.lease, ERROR, 0.0, max_attempts=4),
        "succeed": _verb(database, finish.succeed, job.lease, result()),
    }[verb]
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[Any]] = []

        def between() -> None:
            pending.append(pool.submit(worker))
            with suppress(TimeoutError):  # it waits for the lock of the cancel, as it should
                pending[0].result(0.3)

        with _after_statement(database, number, between), database.write() as tx:
            answer = finish.cancel(tx, job.id)
        with suppress(LeaseLost):
            pending[0].result(20)
    assert answer is not None
    now = look(database, job.id)
    assert now.terminal or now.cancel_requested, "the caller asked for an end, and the job goes on"


def test_a_job_taken_up_again_while_it_is_pruned_keeps_its_files(postgres_database: Database) -> None:
    database = postgres_database
    job = brought(database, new_key(database), State.FAILED)
    with database.write() as tx:
        tx.execute(update(jobs).values(finished_at=tx.now(-1000.0)))
    with database.read() as tx:
        sweeps = snapshot(tx).sweeps

    def between() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_verb(database, submit.resubmit, job.id, default_quota=QUOTA)).result(20)

    with _after_statement(database, 1, between), database.write() as tx:
        sweep.prune(tx, retention_seconds=500.0, idempotency_seconds=500.0)
    assert look(database, job.id).state is State.WAITING
    with database.read() as tx:
        assert snapshot(tx).sweeps == sweeps, "the files of a job that waits again are to be deleted"


@pytest.mark.parametrize("number", [1, 2])
def test_an_upstream_that_ends_while_a_job_is_submitted_for_it(postgres_database: Database, number: int) -> None:
    """The new job is told of the end, or sees it: it never waits for what has happened already."""
    database = postgres_database
    key_id = new_key(database)
    upstream = brought(database, key_id, State.RUNNING)
    asked = request(input={"job": upstream.id, "output": "speech"})
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[Any]] = []

        def between() -> None:
            pending.append(pool.submit(_verb(database, finish.succeed, upstream.lease, result())))
            with suppress(TimeoutError):
                pending[0].result(0.3)

        with _after_statement(database, number, between), database.write() as tx:
            job = submit.submit(tx, key_id, asked, default_quota=QUOTA).job
        pending[0].result(20)
    now = look(database, job.id)
    assert (now.state, now.upstream) == (State.WAITING, None)


def test_two_deliverers_record_the_first_failures_of_an_address(postgres_database: Database) -> None:
    database = postgres_database
    key_id = new_key(database)
    with database.write() as tx:
        for _ in range(2):
            callbacks.put(tx, key_id, "https://receiver.example", "test", "{}")
        due = callbacks.due(tx, 10, 60.0)
    tell = {"status": 500, "error": None, "duration_ms": 1, "response": None, "next_in": 5.0, "gone": False}
    tell["disable_after_seconds"] = 1000.0
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[Any]] = []

        def between() -> None:
            pending.append(pool.submit(_verb(database, callbacks.record, due[1], **tell)))
            with suppress(TimeoutError):
                pending[0].result(0.3)

        with _after_statement(database, 2, between), database.write() as tx:
            assert callbacks.record(tx, due[0], **tell) == "pending"
        assert pending[0].result(20) == "pending"


# --- Everything at once -----------------------------------------------------------------------------------------------


def test_random_verbs_by_many_threads_end_without_a_deadlock(database: Database) -> None:
    """Chains of jobs, six threads that do anything: every call ends, and nothing is left inconsistent."""
    key_id = new_key(database)
    with database.write() as tx:
        for n in range(6):
            processes.register(tx, f"w{n}", "worker", lanes=["cpu"])
    ids = [submitted(database, key_id).id]
    for n in range(17):
        ids.append(submitted(database, key_id, input={"job": ids[n // 2], "output": "speech"}).id)

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(40):
            with suppress(LeaseLost, NightshiftError):
                _anything(database, chance, f"w{number}", ids)

    _at_once(*(lambda n=n: work(n) for n in range(6)))
    with database.read() as tx:
        now = snapshot(tx)
    assert set(ids) <= now.jobs.keys()
    for row in now.jobs.values():
        if row["upstream"]:
            assert now.jobs[row["upstream"]]["finished_at"] is None
        ends = [
            told for told in now.events[row["id"]] if told["state"] in ("succeeded", "failed", "cancelled", "expired")
        ]
        assert len(ends) == len(now.callbacks[row["id"]])


def _anything(database: Database, chance: random.Random, worker: str, ids: list[str]) -> None:
    some = chance.choice(ids)
    match chance.randrange(9):
        case 0:
            database.run(finish.cancel, some)
        case 1:
            database.run(submit.resubmit, some, default_quota=QUOTA)
        case 2:
            database.run(queueing.fill, "cpu", 2, LEASE)
        case 3:
            database.run(finish.expire)
        case 4:
            asked = request(input={"job": some, "output": "speech"})
            database.run(submit.submit, look(database, some).key_id, asked, default_quota=QUOTA)
        case 5:
            database.run(sweep.rescue, some, max_crashes=3)
        case _:
            job = database.run(claiming.claim, worker, ["cpu"], chance.choice((LEASE, -1.0)))
            if job is not None:
                end = chance.choice((finish.succeed, finish.fail, running.give_back))
                told = {finish.succeed: result(), finish.fail: ERROR, running.give_back: Reason.DRAINED}[end]
                database.run(end, job.lease, told)


def test_interactive_and_batch_are_released_by_two_at_once(database: Database) -> None:
    key_id = new_key(database)
    _many(database, key_id, 20)
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id < "job_00010").values(priority=BATCH))
    released = _at_once(
        *(_verb(database, queueing.release, "cpu", priority, 6) for priority in (INTERACTIVE, BATCH) * 2)
    )
    ids = [job.id for some in released for job in some]
    assert len(ids) == len(set(ids))
