"""Accepting jobs: what a new one is, idempotency, quota, upstreams, and accepting one again."""

from __future__ import annotations

import pytest

from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import finish, queueing, submit
from common.jobs.job import Job
from common.quotas import Quotas
from common.states import Reason, State
from tests.jobs import (
    ERROR,
    LEASE,
    QUOTA,
    brought,
    checkpointed,
    claimed,
    look,
    new_key,
    queue_up,
    request,
    result,
    snapshot,
    submitted,
)  # fmt: skip


def _submit(
    database: Database, key_id: str, idempotency_key: str | None = None, quota: Quotas = QUOTA, **members: object
):
    with database.write() as tx:
        return submit.submit(
            tx, key_id, request(**members), default_quota=quota, idempotency_key=idempotency_key
        )  # fmt: skip


def _refused(code: str, call) -> NightshiftError:
    with pytest.raises(NightshiftError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_a_new_job_waits(database: Database) -> None:
    key_id = new_key(database)
    made = _submit(database, key_id, priority="batch", batch="episodes", metadata={"show": "night"})
    job = made.job
    assert made.created
    assert (job.state, job.reason, job.attempt, job.key_id) == (State.WAITING, Reason.SUBMITTED, 0, key_id)
    assert (job.kind, job.engine, job.lane, job.batch, job.interactive) == (
        "separation", "rnnoise", "cpu", "episodes", False,
    )  # fmt: skip
    assert job.request["metadata"] == {"show": "night"}
    assert job == look(database, job.id)
    with database.read() as tx:
        told = snapshot(tx)
    assert [event["state"] for event in told.events[job.id]] == ["waiting"]
    assert told.callbacks[job.id] == []


def test_the_same_key_and_body_is_the_same_job(database: Database) -> None:
    key_id = new_key(database)
    first, second = (_submit(database, key_id, "once") for _ in range(2))
    assert first.created
    assert not second.created
    assert first.job == second.job
    with database.read() as tx:
        assert len(snapshot(tx).jobs) == 1


def test_the_same_body_in_other_words_is_the_same_job(database: Database) -> None:
    """What a member says by default or in another time zone is no other request."""
    key_id = new_key(database)
    first = _submit(database, key_id, "once", deadline="2100-01-01T00:00:00Z")
    second = _submit(
        database, key_id, "once", deadline="2100-01-01T02:00:00+02:00", priority="interactive", engine="rnnoise",
        params={"prompts": [{"description": "speech"}]},
    )  # fmt: skip
    assert second.job.id == first.job.id


def test_the_same_key_and_another_body_is_refused(database: Database) -> None:
    key_id = new_key(database)
    first = _submit(database, key_id, "once").job
    error = _refused("idempotency_mismatch", lambda: _submit(database, key_id, "once", metadata={"a": "b"}))
    assert error.extra == {"job": first.id}


def test_an_idempotency_key_belongs_to_one_api_key(database: Database) -> None:
    one, other = new_key(database), new_key(database)
    assert _submit(database, one, "once").job.id != _submit(database, other, "once", metadata={"a": "b"}).job.id


def test_an_answer_is_repeated_even_when_the_quota_is_used_up(database: Database) -> None:
    key_id = new_key(database, max_waiting=1)
    first = _submit(database, key_id, "once")
    assert _submit(database, key_id, "once").job == first.job
    _refused("quota_exceeded", lambda: _submit(database, key_id))


def test_an_idempotency_key_answers_for_a_job_that_has_ended(database: Database) -> None:
    key_id = new_key(database)
    first = submitted(database, key_id, "once")
    with database.write() as tx:
        finish.cancel(tx, first.id)
    again = _submit(database, key_id, "once")
    assert (again.created, again.job.id, again.job.state) == (False, first.id, State.CANCELLED)


@pytest.mark.parametrize("quota", [0, 1, 3])
def test_quota_counts_what_is_unfinished(database: Database, quota: int) -> None:
    key_id, other = new_key(database, max_waiting=quota), new_key(database)
    states = [State.WAITING, State.QUEUED, State.RUNNING][:quota]
    own = [brought(database, key_id, state) for state in states]
    error = _refused("quota_exceeded", lambda: _submit(database, key_id))
    assert error.retryable
    _submit(database, other)
    if quota:
        with database.write() as tx:
            finish.cancel(tx, own[0].id)
        _submit(database, key_id)


def test_the_default_quota_holds_where_a_key_has_none(database: Database) -> None:
    key_id = new_key(database)
    _submit(database, key_id, quota=Quotas(2))
    _submit(database, key_id, quota=Quotas(2))
    _refused("quota_exceeded", lambda: _submit(database, key_id, quota=Quotas(2)))


def test_ended_jobs_do_not_count(database: Database) -> None:
    key_id = new_key(database, max_waiting=1)
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED):
        brought(database, key_id, state)
    _submit(database, key_id)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"engine": "no-such"}, "unknown_engine"),
        ({"params": {"prompts": ["bassoon"]}}, "engine_unsupported"),
        ({"input": {"job": "job_none", "output": "speech"}}, "input_missing"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    database: Database, members: dict[str, object], code: str
) -> None:
    key_id = new_key(database)
    _refused(code, lambda: _submit(database, key_id, **members))
    with database.read() as tx:
        assert snapshot(tx).jobs == {}


@pytest.mark.parametrize(
    "text",
    ["emoji 🎧", "right-to-left ‮", "combining ạ̈", "quotes ' \" \\ %s :name {x}", "�"],
)
def test_any_text_a_caller_may_send_is_kept(database: Database, text: str) -> None:
    job = _submit(database, new_key(database), batch=text, metadata={"note": text, text: "x"}).job
    assert job.request["metadata"] == {"note": text, text: "x"}
    assert job.batch == text
    assert look(database, job.id) == job


# --- Upstream ---------------------------------------------------------------------------------------------------------


def _downstream(database: Database, key_id: str, upstream: Job, output: str = "speech", **members: object) -> Job:
    return submitted(database, key_id, input={"job": upstream.id, "output": output}, **members)


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.RUNNING])
def test_a_job_waits_for_its_upstream(database: Database, state: State) -> None:
    key_id = new_key(database)
    upstream = brought(database, key_id, state)
    job = _downstream(database, key_id, upstream)
    assert (job.upstream, job.reason) == (upstream.id, Reason.UPSTREAM)
    with database.write() as tx:
        queueing.fill(tx, "cpu", 100, LEASE)
    assert look(database, job.id).state is State.WAITING


def test_a_succeeded_upstream_is_not_waited_for(database: Database) -> None:
    key_id = new_key(database)
    upstream = brought(database, key_id, State.SUCCEEDED)
    job = _downstream(database, key_id, upstream)
    assert (job.upstream, job.reason) == (None, Reason.SUBMITTED)


def test_a_succeeded_upstream_without_that_output_is_refused(database: Database) -> None:
    key_id = new_key(database)
    upstream = brought(database, key_id, State.SUCCEEDED)
    error = _refused("input_missing", lambda: _downstream(database, key_id, upstream, "drums"))
    assert error.pointer == "/input/output"
    assert "speech" in error.hint


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_an_upstream_that_ended_badly_is_refused(database: Database, state: State) -> None:
    key_id = new_key(database)
    upstream = brought(database, key_id, state)
    _refused("upstream_failed", lambda: _downstream(database, key_id, upstream))


def test_another_keys_job_is_no_upstream(database: Database) -> None:
    """The answer is the same as for a job that does not exist."""
    theirs = brought(database, new_key(database), State.SUCCEEDED)
    mine = new_key(database)
    error = _refused("input_missing", lambda: _downstream(database, mine, theirs))
    missing = _refused("input_missing", lambda: submitted(database, mine, input={"job": "job_x", "output": "speech"}))
    assert error.detail.replace(theirs.id, "job_x") == missing.detail


# --- Again ------------------------------------------------------------------------------------------------------------


def test_resubmit_starts_afresh_but_keeps_blocks_and_attempt(database: Database) -> None:
    key_id = new_key(database)
    job = claimed(database, submitted(database, key_id, "once", deadline="2100-01-01T00:00:00Z").id)
    checkpointed(database, job)
    with database.write() as tx:
        finish.retry(tx, job.lease, ERROR, 0.0, max_attempts=4)
    job = claimed(database, job.id)
    with database.write() as tx:
        finish.fail(tx, job.lease, ERROR)
        blocks = snapshot(tx).blocks
    with database.write() as tx:
        again = submit.resubmit(tx, job.id, default_quota=QUOTA)
        assert snapshot(tx).blocks == blocks != frozenset()
    assert again.id == job.id
    assert (again.failures, again.crashes, again.error, again.deadline) == (0, 0, None, None)
    assert again.attempt == job.attempt == 2
    assert _submit(database, key_id, "once", deadline="2100-01-01T00:00:00Z").job.id == job.id


def test_resubmit_counts_against_the_quota(database: Database) -> None:
    key_id = new_key(database, max_waiting=1)
    job = brought(database, key_id, State.FAILED)
    submitted(database, key_id)

    def again() -> None:
        with database.write() as tx:
            submit.resubmit(tx, job.id, default_quota=QUOTA)

    _refused("quota_exceeded", again)
    assert look(database, job.id) == job


def test_resubmit_looks_at_its_upstream_again(database: Database) -> None:
    key_id = new_key(database)
    upstream = claimed(database, submitted(database, key_id).id)
    job = _downstream(database, key_id, upstream)
    with database.write() as tx:
        finish.fail(tx, upstream.lease, ERROR)

    def again(job_id: str) -> Job:
        with database.write() as tx:
            return submit.resubmit(tx, job_id, default_quota=QUOTA)

    _refused("upstream_failed", lambda: again(job.id))
    again(upstream.id)
    assert again(job.id).upstream == upstream.id
    upstream = claimed(database, upstream.id)
    with database.write() as tx:
        finish.succeed(tx, upstream.lease, result())
    waiting = look(database, job.id)
    assert (waiting.state, waiting.upstream) == (State.WAITING, None)
    queue_up(database, job.id)


def test_a_job_cancelled_while_running_may_run_again(database: Database) -> None:
    """The wish to stop ends with the run it was for."""
    key_id = new_key(database)
    job = brought(database, key_id, State.CANCELLED)
    assert job.cancel_requested
    with database.write() as tx:
        assert not submit.resubmit(tx, job.id, default_quota=QUOTA).cancel_requested
    job = claimed(database, job.id)
    with database.write() as tx:
        assert finish.succeed(tx, job.lease, result()).state is State.SUCCEEDED
