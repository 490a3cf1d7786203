"""The processes that are there: registering, being seen, being told what to do."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from common.db import processes
from common.db.engine import Database
from common.db.processes import Process
from common.db.tables import processes as rows
from tests.jobs import LEASE, claimed, new_key, submitted


def _only(database: Database) -> Process:
    with database.read() as tx:
        (process,) = processes.list_all(tx, LEASE)
    return process


def _register(database: Database, name: str = "w1", role: str = "worker", lanes: tuple[str, ...] = ("cpu",)) -> None:
    with database.write() as tx:
        processes.register(tx, name, role, lanes=lanes, info={"device": "cpu"})


def test_a_process_registers_and_is_seen(database: Database) -> None:
    _register(database, lanes=("gpu", "cpu"))
    process = _only(database)
    assert (process.name, process.role, process.lanes, process.control) == ("w1", "worker", ("cpu", "gpu"), "run")
    assert (process.alive, process.job_ids, process.info) == (True, (), {"device": "cpu"})
    with database.write() as tx:
        tx.execute(update(rows).values(seen_at=tx.now(-LEASE - 1)))
    assert not _only(database).alive
    with database.write() as tx:
        assert processes.seen(tx, "w1", {"device": "other"}) == "run"
        assert processes.seen(tx, "nobody") is None
    assert _only(database).alive
    assert _only(database).info == {"device": "other"}


def test_what_it_runs_is_shown(database: Database) -> None:
    _register(database)
    job = claimed(database, submitted(database, new_key(database)).id, "w1")
    assert _only(database).job_ids == (job.id,)


@pytest.mark.parametrize(("control", "after"), [("run", "run"), ("pause", "pause"), ("drain", "run")])
def test_what_a_successor_inherits(database: Database, control: str, after: str) -> None:
    """A drain was for the process that ended by it; a pause and a quarantine are for the worker."""
    _register(database)
    with database.write() as tx:
        assert processes.order(tx, "w1", control)
        tx.execute(update(rows).values(quarantined_until=tx.now(60.0), crashed_jobs=["job_a"]))
        assert processes.seen(tx, "w1") == control
    _register(database)
    process = _only(database)
    assert (process.control, process.crashed_jobs) == (after, ("job_a",))
    assert process.quarantined_until is not None


def test_run_ends_a_quarantine(database: Database) -> None:
    _register(database)
    with database.write() as tx:
        tx.execute(update(rows).values(quarantined_until=tx.now(60.0), crashed_jobs=["job_a"]))
        assert processes.takers(tx, LEASE) == {}
        processes.order(tx, "w1", "run")
        assert processes.takers(tx, LEASE) == {"w1": frozenset({"cpu"})}
    assert (_only(database).quarantined_until, _only(database).crashed_jobs) == (None, ())


def test_only_workers_take_orders(database: Database) -> None:
    _register(database, "s1", "scheduler", ())
    with database.write() as tx:
        assert not processes.order(tx, "s1", "pause")
        assert not processes.order(tx, "nobody", "pause")
        assert processes.takers(tx, LEASE) == {}


@pytest.mark.parametrize(("control", "stays"), [("run", False), ("drain", False), ("pause", True)])
def test_a_process_that_ends_takes_its_row_along_unless_paused(
    database: Database, control: str, stays: bool
) -> None:  # fmt: skip
    _register(database)
    with database.write() as tx:
        processes.order(tx, "w1", control)
        processes.gone(tx, "w1")
        assert bool(processes.list_all(tx, LEASE)) == stays


def test_roles_are_listed_apart(database: Database) -> None:
    _register(database, "w1", "worker")
    _register(database, "d1", "deliverer", ())
    with database.read() as tx:
        assert [process.name for process in processes.list_all(tx, LEASE, "deliverer")] == ["d1"]
        assert len(processes.list_all(tx, LEASE)) == 2
