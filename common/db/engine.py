"""The database: opening it, and short transactions on it."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Text, any_, create_engine, event, func, literal, make_url, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.elements import ColumnElement
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from common.db.types import Now, Timestamp, to_json

P = ParamSpec("P")
T = TypeVar("T")

# PostgreSQL: serialization failure, deadlock, a lock not had in time, and a server that is starting, stopping,
# recovering or full.
_TRANSIENT_STATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300"}

# Who waits for SQLite's lock looks again after no more than so long, in its first eighth of a second.
_SQLITE_LOOKS_SECONDS = 0.025

# A connection that was used so recently is taken to be alive.
_TRUSTED_SECONDS = 1.0


class SimulatedClock:
    """Time that stands still until told to go on: for simulations of whole nights on a real database."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self, plus: float | ColumnElement[float]) -> ColumnElement[datetime]:
        if not isinstance(plus, int | float):
            raise TypeError("a simulated clock adds plain seconds")
        return literal(datetime.fromtimestamp(self.now.timestamp() + plus, UTC), Timestamp())


@dataclass(frozen=True)
class Tx:
    """An open transaction. Verbs take one and never commit: the caller decides what belongs together."""

    connection: Connection
    clock: Callable[[float | ColumnElement[float]], ColumnElement[datetime]]

    def now(self, plus: float | ColumnElement[float] = 0.0) -> ColumnElement[datetime]:
        """SQL for the database's clock plus some seconds."""
        return self.clock(plus)

    def instant(self) -> datetime:
        """The database's clock, read."""
        value = self.connection.execute(select(self.now().label("now"))).scalar_one()
        assert isinstance(value, datetime)
        return value

    @property
    def postgresql(self) -> bool:
        return self.connection.dialect.name == "postgresql"

    def listed(self, column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
        """SQL for: the column holds one of these. They are one parameter: a thousand would cost more to send and to
        read than what is done with them."""
        if self.postgresql:
            return column == any_(literal(list(values), postgresql.ARRAY(Text)))
        given = func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(select(given.c.value))

    def execute(self, *args: Any, **kw: Any) -> Any:
        return self.connection.execute(*args, **kw)


class Database:
    """A PostgreSQL or SQLite database behind one face."""

    def __init__(self, url: str, clock: SimulatedClock | None = None, pool_size: int = 8) -> None:
        self.url = url
        self.clock: Callable[[float | ColumnElement[float]], ColumnElement[datetime]] = clock or Now
        self.engine = _open(url, pool_size)

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """A transaction that writes; committed at the end, rolled back on an exception."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(nightshift_write=True)
            with connection.begin():
                yield Tx(connection, self.clock)

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that only reads.

        On PostgreSQL each statement is one by itself: where every statement sees what was committed before it (READ
        COMMITTED), a transaction around reading adds nothing but two journeys to the server.
        """
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            with connection.begin():
                yield Tx(connection, self.clock)

    def run(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Runs a verb in a transaction of its own, again for up to 20 s while the database is not to be reached.

        Only for verbs that may run twice: those guarded by an attempt, and those that only read.
        """
        for attempt in Retrying(
            retry=retry_if_exception(transient),
            stop=stop_after_delay(20),
            wait=wait_random_exponential(0.05, 2),
            reraise=True,
        ):
            with attempt, self.write() as tx:
                return verb(tx, *args, **kw)
        raise AssertionError("unreachable: Retrying ends by returning or raising")

    def give_way(self) -> None:
        """To be called between the transactions of long work. SQLite keeps no line of those who wait for its lock: one
        that is taken again at once is not to be had for anybody else."""
        if self.engine.dialect.name == "sqlite":
            time.sleep(_SQLITE_LOOKS_SECONDS)

    def dispose(self) -> None:
        self.engine.dispose()


def transient(error: BaseException) -> bool:
    """Whether the same statement may well succeed a moment later: busy, deadlocked, restarted, disconnected."""
    if isinstance(error, InterfaceError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError):
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        return any(word in str(error.orig) for word in ("locked", "busy"))
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state in _TRANSIENT_STATES


def _open(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        wait = {"timeout": 30, "check_same_thread": False}
        engine = create_engine(url, connect_args=wait, pool_size=pool_size, json_serializer=to_json)
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=pool_size,
        json_serializer=to_json,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10000,
            "options": "-c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000",
        },
    )
    _ping_after_idling(engine)
    return engine


def _ping_after_idling(engine: Engine) -> None:
    """A connection that a restart or a firewall cut is noticed when taken from the pool, not by the verb. One that has
    just been used is not asked: that would be a journey to the server for every transaction of a busy process."""

    def rested(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    def taken(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get("idle_since", math.inf) < _TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # All of the pool is as old, and as likely gone; the pool opens another one for this caller.
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", rested)
    event.listen(engine, "checkout", taken)


def _sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that later wants to write fails at once with SQLITE_BUSY, whatever busy_timeout says.
    write = connection.get_execution_options().get("nightshift_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
