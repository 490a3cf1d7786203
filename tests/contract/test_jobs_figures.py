"""The figures for whoever watches: what ended, what was lost, and how the callbacks stand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, update

from common.db.engine import Database
from common.db.tables import callback_endpoints, callbacks
from common.db.tables import jobs as table
from common.jobs import figures, finish, sweep
from common.states import State
from tests.jobs import LONG_AGO, brought, claimed, lose_lease, new_key, result, submitted


def test_endings_by_lane_state_and_reason(database: Database) -> None:
    key = new_key(database)
    for state in (State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.RUNNING, State.WAITING):
        brought(database, key, state)
    taken = claimed(database, submitted(database, key).id)
    cached = {"job": "job_1", "finished_at": "2026-01-01T00:00:00Z"}
    database.run(finish.succeed, taken.lease, result(cached=cached))
    old = brought(database, key, State.SUCCEEDED)
    with database.write() as tx:
        tx.execute(update(table).where(table.c.id == old.id).values(finished_at=LONG_AGO))
    with database.read() as tx:
        assert figures.ended(tx, 3600) == {
            ("cpu", "succeeded", "done"): 2,
            ("cpu", "succeeded", "taken_from_cache"): 1,
            ("cpu", "failed", "error"): 1,
            ("cpu", "cancelled", "cancelled_by_caller"): 1,
        }


def test_lost_leases_of_the_unfinished_and_the_recent(database: Database) -> None:
    key = new_key(database)
    rescued, settled = submitted(database, key), submitted(database, key)
    for job in (rescued, settled):
        claimed(database, job.id)
        lose_lease(database, job.id)
        with database.write() as tx:
            assert sweep.rescue(tx, job.id, max_crashes=3) is not None
    with database.read() as tx:
        assert figures.lost_leases(tx, 3600) == {"cpu": 2}
    brought(database, key, State.SUCCEEDED)
    with database.write() as tx:
        tx.execute(
            update(table)
            .where(table.c.id == settled.id)
            .values(state="cancelled", reason="cancelled_by_caller", finished_at=LONG_AGO)
        )
    with database.read() as tx:
        assert figures.lost_leases(tx, 3600) == {"cpu": 1}


def test_outbox_of_a_service_that_never_called(database: Database) -> None:
    with database.read() as tx:
        assert figures.outbox(tx) == figures.Outbox(0, 0, 0.0, 0, 0)


def test_outbox(database: Database) -> None:
    key = new_key(database)
    jobs = [brought(database, key, State.SUCCEEDED) for _ in range(4)]
    with database.write() as tx:
        states = (
            {"next_at": tx.now(-90.0), "tries": 3},
            {"next_at": tx.now(3600.0), "tries": 1},
            {"next_at": tx.now(3600.0)},
            {"state": "delivered", "next_at": None, "tries": 1},
        )
        for job, values in zip(jobs, states, strict=True):
            assert tx.execute(update(callbacks).where(callbacks.c.job_id == job.id).values(**values)).rowcount == 1
        for url, failing, disabled in (
            ("https://a.example", None, None),
            ("https://b.example", datetime.now(UTC), None),
            ("https://c.example", LONG_AGO, datetime.now(UTC)),
        ):
            tx.execute(
                insert(callback_endpoints).values(key_id=key, url=url, failing_since=failing, disabled_at=disabled)
            )
    with database.read() as tx:
        found = figures.outbox(tx)
    assert (found.pending, found.retrying, found.failing, found.disabled) == (3, 2, 1, 1)
    assert found.late_seconds == pytest.approx(90, abs=30)


def test_a_message_that_is_not_yet_due_is_not_late(database: Database) -> None:
    job = brought(database, new_key(database), State.SUCCEEDED)
    with database.write() as tx:
        tx.execute(update(callbacks).where(callbacks.c.job_id == job.id).values(next_at=tx.now(60.0)))
    with database.read() as tx:
        found = figures.outbox(tx)
    assert found.pending == 1 and found.late_seconds == 0.0
