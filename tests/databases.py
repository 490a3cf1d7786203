"""Databases for tests: the fixture `database` gives each test an empty, migrated one, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, text

from common.db.engine import Database
from common.db.tables import metadata
from tests.servers.postgres import Databases

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory, migrate_database: Callable[[str], None]) -> Path:
    """The file of a database that was migrated once for the session."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate_database(f"sqlite:///{path}")
    database = Database(f"sqlite:///{path}")
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    database.dispose()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The address of a migrated SQLite file of the test's own."""
    path = tmp_path / "nightshift.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_databases: Databases, postgres_template: str) -> Iterator[str]:
    """The address of a migrated database that tests use one after the other: emptying costs less than cloning."""
    url = postgres_databases.clone(postgres_template)
    yield url
    postgres_databases.drop(url)


@pytest.fixture
def emptied_postgres_url(shared_postgres_url: str) -> str:
    """The shared database without a row, and without whoever a failed test left connected."""
    opened = Database(shared_postgres_url, pool_size=1)
    with opened.write() as tx:
        tx.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        for table in reversed(metadata.sorted_tables):
            tx.execute(delete(table))
    opened.dispose()
    return shared_postgres_url


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """The address of an empty, migrated database, once of each kind."""
    return str(request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "emptied_postgres_url"}[request.param]))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database, once of each kind."""
    opened = Database(database_url, pool_size=16)
    yield opened
    opened.dispose()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def postgres_database(emptied_postgres_url: str) -> Iterator[Database]:
    opened = Database(emptied_postgres_url, pool_size=16)
    yield opened
    opened.dispose()
