"""Bringing a database to the newest schema with Alembic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from common.db.engine import Database

# Any number, the same everywhere: PostgreSQL locks by number.
_LOCK = 7_482_013


def config(url: str) -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return made


def upgrade(url: str) -> None:
    """To the newest schema. Safe to run from several processes at once: they take turns."""
    database = Database(url)
    try:
        with _alone(database):
            made = config(url)
            made.attributes["database"] = database
            command.upgrade(made, "head")
    finally:
        database.dispose()


def current(database: Database) -> tuple[str | None, str | None]:
    """The revision a database is at, and the newest one."""
    with database.read() as tx:
        at = MigrationContext.configure(tx.connection).get_current_revision()
    return at, ScriptDirectory.from_config(config(database.url)).get_current_head()


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    with database.engine.connect() as connection:
        if connection.dialect.name != "postgresql":
            # Each migration on SQLite runs in one BEGIN IMMEDIATE, which is lock enough.
            yield
            return
        while not connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": _LOCK}).scalar():
            connection.rollback()
            time.sleep(0.2)
        # The lock is the session's, not the transaction's, and a transaction left idle is ended by the server.
        connection.rollback()
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": _LOCK})
            connection.rollback()
