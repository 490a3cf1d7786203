"""Every verb from every state: exactly the transition of the table, with all that belongs to it, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update

from common.db.engine import Database, Tx
from common.db.tables import callbacks, jobs
from common.errors import NightshiftError
from common.jobs import claiming, finish, queueing, running, submit, sweep
from common.jobs.job import Job, Lease, LeaseLost
from common.states import TABLE, TERMINAL, Reason, State, Transition, Verb
from tests.jobs import ERROR, LEASE, LONG_AGO, QUOTA, RECEIVER, brought, look, new_key, result, snapshot

W, Q, R, S, F, C, E = State


def _lease(job: Job) -> Lease:
    """The lease of the job's last attempt, whether it still runs or not."""
    return Lease(job.id, max(job.attempt, 1), job.worker or "w1")


def _release(tx: Tx, job: Job) -> Any:
    return queueing.fill(tx, "cpu", 10, LEASE)


def _claim(tx: Tx, job: Job) -> Any:
    return claiming.claim(tx, "w2", ["cpu"], LEASE, job_id=job.id)


def _checkpoint(tx: Tx, job: Job) -> Any:
    return running.checkpoint(tx, _lease(job), LEASE, "print", 0, 4, {"speech": "blocks/0"})


def _renew(tx: Tx, job: Job) -> Any:
    return running.renew(tx, _lease(job), LEASE, {"phase": "separating"})


def _succeed(tx: Tx, job: Job) -> Any:
    return finish.succeed(tx, _lease(job), result())


def _yield(tx: Tx, job: Job) -> Any:
    return running.give_back(tx, _lease(job), Reason.PREEMPTED)


def _retry(tx: Tx, job: Job) -> Any:
    return finish.retry(tx, _lease(job), ERROR, 5.0, max_attempts=3)


def _retry_the_last_time(tx: Tx, job: Job) -> Any:
    return finish.retry(tx, _lease(job), ERROR, 5.0, max_attempts=1)


def _fail(tx: Tx, job: Job) -> Any:
    return finish.fail(tx, _lease(job), ERROR)


def _late(tx: Tx, job: Job) -> None:
    tx.execute(update(jobs).where(jobs.c.id == job.id, jobs.c.state == R).values(lease_until=LONG_AGO))


def _rescue(tx: Tx, job: Job) -> Any:
    return sweep.rescue(tx, job.id, max_crashes=3)


def _rescue_poison(tx: Tx, job: Job) -> Any:
    return sweep.rescue(tx, job.id, max_crashes=1)


def _cancel(tx: Tx, job: Job) -> Any:
    return finish.cancel(tx, job.id)


def _asked_to_stop(tx: Tx, job: Job) -> None:
    tx.execute(update(jobs).where(jobs.c.id == job.id, jobs.c.state == R).values(cancel_requested=True))


def _cancelled(tx: Tx, job: Job) -> Any:
    return finish.cancelled(tx, _lease(job))


def _overdue(tx: Tx, job: Job) -> None:
    tx.execute(update(jobs).where(jobs.c.id == job.id).values(deadline=LONG_AGO))


def _expire(tx: Tx, job: Job) -> Any:
    return finish.expire(tx)


def _resubmit(tx: Tx, job: Job) -> Any:
    return submit.resubmit(tx, job.id, default_quota=QUOTA)


Step = Callable[[Tx, Job], Any]
# What is done: first `before` (no verb: it sets the scene), then the verb; what it makes of which states, and why.
CASES: dict[str, tuple[Verb, Step | None, Step, dict[State, tuple[State, Reason]]]] = {
    "release": (Verb.RELEASE, None, _release, {W: (Q, Reason.RELEASED)}),
    "claim": (Verb.CLAIM, None, _claim, {Q: (R, Reason.CLAIMED)}),
    "checkpoint": (Verb.CHECKPOINT, None, _checkpoint, {R: (R, Reason.CLAIMED)}),
    "renew": (Verb.CHECKPOINT, None, _renew, {R: (R, Reason.CLAIMED)}),
    "succeed": (Verb.SUCCEED, None, _succeed, {R: (S, Reason.DONE)}),
    "yield": (Verb.YIELD, None, _yield, {R: (W, Reason.PREEMPTED)}),
    "retry": (Verb.RETRY, None, _retry, {R: (W, Reason.BACKOFF)}),
    "retry the last time": (Verb.FAIL, None, _retry_the_last_time, {R: (F, Reason.ATTEMPTS_EXHAUSTED)}),
    "retry when asked to stop": (Verb.CANCEL, _asked_to_stop, _retry, {R: (C, Reason.BY_CALLER)}),
    "fail": (Verb.FAIL, None, _fail, {R: (F, Reason.ERROR)}),
    "rescue": (Verb.RESCUE, _late, _rescue, {R: (W, Reason.LEASE_EXPIRED)}),
    "rescue of a poisonous job": (Verb.RESCUE, _late, _rescue_poison, {R: (F, Reason.CRASHED)}),
    "rescue of a live lease": (Verb.RESCUE, None, _rescue, {}),
    "cancel": (Verb.CANCEL, None, _cancel, {W: (C, Reason.BY_CALLER), Q: (C, Reason.BY_CALLER)}),
    "cancelled": (Verb.CANCEL, _asked_to_stop, _cancelled, {R: (C, Reason.BY_CALLER)}),
    "cancelled without being asked": (Verb.CANCEL, None, _cancelled, {}),
    "succeed when asked to stop": (Verb.SUCCEED, _asked_to_stop, _succeed, {}),
    "yield when asked to stop": (Verb.YIELD, _asked_to_stop, _yield, {}),
    "expire": (Verb.EXPIRE, _overdue, _expire, {W: (E, Reason.DEADLINE), Q: (E, Reason.DEADLINE)}),
    "expire before the deadline": (Verb.EXPIRE, None, _expire, {}),
    "resubmit": (Verb.RESUBMIT, None, _resubmit, dict.fromkeys((F, C, E), (W, Reason.RESUBMITTED))),
}  # fmt: skip


def test_the_cases_cover_the_table() -> None:
    covered = {Transition(source, verb, to) for verb, _, _, made in CASES.values() for source, (to, _) in made.items()}
    elsewhere = {
        Transition(None, Verb.SUBMIT, W),  # test_jobs_submit
        Transition(Q, Verb.RECALL, W),  # test_jobs_batches: the jobs of a batch that closed
        Transition(W, Verb.FAIL, F),  # test_jobs_finish: what waited for a job that failed
    }
    assert covered == TABLE - elsewhere


@pytest.mark.parametrize("name", CASES)
def test_verb_from_every_state(database: Database, name: str) -> None:
    verb, scene, step, made = CASES[name]
    for state in State:
        job = brought(database, new_key(database), state)
        if scene is not None:
            with database.write() as tx:
                scene(tx, job)
        _check_one(database, look(database, job.id), verb, step, made.get(state))
        with database.write() as tx:  # leave nothing that the next round could release or expire
            tx.execute(update(jobs).where(jobs.c.id == job.id).values(deadline=None))
            finish.cancel(tx, job.id)


def _check_one(
    database: Database, before: Job, verb: Verb, step: Step, expected: tuple[State, Reason] | None
) -> None:  # fmt: skip
    with database.read() as tx:
        was = snapshot(tx)
    try:
        with database.write() as tx:
            step(tx, before)
    except (LeaseLost, NightshiftError):
        assert expected is None
    with database.read() as tx:
        now = snapshot(tx)
    after = look(database, before.id)
    others = now.jobs.keys() - {before.id}
    assert all(now.jobs[job_id] == was.jobs[job_id] for job_id in others)
    if expected is None:
        if verb is Verb.CANCEL and before.state is R and not before.cancel_requested and after.cancel_requested:
            # A cancel of a running job flags it and touches nothing else.
            assert replace(after, cancel_requested=False, updated_at=before.updated_at) == before
            assert replace(now, jobs=was.jobs) == was
        else:
            assert now == was
        return
    target, reason = expected
    assert (after.state, after.reason) == expected
    told, sent = now.events[before.id], now.callbacks[before.id]
    if target is before.state:
        assert told == was.events[before.id]
    else:
        assert told[:-1] == was.events[before.id]
        assert (told[-1]["state"], told[-1]["reason"], told[-1]["attempt"]) == (target, reason, after.attempt)
    assert sent == was.callbacks[before.id] + ([f"job.{target}"] if target in TERMINAL else [])
    assert (after.lease_until is not None) == (after.worker is not None) == (target is R)
    assert (after.finished_at is not None) == (target in TERMINAL)
    assert after.attempt == before.attempt + (verb is Verb.CLAIM)
    assert (after.result is not None) == (target is S)
    assert after.updated_at >= before.updated_at
    if target is R:
        assert after.lease_until is not None
        with database.read() as tx:
            ahead = (after.lease_until - tx.instant()).total_seconds()
        assert LEASE - 10 < ahead <= LEASE
    if target is F:
        assert after.error is not None
        assert after.error["code"] and after.error["message"]


FENCED: dict[str, Step] = {
    "checkpoint": _checkpoint, "renew": _renew, "succeed": _succeed, "yield": _yield, "retry": _retry,
    "retry the last time": _retry_the_last_time, "fail": _fail, "cancelled": _cancelled,
}  # fmt: skip


@pytest.mark.parametrize("name", FENCED)
@pytest.mark.parametrize("flagged", [False, True], ids=["", "asked to stop"])
def test_an_old_lease_changes_nothing(database: Database, name: str, flagged: bool) -> None:
    """The job runs again, under the next attempt: nothing that names the first one reaches it."""
    first = brought(database, new_key(database), R)
    with database.write() as tx:
        _late(tx, first)
        sweep.rescue(tx, first.id, max_crashes=3)
        queueing.fill(tx, "cpu", 10, LEASE)
        second = claiming.claim(tx, first.worker or "", ["cpu"], LEASE)
        assert second is not None
        assert (second.id, second.attempt) == (first.id, first.attempt + 1)
        if flagged:
            _asked_to_stop(tx, second)
    with database.read() as tx:
        was = snapshot(tx)
        assert not running.orders(tx, first.lease, "w1", ["cpu"], LEASE).held
    with pytest.raises(LeaseLost), database.write() as tx:
        FENCED[name](tx, first)
    with database.read() as tx:
        assert snapshot(tx) == was


def test_a_job_that_is_not_there(database: Database) -> None:
    nobody = Lease("job_none", 1, "w1")
    with database.write() as tx:
        assert finish.cancel(tx, nobody.job_id) is None
        assert sweep.rescue(tx, nobody.job_id, max_crashes=3) is None
        assert claiming.claim(tx, "w1", ["cpu"], LEASE, job_id=nobody.job_id) is None
        with pytest.raises(NightshiftError) as caught:
            submit.resubmit(tx, nobody.job_id, default_quota=QUOTA)
    assert caught.value.code == "not_found"
    for verb in (finish.cancelled, lambda tx, lease: finish.succeed(tx, lease, result())):
        with pytest.raises(LeaseLost), database.write() as tx:
            verb(tx, nobody)


def test_no_callback_where_none_is_asked_for(database: Database) -> None:
    for state in (S, F, C, E):
        job = brought(database, new_key(database), state, callback=None)
        with database.read() as tx:
            assert snapshot(tx).callbacks[job.id] == []


def test_each_end_has_its_own_callback(database: Database) -> None:
    """A job that fails, is retried by its caller and succeeds ends twice: two messages, each sent to its address."""
    job = brought(database, new_key(database), F)
    with database.write() as tx:
        submit.resubmit(tx, job.id, default_quota=QUOTA)
        queueing.fill(tx, "cpu", 10, LEASE)
        again = claiming.claim(tx, "w1", ["cpu"], LEASE)
        assert again is not None
        finish.succeed(tx, again.lease, result())
        assert snapshot(tx).callbacks[job.id] == ["job.failed", "job.succeeded"]
        assert tx.execute(select(func.count()).where(callbacks.c.url == RECEIVER)).scalar_one() == 2
