"""API keys: the token is shown once, found by its hash alone, and ends when revoked."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from common.db import keys
from common.db.engine import Database
from common.db.keys import Scope
from common.db.tables import keys as key_rows
from common.jobs import finish, submit
from common.states import State
from tests.jobs import QUOTA, brought, request


def test_a_token_stands_for_its_key_and_is_not_stored(database: Database) -> None:
    with database.write() as tx:
        key, token = keys.create(tx, "laptop", [Scope.WRITE, Scope.READ], max_waiting=7, weight=2.5)
        other, other_token = keys.create(tx, "phone", [Scope.READ])
        assert keys.by_token(tx, token) == key
        assert keys.by_token(tx, other_token) == other
        stored = [dict(row._mapping) for row in tx.execute(select(key_rows))]
    assert token.startswith("ns_")
    assert token != other_token
    assert token not in repr(stored)
    assert token.removeprefix("ns_") not in repr(stored)
    assert (key.scopes, key.max_waiting, key.weight) == ({Scope.READ, Scope.WRITE}, 7, 2.5)


@pytest.mark.parametrize("token", ["", "ns_", "ns_wrong", "nul\0", "' OR 1=1 --", "ü" * 5000])
def test_no_other_token_is_any_key(database: Database, token: str) -> None:
    with database.write() as tx:
        keys.create(tx, "laptop", [Scope.READ])
        assert keys.by_token(tx, token) is None


def test_a_stored_hash_is_no_token(database: Database) -> None:
    with database.write() as tx:
        keys.create(tx, "laptop", [Scope.READ])
        assert keys.by_token(tx, tx.execute(select(key_rows.c.hash)).scalar_one()) is None


def test_a_revoked_key_ends_and_its_jobs_go_on(database: Database) -> None:
    with database.write() as tx:
        key, token = keys.create(tx, "laptop", [Scope.WRITE])
    job = brought(database, key.id, State.RUNNING)
    with database.write() as tx:
        revoked = keys.revoke(tx, key.id)
        assert revoked is not None
        assert revoked.revoked_at is not None
        assert keys.by_token(tx, token) is None
        assert keys.revoke(tx, key.id) == revoked
        assert keys.revoke(tx, "key_none") is None
        assert [row.id for row in keys.list_all(tx)] == [key.id]
    with database.write() as tx:
        assert finish.cancel(tx, job.id) is not None


def test_use_is_noted_once_a_minute(database: Database) -> None:
    with database.write() as tx:
        key, token = keys.create(tx, "laptop", [Scope.READ])
        assert key.used_at is None
        keys.used(tx, key.id)
        first = keys.by_token(tx, token)
        assert first is not None
        assert first.used_at is not None
        keys.used(tx, key.id)
        assert keys.by_token(tx, token) == first
        tx.execute(update(key_rows).values(used_at=tx.now(-61.0)))
        keys.used(tx, key.id)
        later = keys.by_token(tx, token)
        assert later is not None
        assert later.used_at is not None
        assert (later.used_at - first.used_at).total_seconds() >= 0


def test_a_key_without_weight_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError, match="weight_positive"), database.write() as tx:
        keys.create(tx, "laptop", [Scope.READ], weight=0.0)


def test_a_job_of_no_key_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as tx:
        submit.submit(tx, "key_none", request(), default_quota=QUOTA)
