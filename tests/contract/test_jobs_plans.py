"""What stays quick behind 200,000 waiting jobs: the plans that the databases choose for what the verbs send."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text, update

from common.db import keys, processes
from common.db.engine import Database, Tx
from common.db.tables import jobs
from common.db.tables import transfers as rows
from common.jobs import (
    batch_query,
    batches,
    claiming,
    deadlines,
    expiry,
    finish,
    query,
    queueing,
    quota,
    running,
    steering,
    submit,
    sweep,
    transfers,
)
from common.jobs.batches import NewBatch
from common.jobs.query import Filter
from common.quotas import Quotas
from common.retention import Retention
from common.states import State
from tests.jobs import LEASE, brought, new_key, queue_up, request, submitted

pytestmark = pytest.mark.slow

WAITING = {"postgresql": 200_000, "sqlite": 50_000}
KEYS = 5

_NUMBERS = {
    "postgresql": "SELECT g AS n FROM generate_series(1, {count}) AS g",
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) SELECT n FROM c",
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with many waiting and many ended jobs, some running and a few queued."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('crowded')}/nightshift.db"
        request.getfixturevalue("migrate_database")(url)
    else:
        made = request.getfixturevalue("postgres_databases")
        url = made.clone(request.getfixturevalue("postgres_template"))
    database = Database(url)
    _crowd(database, request.param)
    yield database
    database.dispose()
    if request.param == "postgresql":
        made.drop(url)


def _crowd(database: Database, kind: str) -> None:
    key_ids = [new_key(database, f"key {n}", max_waiting=10**6) for n in range(KEYS)]
    model = submitted(database, key_ids[0], priority="batch", callback=None)
    ended = brought(database, key_ids[0], State.SUCCEEDED, callback=None)
    numbers = _NUMBERS[kind]
    keyed = " ".join(f"WHEN {n} THEN '{key_id}'" for n, key_id in enumerate(key_ids))
    with database.write() as tx:
        names = [column.name for column in jobs.columns]
        for source, prefix, count in ((model, "w", WAITING[kind]), (ended, "e", WAITING[kind] // 4)):
            values = {
                "id": f"'job_{prefix}' || CAST(1000000 + n AS TEXT)",
                "key_id": f"CASE n % {KEYS} {keyed} END",
                "idempotency_key": f"'{prefix}' || n",
                "batch": "'batch ' || (n % 50)",
            }
            columns = ", ".join(f'"{name}"' for name in names)
            chosen = ", ".join(values.get(name, f'jobs."{name}"') for name in names)
            tx.execute(
                text(
                    f"INSERT INTO jobs ({columns}) SELECT {chosen} FROM jobs, ({numbers.format(count=count)}) AS g"
                    " WHERE jobs.id = :model"
                ),
                {"model": source.id},
            )
        for n in range(3000 if kind == "postgresql" else 300):
            tx.execute(
                text(
                    "INSERT INTO callbacks (id, key_id, url, host, event, body, state, tries, next_at, created_at)"
                    " SELECT :id, :key, 'https://r.example', 'r.example', 'test', '{}', 'delivered', 1, NULL,"
                    " created_at FROM jobs WHERE id = :model"
                ),
                {"id": f"msg_{n}", "key": key_ids[0], "model": model.id},
            )
    with database.write() as tx:
        batch, _ = batches.create(tx, key_ids[2], NewBatch("nightly", {}, {}, "digest"), batch_id="bat_1")
        tx.execute(
            text(
                "UPDATE jobs SET batch_id = 'bat_1', batch_item = CAST(SUBSTR(id, 6) AS INTEGER)"
                " WHERE batch = 'batch 7' AND id LIKE 'job_w%'"
            )
        )
        total = "(SELECT count(*) FROM jobs WHERE batch_id = 'bat_1')"
        tx.execute(text(f"UPDATE batches SET total = {total} WHERE id = 'bat_1'"))
        batches.activate(tx, batch)
        tx.execute(
            text(
                "INSERT INTO transfers (job_id, batch_id, item, bucket, state, next_at, created_at)"
                " SELECT id, batch_id, batch_item, 'mine', 'pending', created_at, created_at"
                " FROM jobs WHERE batch_id = 'bat_1'"
            )
        )
        few = update(rows).where(rows.c.item % 1000 == 7)
        tx.execute(few.values(state="failed", next_at=None, ended_at=tx.now(), error={}))
    for n in range(6):
        brought(database, key_ids[n % KEYS], State.RUNNING)
        queue_up(database, submitted(database, key_ids[n % KEYS], priority="batch").id)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text("VACUUM ANALYZE" if kind == "postgresql" else "ANALYZE")
        )


@contextmanager
def _plans(database: Database, tx: Tx) -> Iterator[list[tuple[str, str]]]:
    """Collects (statement, plan) of all that is sent on a transaction."""
    found: list[tuple[str, str]] = []
    sqlite = database.engine.dialect.name == "sqlite"
    word = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("INSERT", "EXPLAIN")):
            return
        other = cursor.connection.cursor()
        other.execute(word + statement, parameters)
        found.append((statement, "\n".join(str(row[-1]) for row in other.fetchall())))
        other.close()

    event.listen(tx.connection, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(tx.connection, "before_cursor_execute", explain)


# A table read from end to end, by either database's words. SQLite's `SCAN jobs USING INDEX` over a partial index of few
# rows is no such reading: it walks what the index holds.
_WHOLE_TABLE = re.compile(
    r"Seq Scan on (jobs|callbacks|events|transfers)\b|SCAN (jobs|callbacks|events|transfers)(?! USING)\b"
)
_BIG_INDEX = re.compile(r"SCAN jobs USING (COVERING )?INDEX (?!ix_jobs_(claim|lease|deadline|upstream)\b)")
_SORT_OF_ALL = re.compile(r"Sort .*rows=\d{4,}")


def _submit(tx: Tx, key_id: str) -> None:
    submit.submit(tx, key_id, request(), default_quota=Quotas(100))


def _place(tx: Tx, key_id: str) -> None:
    """Of the only job of another key, for which the others' must not be looked through, and of one of many."""
    newcomer = keys.create(tx, "newcomer", [keys.Scope.WRITE])[0].id
    lonely = submit.submit(tx, newcomer, request(), default_quota=Quotas(100)).job
    crowded = query.page(tx, key_id, Filter(), before="job_w1020000", limit=1)[0]
    assert [query.ahead(tx, job) for job in (lonely, crowded)] == [0, 1000]


def _ring_again(tx: Tx, key_id: str) -> None:
    processes.register(tx, "free", "worker", lanes=["cpu"])
    tx.execute(text("UPDATE jobs SET rung_at = created_at WHERE state = 'queued'"))
    assert queueing.unanswered(tx, -1.0, LEASE)


def _cancel(tx: Tx, _key_id: str) -> None:
    steering.cancel(tx, "bat_1")
    assert steering.cancel_some(tx, "bat_1", limit=500).done == 500


VERBS: dict[str, tuple[Callable[[Tx, str], Any], str]] = {
    "submit": (_submit, "ix_jobs_active"),
    "claim": (lambda tx, key: claiming.claim(tx, "w1", ["cpu"], LEASE), "ix_jobs_claim"),
    "claim of an engine": (
        lambda tx, key: claiming.claim(tx, "w1", ["cpu"], LEASE, engines=["rnnoise"]), "ix_jobs_claim",
    ),
    "claim of what is loaded": (
        lambda tx, key: claiming.claim(
            tx, "w1", ["cpu"], LEASE, rung="job_w1020000", engines=["rnnoise", "fast"], resident=["fast"],
            affinity_seconds=60.0,
        ),
        "ix_jobs_claim",
    ),
    "release": (lambda tx, key: queueing.fill(tx, "cpu", 20, LEASE), "ix_jobs_release"),
    "room": (lambda tx, key: queueing.room(tx, "cpu", 0, 2, LEASE), "ix_jobs_claim"),
    "ring again": (_ring_again, "ix_jobs_claim"),
    "expired leases": (lambda tx, key: sweep.expired_leases(tx), "ix_jobs_lease"),
    "expire": (lambda tx, key: finish.expire(tx), "ix_jobs_deadline"),
    "the latest result": (lambda tx, key: query.latest(tx, key, "print"), "ix_jobs_fingerprint"),
    "deadlines": (lambda tx, key: deadlines._jobs(tx), "ix_jobs_deadline"),
    "first page": (lambda tx, key: query.page(tx, key, Filter(), before=None, limit=50), "ix_jobs_list"),
    "a later page": (lambda tx, key: query.page(tx, key, Filter(), before="job_w1020000", limit=50), "ix_jobs_list"),
    "a page of failures": (
        lambda tx, key: query.page(tx, key, Filter(states=(State.FAILED,)), before=None, limit=50),
        "ix_jobs_unsuccessful",
    ),
    "a page of what runs": (
        lambda tx, key: query.page(tx, key, Filter(states=(State.RUNNING,)), before=None, limit=50), "ix_jobs_",
    ),
    "place in the queue": (_place, "ix_jobs_release"),
    "a page of a batch": (
        lambda tx, key: query.page(tx, key, Filter(batch="batch 5"), before=None, limit=50), "ix_jobs_batch",
    ),
    "release from a batch": (lambda tx, key: queueing.fill(tx, "cpu", 20, LEASE), "ix_jobs_release_batch"),
    "recall": (lambda tx, key: queueing.recall(tx), "ix_jobs_claim"),
    "items of a batch": (lambda tx, key: batch_query.items(tx, "bat_1", after=1_020_000, limit=50), "ix_jobs_item"),
    "failures of a batch": (
        lambda tx, key: batch_query.items(tx, "bat_1", after=0, limit=50, states=(State.FAILED,)),
        # Where few have failed, of all batches, both are as short.
        "ix_jobs_item_state|ix_jobs_unsuccessful",
    ),
    "cancel of a batch": (_cancel, "ix_jobs_item_state|ix_jobs_release_batch"),
    "retry of a batch": (
        lambda tx, key: steering.retry_some(tx, "bat_1", default_quota=Quotas(10**6)),
        "ix_jobs_item_state|ix_jobs_unsuccessful|ix_jobs_item",
    ),
    "under way of a batch": (lambda tx, key: batch_query.under_way(tx, "bat_1"), "ix_jobs_"),
    "deliveries that are due": (lambda tx, key: transfers.due(tx, 8, LEASE, per_bucket=4), "ix_transfers_due"),
    "what was not delivered": (
        lambda tx, key: transfers.undelivered(tx, "bat_1", after=0, limit=50), "ix_transfers_failed",
    ),
    "prune": (
        lambda tx, key: sweep.prune(tx, retention_seconds=9e6, idempotency_seconds=9e6),
        "ix_jobs_expiry|ix_jobs_finished",
    ),
    "prune what was told": (
        lambda tx, key: sweep.prune(tx, retention_seconds=9e6, idempotency_seconds=9e6, warning_seconds=9e5),
        "ix_jobs_expiry|ix_jobs_finished",
    ),
    "tell of an end": (lambda tx, key: expiry.tell_jobs(tx, Retention(9e6, 9e5)), "ix_jobs_expiry|ix_jobs_finished"),
    "tell of a batch's end": (lambda tx, key: expiry.tell_batch(tx, Retention(9e6, 9e5)), "batches"),
    "hours left of a day": (
        lambda tx, key: quota.left_today(tx, {key: 1.0}, tx.instant()), "ix_jobs_claim|ix_jobs_lease",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_the_plan_uses_its_index(crowded: Database, name: str) -> None:
    verb, index = VERBS[name]
    with crowded.read() as tx:
        key_id = tx.execute(text("SELECT id FROM keys ORDER BY id LIMIT 1")).scalar_one()
    with crowded.write() as tx, _plans(crowded, tx) as plans:
        verb(tx, key_id)
        tx.connection.rollback()
    assert plans
    for statement, plan in plans:
        for bad in (_WHOLE_TABLE, _BIG_INDEX, _SORT_OF_ALL):
            assert not bad.search(plan), f"{statement}\n{plan}"
    assert any(one in plan for _, plan in plans for one in index.split("|")), "\n\n".join(plan for _, plan in plans)


def test_orders_and_ends_of_a_running_job(crowded: Database) -> None:
    with crowded.write() as tx:
        job = claiming.claim(tx, "w9", ["cpu"], LEASE)
        assert job is not None
        with _plans(crowded, tx) as plans:
            running.orders(tx, job.lease, "w9", ["cpu"], LEASE)
            running.checkpoint(tx, job.lease, LEASE, "print", 0, 3, {})
            finish.succeed(tx, job.lease, {"outputs": []})
        tx.connection.rollback()
    for statement, plan in plans:
        assert not _WHOLE_TABLE.search(plan) and not _BIG_INDEX.search(plan), f"{statement}\n{plan}"


def test_the_test_would_see_a_whole_table(crowded: Database) -> None:
    with crowded.write() as tx, _plans(crowded, tx) as plans:
        tx.execute(text("SELECT * FROM jobs WHERE progress IS NOT NULL AND kind = 'none'"))
    assert any(_WHOLE_TABLE.search(plan) for _, plan in plans)
