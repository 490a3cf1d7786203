"""The machine of `tests.job_machine` finds nothing in the verbs, and finds every mutant of them, or it would prove
nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase
from sqlalchemy.exc import IntegrityError

from common.db.engine import Database
from common.jobs import batches, callbacks, claiming, finish, queueing, running, submit, sweep, tally
from tests.job_machine import walk


def test_no_interleaving_breaks_a_job(database: Database) -> None:
    walk(database, examples=10, steps=50)


# --- Mutants that it must find ----------------------------------------------------------------------------------------


@contextmanager
def _mutants(module: ModuleType, functions: str, changes: Sequence[tuple[str, str]]) -> Iterator[None]:
    """These functions, each with those of the changes that it holds; with one function, all."""
    with ExitStack() as changed:
        for function in functions.split():
            source = inspect.getsource(getattr(module, function))
            own = [(old, new) for old, new in changes if old in source or " " not in functions]
            changed.enter_context(_mutant(module, function, *own))
            changes = [change for change in changes if change not in own]
        assert not changes, f"{functions} hold no {changes}: the mutant would be the original"
        yield


@contextmanager
def _mutant(module: ModuleType, function: str, *changes: tuple[str, str]) -> Iterator[None]:
    """The function with changed text, wherever a module holds it by that name."""
    original = getattr(module, function)
    source = inspect.getsource(original)
    for old, new in changes:
        assert source.count(old) >= 1, f"{function} no longer holds {old!r}: the mutant would be the original"
        source = source.replace(old, new)
    made: dict[str, Any] = {}
    exec(compile(source, f"<mutant of {function}>", "exec"), module.__dict__, made)
    places = [
        m
        for m in (batches, callbacks, claiming, finish, queueing, running, submit, sweep, tally)
        if getattr(m, function, None) is original
    ]
    for place in places:
        setattr(place, function, made[function])
    try:
        yield
    finally:
        for place in places:
            setattr(place, function, original)


class Mutant(NamedTuple):
    """Functions with changed text, and the rules that matter for them: with all rules a walk takes minutes to meet
    the one sequence that shows it."""

    module: ModuleType
    functions: str
    changes: tuple[tuple[str, str], ...]
    rules: str


ZOMBIE = "a_job_that_starts_at_once time_passes rescue release claim "
STOPPED = "a_job_that_starts_at_once cancel "
MUTANTS: dict[str, Mutant] = {
    "the fence forgets the attempt": Mutant(
        running, "held", (("jobs.c.attempt == lease.attempt, ", ""),), ZOMBIE + "renew succeed"
    ),
    "the fence forgets the state": Mutant(
        running, "held", ((", jobs.c.state == State.RUNNING", ""),), STOPPED + "fail renew"
    ),
    "succeed without the fence": Mutant(
        finish, "succeed",
        ((".where(held(lease), jobs.c.cancel_requested.is_(False))", ".where(jobs.c.id == lease.job_id)"),),
        ZOMBIE + "succeed",
    ),
    "succeed in spite of a cancel": Mutant(
        finish, "succeed", ((", jobs.c.cancel_requested.is_(False)", ""),), STOPPED + "succeed"
    ),
    "yield in spite of a cancel": Mutant(
        running, "give_back", ((", jobs.c.cancel_requested.is_(False)", ""),), STOPPED + "give_back"
    ),
    "retry in spite of a cancel": Mutant(
        finish, "retry", (("if row.cancel_requested:", "if False:"),), STOPPED + "retry"
    ),
    "rescue in spite of a cancel": Mutant(
        sweep, "rescue", (("if job.cancel_requested:", "if False:"),), STOPPED + "time_passes rescue"
    ),
    "a cancel that is not kept": Mutant(
        finish, "cancel", (("values(cancel_requested=True, ", "values("),), STOPPED + "retry give_back"
    ),
    "claim whatever the state": Mutant(
        claiming, "_fitting _claimed",
        (
            ("jobs.c.state == State.QUEUED, ", ""),
            ("jobs.c.state.in_(sources(Verb.CLAIM))", "jobs.c.finished_at.is_(None)"),
        ),
        "submit claim",
    ),
    "claim without a new attempt": Mutant(
        claiming, "_claimed", (("attempt=jobs.c.attempt + 1", "attempt=jobs.c.attempt"),), ZOMBIE
    ),
    "rescue of a live lease": Mutant(
        sweep, "rescue", ((", jobs.c.lease_until < tx.now()", ""),), "a_job_that_starts_at_once rescue_a_living_one"
    ),
    "retry starts counting again": Mutant(
        finish, "retry", (("state=State.WAITING,", "state=State.WAITING, attempt=0,"),), ZOMBIE + "retry"
    ),
    "an end without its callback": Mutant(
        finish, "ended", (("callbacks.enqueue(tx, over)", "pass"),), ZOMBIE + "succeed cancel"
    ),
    "an end of many without their callbacks": Mutant(
        callbacks, "_whole", (("if brief:", "if False:"),), "batch steer cancel_some"
    ),
    "an end that tells twice": Mutant(
        finish, "ended", (("events.changed(tx, *over)", "callbacks.enqueue(tx, over)"),), ZOMBIE + "succeed cancel"
    ),
    "downstream waits for ever": Mutant(finish, "ended", (("_fail_downstream(tx, job)", "pass"),), "submit cancel"),
    "downstream goes before": Mutant(
        submit, "submit", (('"upstream": upstream,', '"upstream": None,'),), "submit release"
    ),
    "success wakes nobody": Mutant(
        finish, "succeed", (("upstream=None, ", ""),), "submit a_job_that_starts_at_once succeed"
    ),
    "of two upstreams one is waited for": Mutant(
        finish, "succeed", (("_wait_on(tx, Job.from_row(downstream))", "pass"),),
        "submit_for_two a_job_that_starts_at_once submit succeed release",
    ),
    "failure throws finished blocks away": Mutant(
        finish, "fail", (("    ended(tx, job)", "    tx.execute(delete(blocks))\n    ended(tx, job)"),),
        ZOMBIE + "checkpoint fail",
    ),
    "resubmit of what has succeeded": Mutant(
        submit, "resubmit",
        (
            ("old.state not in sources(Verb.RESUBMIT)", "not old.terminal"),
            ("jobs.c.state.in_(sources(Verb.RESUBMIT))", "jobs.c.finished_at.is_not(None)"),
            ("**_anew(tx)", "**_anew(tx), result=None, result_attempt=None"),
        ),
        "a_job_that_starts_at_once succeed resubmit",
    ),
    "expire of a running job": Mutant(
        finish, "expire",
        (
            ("jobs.c.started_at.is_(None)", "jobs.c.finished_at.is_(None)"),
            ("jobs.c.state.in_(sources(Verb.EXPIRE))", "jobs.c.finished_at.is_(None)"),
            ("state=State.EXPIRED,", "state=State.EXPIRED, **_STOPPED,"),
        ),
        "a_job_that_starts_at_once time_passes expire",
    ),
    "prune of what still runs": Mutant(
        sweep, "remove_many", ((", jobs.c.finished_at.is_not(None)", ""),), "a_job_that_starts_at_once prune_by_hand"
    ),
    "a result that is not counted": Mutant(finish, "succeed", (("bytes=job.stored_bytes, ", ""),), ZOMBIE + "succeed"),
    "a result that is counted when it is gone": Mutant(
        sweep, "remove_many", (("usage.removed(tx, ", "(lambda *_: None)(tx, "),),
        "a_job_that_starts_at_once succeed prune_by_hand",
    ),
    "prune before its time": Mutant(
        sweep, "prune", (("jobs.c.finished_at < tx.now(-retention_seconds)", "jobs.c.finished_at < tx.now(1.0)"),),
        "submit cancel prune",
    ),
    "an idempotency key forgotten at once": Mutant(
        submit, "_earlier", (("jobs.c.idempotency_key == idempotency_key", "jobs.c.id == ''"),), "submit"
    ),
    "release from a batch that is closed": Mutant(
        queueing, "_waiting", ((".where(gate.is_open(tx))", ""),), "batch steer release"
    ),
    "an end that its batch does not count": Mutant(
        finish, "ended", (("tally.ended(tx, over)", "pass"),), "batch cancel"
    ),
    "a retry that its batch does not count": Mutant(
        submit, "resubmit", (("tally.again(tx, [old])", "pass"),), "batch cancel resubmit"
    ),
    "a batch that ends before its jobs": Mutant(
        tally, "settle", ((", batches.c.total == _ENDED", ""),), "batch cancel"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_finds(sqlite_database: Database, name: str) -> None:
    mutant = MUTANTS[name]
    rules = frozenset(mutant.rules.split())
    with _mutants(mutant.module, mutant.functions, mutant.changes), pytest.raises(Exception) as caught:
        walk(sqlite_database, examples=1000, steps=30, phases=(Phase.generate,), rules=rules)
    assert isinstance(caught.value, AssertionError | IntegrityError), "the mutant does not even run"


def test_a_mutant_of_text_that_is_gone_is_no_mutant() -> None:
    with pytest.raises(AssertionError, match="no longer holds"), _mutant(running, "held", ("no such text", "")):
        pass
