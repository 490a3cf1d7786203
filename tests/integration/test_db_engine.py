"""Connections to PostgreSQL: which are asked whether they live, and what becomes of those that do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from common.db import engine
from common.db.engine import Database, transient
from tests.servers.postgres import PrivatePostgres


@pytest.fixture
def opened(private_postgres: PrivatePostgres) -> Iterator[Database]:
    database = Database(private_postgres.url, pool_size=2)
    yield database
    database.dispose()


def one(database: Database) -> int:
    with database.write() as tx:
        return int(tx.execute(text("SELECT 1")).scalar_one())


def test_a_restart_is_noticed_before_a_rested_connection_is_used(
    opened: Database, private_postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TRUSTED_SECONDS", 0.0)
    with opened.read() as first, opened.read() as second:  # both connections of the pool
        assert first.instant() <= second.instant()
    private_postgres.restart()
    assert one(opened) == 1
    assert one(opened) == 1


def test_a_connection_cut_just_now_fails_once_and_as_something_to_try_again(
    opened: Database, private_postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TRUSTED_SECONDS", 3600.0)
    assert one(opened) == 1
    private_postgres.restart()
    with pytest.raises(OperationalError) as failed:
        one(opened)
    assert transient(failed.value)
    assert one(opened) == 1


def test_only_a_rested_connection_is_asked(opened: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    ping = opened.engine.dialect.do_ping
    monkeypatch.setattr(opened.engine.dialect, "do_ping", lambda connection: asked.append(1) or ping(connection))
    monkeypatch.setattr(engine, "_TRUSTED_SECONDS", 3600.0)
    one(opened), one(opened)
    assert not asked
    monkeypatch.setattr(engine, "_TRUSTED_SECONDS", 0.0)
    one(opened), one(opened)
    assert len(asked) == 2


def test_reading_leaves_no_transaction_open_and_writing_rolls_back(opened: Database) -> None:
    state = text("SELECT pg_current_xact_id_if_assigned() IS NULL, now() = statement_timestamp()")
    with opened.read() as tx:
        tx.execute(text("SELECT pg_sleep(0.01)"))
        assert tuple(tx.execute(state).one()) == (True, True)
    with pytest.raises(ZeroDivisionError), opened.write() as tx:
        tx.execute(text("CREATE TABLE made (n int)"))
        raise ZeroDivisionError
    with opened.read() as tx:
        assert tx.execute(text("SELECT to_regclass('made')")).scalar_one() is None
