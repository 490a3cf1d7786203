"""The servers that other tests lean on do what they promise, and end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from _pytest.outcomes import Failed, Skipped

from tests.servers.availability import unavailable
from tests.servers.postgres import Databases, PrivatePostgres
from tests.servers.processes import ServerFailed, ServerProcess, free_port, listens
from tests.servers.receiver import Answer, Receiver
from tests.servers.redis import PrivateRedis


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True)


def test_a_missing_service_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped, match="Redis is not available: gone"):
        unavailable("Redis", "gone")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Failed, match="Redis is not available: gone"):
        unavailable("Redis", "gone")


def test_a_clone_has_what_the_template_has_and_keeps_its_own(postgres_databases: Databases) -> None:
    def prepare(url: str) -> None:
        with connect(url) as connection:
            connection.execute("CREATE TABLE t (n int)")
            connection.execute("INSERT INTO t VALUES (1)")

    template = postgres_databases.template(prepare)
    pooled = connect(template)  # a pool that was left open must not hinder
    first, second = postgres_databases.clone(template), postgres_databases.clone(template)
    with connect(first) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    with connect(second) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]
    held = connect(first)
    for url in (first, second, template):
        postgres_databases.drop(url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(first)
    pooled.close()
    held.close()


@pytest.mark.parametrize("end", [PrivatePostgres.stop, PrivatePostgres.kill])
def test_a_private_postgres_keeps_its_data_over_an_end(
    private_postgres: PrivatePostgres, end: Callable[[PrivatePostgres], None]
) -> None:
    with connect(private_postgres.url) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    end(private_postgres)
    with pytest.raises(psycopg.OperationalError):
        connect(private_postgres.url)
    private_postgres.start()
    with connect(private_postgres.url) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_a_private_redis_is_flushed_frozen_and_restarted(private_redis: PrivateRedis) -> None:
    with redis.Redis.from_url(private_redis.url, socket_timeout=0.5) as client:
        client.set("a", "1")
        private_redis.flush()
        assert client.get("a") is None
        client.set("a", "2")
        private_redis.freeze()
        with pytest.raises(redis.TimeoutError):
            client.get("a")
        private_redis.thaw()
        assert client.get("a") == b"2"
        private_redis.restart()
        assert client.get("a") is None


SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", sys.argv[2]])
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


def test_a_killed_server_takes_its_children_along(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    server = ServerProcess([sys.executable, "-c", SERVER, *map(str, ports)], tmp_path / "log")
    server.start(lambda: all(listens(port) for port in ports))
    assert server.running
    server.stop()
    assert not server.running
    deadline = time.monotonic() + 10
    while any(listens(port) for port in ports):
        assert time.monotonic() < deadline, "a child still listens"


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    server = ServerProcess([sys.executable, "-c", "raise SystemExit('no disk')"], tmp_path / "log")
    with pytest.raises(ServerFailed, match="no disk"):
        server.start(lambda: False)
    assert not server.running


def test_a_server_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    server = ServerProcess([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    with pytest.raises(ServerFailed, match="not ready"):
        server.start(lambda: False, seconds=0.3)
    assert not server.running


def test_the_receiver_answers_by_its_script_and_records(receiver: Receiver) -> None:
    receiver.script(Answer(500), Answer.retry_after(7), Answer.redirect("http://example.com/"), path="/hook")
    receiver.serve("/hook", Answer(410, b"gone"))
    answers = [httpx.post(receiver.url("/hook?x=1"), content=b"%d" % turn) for turn in range(5)]
    assert [answer.status_code for answer in answers] == [500, 503, 302, 410, 410]
    assert answers[1].headers["Retry-After"] == "7"
    assert answers[2].headers["Location"] == "http://example.com/"
    assert httpx.get(receiver.url("/other")).status_code == 200
    seen = receiver.wait(6)
    assert [(request.method, request.body) for request in seen[:5]] == [("POST", b"%d" % turn) for turn in range(5)]
    assert (seen[0].path, seen[0].headers["host"], seen[5].path) == ("/hook?x=1", receiver.host, "/other")
    with pytest.raises(AssertionError, match="6 requests instead of 7"):
        receiver.wait(7, seconds=0.1)


def test_the_receiver_delays_drips_cuts_and_never_ends(receiver: Receiver) -> None:
    receiver.serve("/delayed", Answer(delay=30))
    receiver.serve("/dripping", Answer(body=b"x" * 1000, drip=0.05))
    receiver.serve("/cut", Answer(body=b"x" * 10, declare=20))
    receiver.serve("/endless", Answer(body=b"x" * 100_000, endless=True))
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(receiver.url("/delayed"), timeout=0.3)
    with httpx.stream("GET", receiver.url("/dripping")) as answer:
        assert next(answer.iter_raw(1)) == b"x"
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(receiver.url("/cut"))
    with httpx.stream("GET", receiver.url("/endless")) as answer:
        assert "Content-Length" not in answer.headers
        read = 0
        for chunk in answer.iter_raw():
            read += len(chunk)
            if read > 5_000_000:
                break
    assert httpx.head(receiver.url("/cut")).headers["Content-Length"] == "20"
