"""The health checks of containers, content with what works and nothing else; how storage and Flower refuse."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from common import health
from common.db import processes
from common.db.engine import Database
from common.db.tables import processes as table
from common.errors import NightshiftError
from common.settings import Settings, load
from common.storage.ensure import ensure
from tests.servers.processes import free_port
from worker import flower

HERE = socket.gethostname()


@contextmanager
def answering(status: int, path: str) -> Iterator[int]:
    """A server that answers `path` with a status, and all else with 404; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()
            self.wfile.write(b"the database is away")

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("role", "port", "path"), [("api", "port", "/readyz"), ("flower", "flower_port", "/healthcheck")]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_serves_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, port: str, path: str, host: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # must not come between
    with answering(200, path) as at:
        assert health.fault(Settings(home=tmp_path, host=host, **{port: at}), role, HERE) is None
    with answering(503, path) as at:
        fault = health.fault(Settings(home=tmp_path, host=host, **{port: at}), role, HERE)
        assert fault is not None and "503" in fault and "the database is away" in fault
    fault = health.fault(Settings(home=tmp_path, host=host, **{port: free_port()}), role, HERE)
    assert fault is not None and "does not answer" in fault


@pytest.mark.parametrize("role", health.WRITING)
def test_what_writes_is_looked_for(tmp_path: Path, sqlite_url: str, sqlite_database: Database, role: str) -> None:
    settings = Settings(home=tmp_path, database_url=SecretStr(sqlite_url))
    fault = health.fault(settings, role, HERE)
    assert fault is not None and "has said that it is there" in fault
    with sqlite_database.write() as tx:
        for other in set(health.WRITING) - {role}:
            processes.register(tx, other, other)
    assert health.fault(settings, role, HERE) is not None, "another role is not this one"
    with sqlite_database.write() as tx:
        processes.register(tx, "one", role)
        processes.register(tx, "two", role)
    assert health.fault(settings, role, HERE) is None
    assert health.fault(settings, role, "another-host") is not None
    with sqlite_database.write() as tx:
        stale = update(table).values(seen_at=tx.now(-settings.alive_seconds - 1))
        tx.execute(stale.where(table.c.name == "one"))
    assert health.fault(settings, role, HERE) is None, "one of two is enough"
    with sqlite_database.write() as tx:
        tx.execute(update(table).values(seen_at=tx.now(-settings.alive_seconds - 1)))
    fault = health.fault(settings, role, HERE)
    assert fault is not None and f"No {role} of {HERE} was seen since" in fault


def test_a_database_that_is_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", f"postgresql://nobody:hush@127.0.0.1:{free_port()}/none")
    assert health.main(["scheduler"]) == 1
    said = capsys.readouterr().err
    assert "The database does not answer" in said and "hush" not in said


def test_only_roles_that_there_are(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        health.main(["schedular"])
    assert ended.value.code == 2


def test_the_folder_of_files_is_made(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    ensure(settings)
    assert settings.files.is_dir()


def test_a_storage_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        s3_endpoint=f"http://127.0.0.1:{free_port()}",
        s3_bucket="nightshift",
        s3_access_key=SecretStr("key"),
        s3_secret_key=SecretStr("secret"),
    )
    with pytest.raises(NightshiftError) as refused:
        ensure(settings)
    assert refused.value.code == "storage_failed"


@pytest.mark.parametrize(
    ("broker", "password", "word"),
    [
        (None, "me:secret", "NIGHTSHIFT_BROKER_URL"),
        ("redis://127.0.0.1/0", None, "NIGHTSHIFT_FLOWER_BASIC_AUTH"),
        ("redis://127.0.0.1/0", "secret", "NIGHTSHIFT_FLOWER_BASIC_AUTH"),
        ("redis://127.0.0.1/0", "me:", "NIGHTSHIFT_FLOWER_BASIC_AUTH"),
        ("redis://127.0.0.1/0", ":secret", "NIGHTSHIFT_FLOWER_BASIC_AUTH"),
    ],
)
def test_flower_is_not_started_open(tmp_path: Path, broker: str | None, password: str | None, word: str) -> None:
    given = {"broker_url": broker, "flower_basic_auth": password}
    settings = Settings(home=tmp_path, **{name: SecretStr(value) for name, value in given.items() if value})
    why = flower.trouble(settings)
    assert why is not None and word in why and "secret" not in why


def test_flower_with_both_is(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, broker_url=SecretStr("redis://127.0.0.1/0"), flower_basic_auth=SecretStr("me:secret")
    )
    assert flower.trouble(settings) is None


def test_an_empty_secret_file_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nightshift_secret_key", "nightshift_hf_token"):
        (tmp_path / name).write_text("\n")
    (tmp_path / "nightshift_flower_basic_auth").write_text("me:secret\n")
    monkeypatch.setenv("NIGHTSHIFT_SECRETS_DIR", str(tmp_path))
    settings = load()
    # An empty key would sign for everybody.
    assert settings.secret_key is None and settings.hf_token is None
    assert settings.flower_basic_auth == SecretStr("me:secret")
