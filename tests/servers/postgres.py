"""PostgreSQL for tests: a database of its own for each, cloned from a template, and whole servers to restart.

The server for the databases is at TEST_POSTGRES_URL, else on 127.0.0.1:5432 with the user postgres.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, make_url

from tests.servers.availability import unavailable
from tests.servers.processes import ServerFailed, ServerProcess, free_port

_DEFAULT_URL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"


class Databases:
    """Makes databases on one server and drops those it made. admin_url: an SQLAlchemy address that may create."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = make_url(admin_url)
        self._made: list[str] = []

    def create(self) -> str:
        """The address of a new, empty database."""
        return self._create(None)

    def template(self, prepare: Callable[[str], None]) -> str:
        """The address of a new database that `prepare` filled; `clone` copies it."""
        url = self.create()
        prepare(url)
        return url

    def clone(self, template_url: str) -> str:
        """The address of a copy of a database."""
        return self._create(make_url(template_url).database)

    def drop(self, url: str) -> None:
        """Drops a database, with whoever is connected."""
        self._drop(str(make_url(url).database))

    def close(self) -> None:
        """Drops every database that was made here."""
        for name in list(self._made):
            self._drop(name)

    def _create(self, template: str | None) -> str:
        name = f"nightshift_test_{uuid.uuid4().hex[:16]}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        with self._connect() as connection:
            if template is not None:
                # A template must have no connection, and a pool may have left one.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (template,)
                )
                statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            connection.execute(statement)
        self._made.append(name)
        return _text(self._admin_url.set(database=name))

    def _drop(self, name: str) -> None:
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self._made.remove(name)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(_conninfo(self._admin_url), autocommit=True, connect_timeout=5)


class PrivatePostgres:
    """A PostgreSQL server of a test's own: stopped, killed and restarted at will, with its data kept.

    Run as root, the server runs as the user postgres, since it refuses root.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._port, self._data = free_port(), folder / "data"
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._initialise(programs)
        options = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # the processes die here, never the machine
            "max_connections": 100,
        }
        argv: list[str | Path] = [programs / "postgres", "-D", self._data]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for its clients.
        self._process = ServerProcess(
            argv, folder / "postgres.log", folder=folder, user=self._user, stop_signal=signal.SIGINT
        )
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        self._process.start(self._answers)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def _initialise(self, programs: Path) -> None:
        account = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        argv = [programs / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self._data.parent, **account)
        if done.returncode:
            raise ServerFailed(f"initdb:\n{done.stdout}{done.stderr}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(_conninfo(make_url(self.url)), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, None where they are not installed."""
    found: list[Path] = []
    if config := shutil.which("pg_config"):
        with suppress(subprocess.CalledProcessError):
            found.append(Path(subprocess.check_output([config, "--bindir"], text=True).strip()))
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _conninfo(url: URL) -> str:
    return _text(url.set(drivername="postgresql"))


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[Databases]:
    """Makes databases on the server of the tests; all are dropped at the end."""
    url = os.environ.get("TEST_POSTGRES_URL", _DEFAULT_URL)
    databases = Databases(url)
    try:
        databases.drop(databases.create())
    except psycopg.OperationalError as error:
        unavailable("PostgreSQL", str(error).strip(), "set TEST_POSTGRES_URL")
    try:
        yield databases
    finally:
        databases.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_databases: Databases, migrate_database: Callable[[str], None]) -> str:
    """The address of a database that was migrated once for the session. `migrate_database` is a fixture of conftest."""
    return postgres_databases.template(migrate_database)


@pytest.fixture
def postgres_url(postgres_databases: Databases, postgres_template: str) -> Iterator[str]:
    """The address of a migrated database of the test's own."""
    url = postgres_databases.clone(postgres_template)
    yield url
    postgres_databases.drop(url)


@pytest.fixture
def private_postgres() -> Iterator[PrivatePostgres]:
    """A running PostgreSQL server, empty, that belongs to one test."""
    programs = postgres_programs()
    if programs is None:
        unavailable("PostgreSQL", "its server programs are not installed")
    # Not pytest's own folder: the user postgres may not enter it.
    with tempfile.TemporaryDirectory(prefix="nightshift-postgres-") as folder:
        try:
            server = PrivatePostgres(programs, Path(folder))
            server.start()
        except (ServerFailed, KeyError) as error:
            unavailable("PostgreSQL", str(error))
        try:
            yield server
        finally:
            server.kill()
