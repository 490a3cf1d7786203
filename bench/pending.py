"""What a full table costs: the queue's statements with a million pending jobs against a thousand, on both databases.

Jobs of eleven keys are written in bulk. Each statement runs in a transaction of its own that
is rolled back, in turns on the small and the large table, so that every call finds the same rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import insert, select
from ulid import ULID

from bench import place
from bench.figures import Figure, Goal, figure
from bench.scale import Scale
from common.db import keys, processes
from common.db.engine import Database, Tx
from common.db.keys import Scope
from common.db.tables import jobs
from common.jobs import claiming, query, queueing, submit
from common.jobs.job import Job
from common.params import parse_request
from common.quotas import Quotas
from common.settings import Settings
from common.states import Reason, State

GOAL = Goal("<=", 1.5)
# A million jobs are then just within the quota of each key.
KEYS = 11
SMALL = 1_000
QUOTA = Quotas(Settings.model_fields["max_waiting_per_key"].default)
_ROWS_AT_ONCE = 20_000

Statement = Callable[[Tx, "Table"], object]


@dataclass(frozen=True)
class Table:
    """A database with so many pending jobs.

    key: one of those they belong to.  positions: its first and last job, and the only one of a key that has just come.
    """

    database: Database
    key: str
    positions: tuple[Job, ...]

    def seconds(self, statement: Statement) -> float:
        """How long a statement takes, without its commit."""
        with self.database.engine.connect() as connection:
            connection = connection.execution_options(nightshift_write=True)
            with connection.begin() as transaction:
                began = time.perf_counter()
                statement(Tx(connection, self.database.clock), self)
                took = time.perf_counter() - began
                transaction.rollback()
        return took


def run(scale: Scale) -> Iterator[Figure]:
    large = scale.pick(quick=3_000, normal=1_000_000)
    for backend in (place.postgres, place.sqlite):
        for state in (State.WAITING, State.QUEUED):
            with ExitStack() as opened:
                tables = [filled(opened.enter_context(backend()), state, count) for count in (SMALL, large)]
                for name, statement in STATEMENTS[state].items():
                    yield _compare(f"{name}-{backend.__name__}", name, state, tables, statement, large, scale)
                for table in tables:
                    table.database.dispose()


def _claim(tx: Tx, _table: Table) -> object:
    # By a worker that looks in vain for a job of what it has loaded: the dearest claim.
    return claiming.claim(
        tx, "bench", ("cpu",), 30.0, engines=("rnnoise", "loaded"), resident=("loaded",), affinity_seconds=1e6
    )


def _release(tx: Tx, _table: Table) -> object:
    return queueing.fill(tx, "cpu", 2, 30.0)


def _list(tx: Tx, table: Table) -> object:
    return query.page(tx, table.key, query.Filter(), before=None, limit=50)


def _list_state(tx: Tx, table: Table) -> object:
    return query.page(tx, table.key, query.Filter(states=(State.WAITING, State.QUEUED)), before=None, limit=50)


def _submit(tx: Tx, table: Table) -> object:
    return submit.submit(tx, table.key, REQUEST, default_quota=QUOTA, idempotency_key="once")


def _list_failed(tx: Tx, table: Table) -> object:
    return query.page(tx, table.key, query.Filter(states=(State.FAILED,)), before=None, limit=50)


def _position(tx: Tx, table: Table) -> object:
    # Counted no further than the small table goes.
    return [query.ahead(tx, job, at_most=SMALL // KEYS // 2) for job in table.positions]


REQUEST = parse_request(
    {"input": {"url": "https://media.example/a.wav"}, "engine": "rnnoise", "params": {"prompts": ["speech"]}}
)
STATEMENTS: dict[State, dict[str, Statement]] = {
    State.WAITING: {
        "release": _release,
        "list": _list,
        "list-state": _list_state,
        "list-failed": _list_failed,
        "position": _position,
        "submit": _submit,
    },
    State.QUEUED: {"claim": _claim},
}


def _compare(
    name: str,
    what: str,
    state: State,
    tables: list[Table],
    statement: Statement,
    large: int,
    scale: Scale,
) -> Figure:
    calls, rounds = scale.pick(quick=(5, 2), normal=(60, 5))
    ratios, seconds = [], ([], [])
    for _ in range(rounds):
        times = ([], [])
        for _ in range(calls):
            for table, kept in zip(tables, times, strict=True):
                kept.append(table.seconds(statement))
        small_median, large_median = (statistics.median(kept) for kept in times)
        ratios.append(large_median / small_median)
        seconds[0].append(small_median)
        seconds[1].append(large_median)
    return figure(
        f"pending-{name}",
        f"{what} with {large:,} {state} jobs",
        f"with {SMALL:,}",
        ratios,
        GOAL,
        {
            f"{what}_ms_at_{SMALL}": statistics.median(seconds[0]) * 1000,
            f"{what}_ms_at_{large}": statistics.median(seconds[1]) * 1000,
        },
    )


def filled(url: str, state: State, count: int) -> Table:
    """Writes `count` pending jobs, as releasing and submitting leave them, with statistics as autovacuum keeps them."""
    database = Database(url)
    postgresql = database.engine.dialect.name == "postgresql"
    if not postgresql:
        with database.engine.begin() as connection:  # for this connection only, which ends with the filling
            connection.exec_driver_sql("PRAGMA cache_size=-1000000")
    with database.write() as tx:
        owners = [keys.create(tx, f"bench {n}", [Scope.READ, Scope.WRITE])[0].id for n in range(KEYS)]
        processes.register(tx, "bench", "worker", lanes=("cpu",))
        now = tx.instant()
    body = REQUEST.model_dump(mode="json")
    digest = "0" * 64
    plain = {
        "kind": "separation", "engine": "rnnoise", "lane": "cpu", "priority": 0, "request": body, "state": state,
        "reason": Reason.SUBMITTED if state is State.WAITING else Reason.RELEASED,
        "request_digest": digest, "created_at": now, "updated_at": now,
    }  # fmt: skip
    for first in range(0, count, _ROWS_AT_ONCE):
        rows = [
            {
                **plain,
                "id": f"job_{ULID()}",
                "key_id": owners[n % KEYS],
                "idempotency_key": f"key {n}",
                "run_at": now - timedelta(milliseconds=count - n),
            }
            for n in range(first, min(count, first + _ROWS_AT_ONCE))
        ]
        with database.write() as tx:
            tx.execute(insert(jobs), rows)
    with database.write() as tx:
        newcomer = keys.create(tx, "bench newcomer", [Scope.WRITE])[0].id
        submit.submit(tx, newcomer, REQUEST, default_quota=QUOTA)
        positions = (*_ends(tx, owners[0]), *query.page(tx, newcomer, query.Filter(), before=None, limit=1))
    database.dispose()
    if postgresql:
        place.run_statement(url, "VACUUM (ANALYZE) jobs")
        place.run_statement(url, "VACUUM (ANALYZE) keys")
    return Table(database, owners[0], positions)


def _ends(tx: Tx, key: str) -> list[Job]:
    """The first and the last job of a key."""
    mine = select(jobs).where(jobs.c.key_id == key).limit(1)
    rows = [tx.execute(mine.order_by(order)).one() for order in (jobs.c.id, jobs.c.id.desc())]
    return [Job.from_row(row) for row in rows]
