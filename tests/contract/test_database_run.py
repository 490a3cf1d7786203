"""Transactions: committed whole or not at all, run again through what passes, and through nothing else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from tenacity import stop_after_delay

from common.db import engine, keys, migrate
from common.db.engine import Database, SimulatedClock, Tx, transient
from common.db.tables import keys as key_rows
from common.jobs import claiming, running
from tests.jobs import LEASE, claimed, look, new_key, submitted
from tests.servers.postgres import PrivatePostgres


class _Stop(Exception):
    pass


def test_an_exception_undoes_the_transaction(database: Database) -> None:
    with pytest.raises(_Stop), database.write() as tx:
        keys.create(tx, "lost", ["read"])
        raise _Stop
    with database.read() as tx:
        assert keys.list_all(tx) == []


def test_what_is_not_committed_is_not_seen(database: Database) -> None:
    with database.write() as tx:
        keys.create(tx, "young", ["read"])
        with database.read() as other:
            assert keys.list_all(other) == []
    with database.read() as other:
        assert [key.name for key in keys.list_all(other)] == ["young"]


def test_run_does_not_repeat_what_would_fail_again(database: Database) -> None:
    calls: list[int] = []

    def broken(tx: Tx) -> None:
        calls.append(1)
        tx.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises((ProgrammingError, OperationalError)) as caught:
        database.run(broken)
    assert not transient(caught.value)
    assert len(calls) == 1
    with pytest.raises(_Stop):
        database.run(_raise)


def _raise(tx: Tx) -> None:
    raise _Stop


def test_a_violated_constraint_is_not_transient(database: Database) -> None:
    def twice(tx: Tx) -> None:
        for _ in range(2):
            tx.execute(key_rows.insert().values(id="k", name="", hash="h", scopes=[], created_at=tx.now()))

    with pytest.raises(IntegrityError) as caught:
        database.run(twice)
    assert not transient(caught.value)


def test_a_deadlock_is_run_again(postgres_database: Database) -> None:
    database = postgres_database
    with database.write() as tx:
        ids = [keys.create(tx, name, ["read"])[0].id for name in "ab"]
    gate = threading.Barrier(2)
    calls: list[str] = []

    def lock(tx: Tx, first: str, second: str) -> None:
        calls.append(first)
        tx.execute(select(key_rows.c.id).where(key_rows.c.id == first).with_for_update())
        if len(calls) <= 2:
            gate.wait(20)
        tx.execute(select(key_rows.c.id).where(key_rows.c.id == second).with_for_update())

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(database.run, lock, *order) for order in (ids, ids[::-1])]
        for future in both:
            future.result(60)
    assert len(calls) == 3


def test_writers_of_sqlite_take_turns(sqlite_database: Database) -> None:
    """Reads first, writes later: a deferred transaction would fail at once with `database is locked`."""
    database = sqlite_database

    def add(n: int) -> None:
        for _ in range(10):
            with database.write() as tx:
                keys.list_all(tx)
                keys.create(tx, str(n), ["read"])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    with database.read() as tx:
        assert len(keys.list_all(tx)) == 60


def test_a_sqlite_database_survives_power_loss_by_its_settings(sqlite_database: Database) -> None:
    with sqlite_database.read() as tx:
        names = ("journal_mode", "synchronous", "foreign_keys")
        values = {name: tx.execute(text(f"PRAGMA {name}")).scalar() for name in names}
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


# --- Clocks -----------------------------------------------------------------------------------------------------------


def test_the_databases_clock_is_utc_and_goes_on(database: Database) -> None:
    with database.write() as tx:
        first = tx.instant()
        time.sleep(0.02)
        second = tx.instant()
        later = tx.execute(select(tx.now(90.0).label("at"))).scalar_one()
    assert first.tzinfo is UTC
    assert abs((first - datetime.now(UTC)).total_seconds()) < 5
    assert first < second
    assert 89 < (later - second).total_seconds() < 95


def test_instants_come_back_as_they_went(database: Database) -> None:
    with database.write() as tx:
        keys.create(tx, "a", ["read"])
        at = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
        tx.execute(key_rows.update().values(used_at=at.astimezone()))
        read = tx.execute(select(key_rows.c.used_at)).scalar_one()
    assert abs(read - at) <= timedelta(microseconds=1)
    assert read.tzinfo is UTC


def test_a_simulated_clock_decides_about_leases(database: Database) -> None:
    clock = SimulatedClock(datetime(2030, 1, 1, tzinfo=UTC))
    database.clock = clock
    job = claimed(database, submitted(database, new_key(database)).id)
    assert job.lease_until == clock.now + timedelta(seconds=LEASE)
    clock.now += timedelta(seconds=10)
    with database.write() as tx:
        running.renew(tx, job.lease, LEASE)
        assert tx.instant() == clock.now
    assert look(database, job.id).lease_until == clock.now + timedelta(seconds=LEASE)


# --- A server that goes away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_run_waits_for_a_server_that_comes_back(private_postgres: PrivatePostgres, how: str) -> None:
    migrate.upgrade(private_postgres.url)
    database = Database(private_postgres.url)
    try:
        job = claimed(database, submitted(database, new_key(database)).id)
        down = threading.Event()
        calls: list[int] = []

        def renew(tx: Tx) -> Any:
            calls.append(1)
            if not down.is_set():
                getattr(private_postgres, how)()
                down.set()
                threading.Timer(0.5, private_postgres.start).start()
            running.renew(tx, job.lease, LEASE, {"told": True})

        database.run(renew)
        assert len(calls) >= 2
        kept = look(database, job.id)
        assert kept.progress == {"told": True}
        assert kept.attempt == 1
        assert database.run(claiming.claim, "w2", ["cpu"], LEASE) is None
    finally:
        database.dispose()


def test_run_gives_up_on_a_server_that_stays_away(
    private_postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "stop_after_delay", lambda _seconds: stop_after_delay(1.0))
    database = Database(private_postgres.url)
    private_postgres.kill()
    with pytest.raises(DBAPIError) as caught:
        database.run(lambda tx: tx.instant())
    assert transient(caught.value)
    database.dispose()
