"""A job that reads what several jobs make waits for each in turn, and fails with the first that fails it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from common.db.engine import Database
from common.db.tables import jobs
from common.errors import NightshiftError
from common.jobs import finish, queueing, submit, sweep
from common.jobs.job import Job
from common.params import parse_request
from common.states import Reason, State
from tests.jobs import ERROR, LEASE, QUOTA, brought, claimed, look, new_key, result, snapshot, submitted

MASK = {"prompts": [{"points": [[1, 1]], "labels": [1]}]}


@pytest.fixture
def key_id(database: Database) -> str:
    return new_key(database)


def running(database: Database, key_id: str) -> Job:
    return brought(database, key_id, State.RUNNING)


def reading(database: Database, key_id: str, *sources: tuple[Job, str] | str) -> Job:
    """A job with these inputs: an output of a job, or an upload."""
    inputs = [
        {"upload": source} if isinstance(source, str) else {"job": source[0].id, "output": source[1]}
        for source in sources
    ]
    body = {"kind": "segmentation", "inputs": inputs, "params": MASK}
    with database.write() as tx:
        return submit.submit(tx, key_id, parse_request(body), default_quota=QUOTA).job


def succeed(database: Database, job: Job, *names: str) -> None:
    database.run(finish.succeed, job.lease, result(*names))


def filled(database: Database) -> None:
    with database.write() as tx:
        queueing.fill(tx, "cpu", 100, LEASE)


def states_told(database: Database, job: Job) -> list[str]:
    with database.read() as tx:
        return [event["state"] for event in snapshot(tx).events[job.id]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_it_waits_for_all_of_them_whatever_their_order(database: Database, key_id: str, order: tuple[int, ...]) -> None:
    upstreams = [running(database, key_id) for _ in range(3)]
    job = reading(database, key_id, (upstreams[0], "speech"), "upl_1", *((u, "speech") for u in upstreams[1:]))
    assert (job.state, job.reason, job.upstream) == (State.WAITING, Reason.UPSTREAM, upstreams[0].id)
    open_ones = list(upstreams)
    for i in order[:-1]:
        succeed(database, upstreams[i])
        open_ones.remove(upstreams[i])
        filled(database)
        waiting = look(database, job.id)
        assert (waiting.state, waiting.reason) == (State.WAITING, Reason.UPSTREAM)
        assert waiting.upstream == open_ones[0].id, "the first in the request's order that is not done"
    succeed(database, upstreams[order[-1]])
    free = look(database, job.id)
    assert (free.state, free.upstream, free.reason) == (State.WAITING, None, Reason.SUBMITTED)
    assert claimed(database, job.id).state is State.RUNNING
    assert states_told(database, job)[0] == "waiting"


def test_one_that_is_done_already_is_not_waited_for(database: Database, key_id: str) -> None:
    done, late = brought(database, key_id, State.SUCCEEDED), running(database, key_id)
    job = reading(database, key_id, (done, "speech"), (late, "speech"))
    assert job.upstream == late.id
    succeed(database, late)
    assert look(database, job.id).upstream is None


def test_several_outputs_of_one_job(database: Database, key_id: str) -> None:
    upstream = running(database, key_id)
    job = reading(database, key_id, (upstream, "speech"), (upstream, "residual"))
    assert job.upstream == upstream.id
    succeed(database, upstream)
    assert (look(database, job.id).state, look(database, job.id).upstream) == (State.WAITING, None)


@pytest.mark.parametrize("how", ["fail", "cancel", "expire"])
@pytest.mark.parametrize("which", [0, 1])
def test_any_that_ends_badly_fails_it(database: Database, key_id: str, which: int, how: str) -> None:
    """At once where it is the one waited for; else when its turn comes."""
    upstreams = [submitted(database, key_id, deadline="2100-01-01T00:00:00Z") for _ in range(2)]
    job = reading(database, key_id, *((upstream, "speech") for upstream in upstreams))
    bad, good = upstreams[which], upstreams[1 - which]
    if how == "fail":
        database.run(finish.fail, claimed(database, bad.id).lease, ERROR)
    elif how == "cancel":
        database.run(finish.cancel, bad.id)
    else:
        with database.write() as tx:
            tx.execute(update(jobs).where(jobs.c.id == bad.id).values(deadline=tx.now(-1.0)))
            finish.expire(tx)
    if which == 1:
        assert look(database, job.id).upstream == good.id, "its turn has not come"
        succeed(database, claimed(database, good.id))
    failed = look(database, job.id)
    assert (failed.state, failed.reason, failed.upstream) == (State.FAILED, Reason.UPSTREAM_FAILED, None)
    assert failed.error is not None
    assert failed.error["code"] == "upstream_failed"
    assert bad.id in failed.error["message"]
    assert failed.error.get("pointer") == ("/inputs/1/job" if which == 1 else None)
    assert states_told(database, job) == ["waiting", "failed"]
    with database.write() as tx:
        assert snapshot(tx).jobs[job.id]["finished_at"] is not None


def test_what_it_fails_fails_what_waits_for_it(database: Database, key_id: str) -> None:
    first, second = running(database, key_id), running(database, key_id)
    middle = reading(database, key_id, (first, "speech"), (second, "speech"))
    last = reading(database, key_id, (middle, "masks"), "upl_1")
    database.run(finish.fail, second.lease, ERROR)
    succeed(database, first)
    assert look(database, middle.id).state is State.FAILED
    failed = look(database, last.id)
    assert (failed.state, failed.reason) == (State.FAILED, Reason.UPSTREAM_FAILED)
    assert failed.error is not None and middle.id in failed.error["message"]


@pytest.mark.parametrize("which", [0, 1])
def test_an_output_that_is_not_there_fails_it(database: Database, key_id: str, which: int) -> None:
    """Known as soon as the job that should have made it has ended, whoever is still waited for."""
    upstreams = [running(database, key_id) for _ in range(2)]
    names = ["speech", "speech"]
    names[which] = "drums"
    job = reading(database, key_id, *zip(upstreams, names, strict=True))
    for upstream in upstreams:
        succeed(database, upstream)
    failed = look(database, job.id)
    assert (failed.state, failed.reason) == (State.FAILED, Reason.UPSTREAM_FAILED)
    assert failed.error is not None
    assert (failed.error["code"], failed.error["pointer"]) == ("input_missing", f"/inputs/{which}/output")
    assert "speech" in failed.error["hint"]


def test_one_that_was_deleted_meanwhile_fails_it(database: Database, key_id: str) -> None:
    done, late = brought(database, key_id, State.SUCCEEDED), running(database, key_id)
    job = reading(database, key_id, (late, "speech"), (done, "speech"))
    with database.write() as tx:
        assert sweep.remove(tx, done.id)
    succeed(database, late)
    failed = look(database, job.id)
    assert failed.error is not None
    assert (failed.state, failed.error["code"], failed.error["pointer"]) == (
        State.FAILED, "input_missing", "/inputs/1/job",
    )  # fmt: skip


def test_a_bad_one_is_refused_at_once_and_leaves_nothing(database: Database, key_id: str) -> None:
    waiting, failed = running(database, key_id), brought(database, key_id, State.FAILED)
    theirs = brought(database, new_key(database), State.SUCCEEDED)
    for source, code, pointer in (
        ((failed, "speech"), "upstream_failed", "/inputs/1/job"),
        ((theirs, "speech"), "input_missing", "/inputs/1/job"),
        ((brought(database, key_id, State.SUCCEEDED), "drums"), "input_missing", "/inputs/1/output"),
    ):
        with database.read() as tx:
            before = snapshot(tx)
        with pytest.raises(NightshiftError) as caught:
            reading(database, key_id, (waiting, "speech"), source)
        assert (caught.value.code, caught.value.pointer) == (code, pointer)
        with database.read() as tx:
            assert snapshot(tx) == before


def test_again_after_the_bad_one_was_mended(database: Database, key_id: str) -> None:
    first, second = running(database, key_id), running(database, key_id)
    job = reading(database, key_id, (first, "speech"), (second, "speech"))
    database.run(finish.fail, first.lease, ERROR)
    assert look(database, job.id).state is State.FAILED

    def again(job_id: str) -> Job:
        with database.write() as tx:
            return submit.resubmit(tx, job_id, default_quota=QUOTA)

    with pytest.raises(NightshiftError) as caught:
        again(job.id)
    assert (caught.value.code, caught.value.pointer) == ("upstream_failed", "/inputs/0/job")
    again(first.id)
    assert again(job.id).upstream == first.id
    succeed(database, second)
    assert look(database, job.id).upstream == first.id
    succeed(database, claimed(database, first.id))
    assert (look(database, job.id).state, look(database, job.id).upstream) == (State.WAITING, None)


def test_cancelled_while_it_waits(database: Database, key_id: str) -> None:
    first, second = running(database, key_id), running(database, key_id)
    job = reading(database, key_id, (first, "speech"), (second, "speech"))
    succeed(database, first)
    database.run(finish.cancel, job.id)
    succeed(database, second)
    ended = look(database, job.id)
    assert (ended.state, ended.upstream) == (State.CANCELLED, None)


# --- At the same moment -----------------------------------------------------------------------------------------------


def at_once(*calls: Callable[[], Any]) -> None:
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(run, call) for call in calls]:
            future.result(60)


@pytest.mark.parametrize("ends", ["both succeed", "one fails", "one is cancelled"])
def test_both_end_at_the_same_moment(database: Database, key_id: str, ends: str) -> None:
    """One reads them in one order, one in the other: neither is forgotten, and no lock stands between for good."""
    for _ in range(3):
        one, other = running(database, key_id), running(database, key_id)
        waiting = [
            reading(database, key_id, (one, "speech"), (other, "speech")),
            reading(database, key_id, (other, "residual"), (one, "residual")),
        ]
        endings: dict[str, Callable[[], Any]] = {
            "both succeed": lambda o=other: succeed(database, o),
            "one fails": lambda o=other: database.run(finish.fail, o.lease, ERROR),
            "one is cancelled": lambda o=other: cancelled(database, o),
        }
        at_once(lambda o=one: succeed(database, o), endings[ends])
        for job in waiting:
            now = look(database, job.id)
            if ends == "both succeed":
                assert (now.state, now.upstream) == (State.WAITING, None)
                assert claimed(database, job.id).state is State.RUNNING
            else:
                assert (now.state, now.reason, now.upstream) == (State.FAILED, Reason.UPSTREAM_FAILED, None)
                assert now.error is not None and now.error["code"] == "upstream_failed"


def cancelled(database: Database, job: Job) -> None:
    """As a caller asks and a worker answers."""
    database.run(finish.cancel, job.id)
    database.run(finish.cancelled, job.lease)


def test_submitted_while_both_end(database: Database, key_id: str) -> None:
    for _ in range(3):
        one, other = running(database, key_id), running(database, key_id)
        made: list[Job] = []

        def ask(one: Job = one, other: Job = other, made: list[Job] = made) -> None:
            body = {
                "kind": "segmentation", "params": MASK,
                "inputs": [{"job": one.id, "output": "speech"}, {"job": other.id, "output": "speech"}],
            }  # fmt: skip
            made.append(database.run(submit.submit, key_id, parse_request(body), default_quota=QUOTA).job)

        at_once(ask, lambda o=one: succeed(database, o), lambda o=other: succeed(database, o))
        (job,) = made
        now = look(database, job.id)
        assert (now.state, now.upstream) == (State.WAITING, None), "it waits for what has ended"
