"""The migrations: from nothing to the newest schema and back, the same tables the code knows, safe to run at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import migrations
from common.db import migrate, usage
from common.db.engine import Database
from common.db.tables import metadata
from tests.servers.postgres import Databases

VERSIONS = Path(migrations.__file__).parent / "versions"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/folder that is not there yet/nightshift.db"
        return
    databases: Databases = request.getfixturevalue("postgres_databases")
    url = databases.create()
    yield url
    databases.drop(url)


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.dispose()


def _tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_an_empty_database_becomes_the_newest(empty: Database) -> None:
    assert migrate.current(empty)[0] is None
    migrate.upgrade(empty.url)
    at, newest = migrate.current(empty)
    assert at == newest is not None
    assert _tables(empty) == {*metadata.tables, "alembic_version"}


def test_an_upgrade_of_the_newest_changes_nothing(empty: Database) -> None:
    migrate.upgrade(empty.url)
    with empty.write() as tx:
        tx.execute(text("INSERT INTO sweeps (prefix, due_at) VALUES ('jobs/a/', CURRENT_TIMESTAMP)"))
    before = _definitions(empty)
    migrate.upgrade(empty.url)
    assert _definitions(empty) == before
    with empty.read() as tx:
        assert tx.execute(text("SELECT count(*) FROM sweeps")).scalar_one() == 1


def test_the_migrations_make_the_tables_the_code_knows(empty: Database) -> None:
    migrate.upgrade(empty.url)
    sqlite = empty.engine.dialect.name == "sqlite"

    def compared(_object: object, _name: str | None, kind: str, *_: object) -> bool:
        # Alembic cannot read `id DESC` back from SQLite; the next test compares what SQLite itself wrote down.
        return not (sqlite and kind == "index")

    options = {"compare_type": True, "compare_server_default": True, "include_object": compared}
    with empty.write() as tx:
        assert compare_metadata(MigrationContext.configure(tx.connection, opts=options), metadata) == []


def test_checks_indexes_and_keys_are_those_the_code_knows(empty: Database) -> None:
    """What Alembic's comparison does not look at: CHECKs, the WHERE of an index, what a foreign key does on delete."""
    migrate.upgrade(empty.url)
    migrated = _definitions(empty)
    with empty.write() as tx:
        tx.execute(text("DROP TABLE alembic_version"))
        metadata.drop_all(tx.connection)
        metadata.create_all(tx.connection)
    assert migrated == _definitions(empty)


def _definitions(database: Database) -> dict[str, Any]:
    """Constraints and indexes as the database itself writes them down."""
    found: dict[str, Any] = {}
    inspector = inspect(database.engine)
    for table in metadata.tables:
        found[table] = {
            "checks": {check["name"]: _plain(check["sqltext"]) for check in inspector.get_check_constraints(table)},
            "unique": {unique["name"]: unique["column_names"] for unique in inspector.get_unique_constraints(table)},
            "foreign": {
                key["name"]: (key["referred_table"], key["options"]) for key in inspector.get_foreign_keys(table)
            },
            "primary": inspector.get_pk_constraint(table)["name"],
        }
    query = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        if database.engine.dialect.name == "postgresql"
        else "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    )
    with database.read() as tx:
        found["indexes"] = {name: _plain(sql) for name, sql in tx.execute(text(query))}
    return found


def _plain(sql: str) -> str:
    return re.sub(r'[\s"()]+', " ", sql).strip()


def test_down_to_nothing_and_up_again(empty: Database) -> None:
    migrate.upgrade(empty.url)
    before = _definitions(empty)
    config = migrate.config(empty.url)
    config.attributes["database"] = empty
    command.downgrade(config, "base")
    assert _tables(empty) <= {"alembic_version"}
    migrate.upgrade(empty.url)
    assert _definitions(empty) == before


def test_what_was_there_before_the_quotas_is_counted(empty: Database) -> None:
    config = migrate.config(empty.url)
    config.attributes["database"] = empty
    command.upgrade(config, "0001")
    outputs = '{"outputs": [{"name": "a", "bytes": 700}, {"name": "b", "bytes": 23}, {"name": "old"}]}'
    one, many = '{"input": {"upload": "u1"}, "inputs": null}', '{"inputs": [{"upload": "u1"}, {"job": "x"}]}'
    now = "now()" if empty.engine.dialect.name == "postgresql" else "1.0"
    with empty.write() as tx:
        tx.execute(text(f"INSERT INTO keys (id, name, hash, scopes, created_at) VALUES ('k', 'k', 'h', '[]', {now})"))
        for job_id, kind, body in (("j1", "separation", one), ("j2", "segmentation", many), ("j3", "voice", "{}")):
            tx.execute(
                text(
                    "INSERT INTO jobs (id, key_id, kind, engine, lane, priority, request, state, reason, run_at,"
                    " result, result_attempt, attempt, request_digest, created_at, finished_at, updated_at) VALUES"
                    f" (:id, 'k', :kind, 'e', 'cpu', 0, :body, 'succeeded', 'done', {now}, :result, 1, 1, '', {now},"
                    f" {now}, {now})"
                ),
                {"id": job_id, "kind": kind, "body": body, "result": outputs},
            )
        tx.execute(
            text(
                "INSERT INTO uploads (id, key_id, storage_key, filename, content_type, size, state, created_at)"
                f" VALUES ('u1', 'k', 's', 'f', 'c', 100, 'ready', {now})"
            )
        )
        tx.execute(
            text(
                "INSERT INTO voices (id, key_id, name, state, consent, job_id, recording, excerpt, excerpt_start,"
                f" excerpt_end, created_at) VALUES ('v', 'k', 'v', 'draft', '{{}}', 'j3', 'r', 'e', 0, 1, {now})"
            )
        )
    command.upgrade(config, "head")
    with empty.read() as tx:
        assert usage.stored(tx, "k") == 723 + 723 + 723 + 100
        assert dict(tx.execute(text("SELECT id, stored_bytes FROM jobs")).all()) == {"j1": 723, "j2": 723, "j3": 0}
        uses = tx.execute(text("SELECT upload_id, job_id FROM upload_uses ORDER BY job_id")).all()
        assert [tuple(row) for row in uses] == [("u1", "j1"), ("u1", "j2")]


def test_several_processes_upgrade_at_once(empty: Database) -> None:
    code = "import sys; from common.db import migrate; migrate.upgrade(sys.argv[1])"
    several = [
        subprocess.Popen([sys.executable, "-c", code, empty.url], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in several:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert len(set(migrate.current(empty))) == 1
    with empty.read() as tx:
        assert tx.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1


def test_an_address_may_hold_a_percent_sign(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/100%25 sure/%(here)s.db"
    migrate.upgrade(url)
    database = Database(url)
    assert "jobs" in _tables(database)
    database.dispose()


def test_revisions_are_numbered_in_one_line() -> None:
    revisions = list(ScriptDirectory.from_config(migrate.config("sqlite://")).walk_revisions())
    assert [revision.revision for revision in reversed(revisions)] == [f"{n:04}" for n in range(1, len(revisions) + 1)]
    for revision in revisions:
        assert re.fullmatch(rf"{revision.revision}_[a-z0-9_]+\.py", Path(revision.path).name)
        assert revision.doc
    assert len(list(VERSIONS.glob("0*.py"))) == len(revisions)


def test_every_constraint_has_the_name_of_its_kind() -> None:
    """A constraint without a name could not be changed by a later migration."""
    prefix = {"primary_key_constraint": "pk", "foreign_key_constraint": "fk", "unique_constraint": "uq"}
    for table in metadata.tables.values():
        for constraint in table.constraints:
            kind = prefix.get(constraint.__visit_name__, "ck")
            assert str(constraint.name).startswith(f"{kind}_{table.name}"), constraint
        for index in table.indexes:
            assert str(index.name).startswith(f"ix_{table.name}")
            assert len(str(index.name)) < 63
