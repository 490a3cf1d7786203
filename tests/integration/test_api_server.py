"""The real server: `python -m api` on a free port, spoken to over HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from common.db import keys, migrate
from common.db.engine import Database
from common.db.keys import Scope
from common.db.tables import uploads
from common.jobs import finish
from tests import jobs
from tests.house import wait_for
from tests.servers.processes import ServerProcess

REQUEST = {"input": {"url": "https://media.example/a.wav"}, "params": {"prompts": ["speech"]}}
LIMIT = 200_000_000


def launched(log: Path, *arguments: str, **settings: Any) -> ServerProcess:
    """`python -m api` with these settings and no other, not yet started."""
    environment = {f"NIGHTSHIFT_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    return ServerProcess([sys.executable, "-m", "api", *arguments], log, environment=environment)


def address(log: Path) -> str | None:
    found = re.search(r"^Listening on (http://\S+)$", log.read_text(), re.MULTILINE)
    return found[1] if found else None


def answers(log: Path) -> bool:
    try:
        return address(log) is not None and httpx.get(f"{address(log)}/readyz").status_code == 200
    except httpx.TransportError:
        return False


class Server:
    """A running API and a client with a key. pid: of the main process."""

    def __init__(self, home: Path, database_url: str, **settings: Any) -> None:
        self.database = Database(database_url)
        self.home = home
        with self.database.write() as tx:
            self.key, self.token = keys.create(tx, "tester", [Scope.READ, Scope.WRITE])
        self._log = home.parent / "api.log"
        values = {"home": home, "database_url": database_url, "port": 0, "max_upload_bytes": LIMIT, **settings}
        self.process = launched(self._log, **values)

    @property
    def address(self) -> str:
        found = address(self._log)
        assert found is not None
        return found

    @property
    def where(self) -> tuple[str, int]:
        url = httpx.URL(self.address)
        assert url.port is not None
        return url.host, url.port

    def answers(self) -> bool:
        return answers(self._log)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@contextmanager
def serving(home: Path, database_url: str, **settings: Any) -> Iterator[Server]:
    server = Server(home, database_url, **settings)
    try:
        server.process.start(server.answers)
        yield server
    finally:
        server.process.kill()
        server.database.dispose()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Server]:
    """One for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(sqlite_template, folder / "nightshift.db")
    with serving(folder / "home", f"sqlite:///{folder}/nightshift.db") as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path, sqlite_url: str) -> Iterator[Server]:
    with serving(tmp_path / "home", sqlite_url) as running:
        yield running


def test_it_stops_when_told_and_leaves_nothing(own_server: Server) -> None:
    server = own_server
    workers = server.workers()
    assert workers
    # An event stream is open, which must not hold it.
    job = jobs.submitted(server.database, server.key.id)
    with server.client() as client, client.stream("GET", f"/v1/jobs/{job.id}/events") as stream:
        next(stream.iter_lines())
        psutil.Process(server.process.pid).send_signal(signal.SIGTERM)
        # Before the time is over after which it would be ended the hard way.
        _, alive = psutil.wait_procs(workers, timeout=8)
    assert alive == [], "an open stream held it"
    wait_for(lambda: not server.process.running, 10)


def test_it_can_bring_the_database_up_to_date(tmp_path: Path) -> None:
    process = launched(tmp_path / "api.log", "--migrate", home=tmp_path / "home", port=0)
    try:
        process.start(lambda: answers(tmp_path / "api.log"))
    finally:
        process.kill()
    database = Database(f"sqlite:///{tmp_path}/home/nightshift.db")
    at, newest = migrate.current(database)
    database.dispose()
    assert at == newest


def test_a_large_upload_passes_through_without_filling_memory(server: Server) -> None:
    piece = bytes(range(256)) * 4096  # 1 MiB
    count = 150
    (worker,) = server.workers()
    before = worker.memory_info().rss
    peak = [before]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], worker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with server.client() as client:
        response = client.post(
            "/v1/uploads?filename=long.wav",
            content=(piece for _ in range(count)),
            headers={"Content-Type": "audio/wav", "Content-Length": str(count * len(piece))},
        )
    over.set()
    watcher.join()
    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == hashlib.sha256(piece * count).hexdigest()
    assert peak[0] - before < 30_000_000, f"{(peak[0] - before) / 1e6:.0f} MB for an upload of 157 MB"


def test_a_form_as_curl_sends_it(server: Server) -> None:
    with server.client() as client:
        response = client.post("/v1/uploads", files={"file": ("ep.mp3", b"x" * 2_000_000, "audio/mpeg")})
    assert (response.status_code, response.json()["size"], response.json()["filename"]) == (201, 2_000_000, "ep.mp3")


def exchange(
    server: Server, head: str, body: bytes = b"", *, then: Callable[[socket.socket], None] | None = None
) -> bytes:
    """What the server answers to these very bytes."""
    with socket.create_connection(server.where, timeout=20) as raw:
        authorization = f"Authorization: Bearer {server.token}\r\n"
        raw.sendall(head.replace("\n", "\r\n").replace("\r\n\r\n", f"\r\n{authorization}\r\n").encode() + body)
        if then is not None:
            then(raw)
            return b""
        answer = b""
        while not answer.endswith(b"}") and (piece := raw.recv(65536)):
            answer += piece
        return answer


POST = "POST /v1/uploads HTTP/1.1\nHost: x\nContent-Type: audio/wav\n"


def test_too_much_is_refused_before_a_byte_of_it_is_sent(server: Server) -> None:
    answer = exchange(server, POST + f"Content-Length: {LIMIT + 1}\n\n")
    assert answer.startswith(b"HTTP/1.1 413") and b'"too_large"' in answer


def test_a_chunked_upload_is_refused_at_once(server: Server) -> None:
    answer = exchange(server, POST + "Transfer-Encoding: chunked\n\n")
    assert answer.startswith(b"HTTP/1.1 411") and b'"length_required"' in answer


def test_endless_json_is_refused(server: Server) -> None:
    head = "POST /v1/jobs HTTP/1.1\nHost: x\nContent-Type: application/json\nTransfer-Encoding: chunked\n\n"
    # A little more than the limit, in chunks, and no last one: the answer must not wait for an end.
    answer = exchange(server, head, (b"10000\r\n" + b" " * 65536 + b"\r\n") * 16)
    assert answer.startswith(b"HTTP/1.1 413") and b'"too_large"' in answer


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    def rows() -> set[str]:
        with server.database.read() as tx:
            return {row.id for row in tx.execute(uploads.select())}

    def files() -> set[Path]:
        return {path for path in (server.home / "files").rglob("*") if path.is_file() and path.name != ".lock"}

    def leave(raw: socket.socket) -> None:
        wait_for(lambda: rows() > before[0], 20, "the upload did not begin")
        raw.shutdown(socket.SHUT_RDWR)

    before = rows(), files()
    exchange(server, POST + "Content-Length: 1000000\n\n", b"x" * 1000, then=leave)
    wait_for(lambda: rows() == before[0], 20, "the row stayed")
    assert files() == before[1]


def test_a_stream_arrives_while_it_happens(server: Server) -> None:
    job = jobs.submitted(server.database, server.key.id)
    arrived: list[tuple[float, str]] = []
    with server.client() as client, client.stream("GET", f"/v1/jobs/{job.id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        for line in lines:
            if line.startswith("data:"):
                arrived.append((time.monotonic(), json.loads(line[5:])["data"]["state"]))
                break
        with server.database.write() as tx:
            finish.cancel(tx, job.id)
        ended = time.monotonic()
        for line in lines:
            if line.startswith("data:"):
                arrived.append((time.monotonic(), json.loads(line[5:])["data"]["state"]))
    assert [state for _, state in arrived] == ["waiting", "cancelled"]
    assert arrived[0][0] < ended, "the first event waited for the end"


@pytest.mark.parametrize(("database_url", "processes"), [("sqlite", 1), ("postgresql", 2)], indirect=["database_url"])
def test_fifty_at_once(tmp_path: Path, database_url: str, processes: int) -> None:
    """With one Idempotency-Key they make one job; without, fifty."""
    with serving(tmp_path / "home", database_url, api_processes=processes) as server:
        start = threading.Barrier(50)

        def submit(headers: dict[str, str]) -> httpx.Response:
            start.wait()
            return client.post("/v1/jobs", json=REQUEST, headers=headers)

        with ThreadPoolExecutor(50) as pool, server.client() as client:
            identical = list(pool.map(submit, [{"Idempotency-Key": "one and only"}] * 50))
            different = list(pool.map(submit, [{}] * 50))
            assert len(client.get("/v1/jobs?limit=200").json()["items"]) == 51
        for answers in (identical, different):
            assert Counter(answer.status_code for answer in answers) == {202: 50}, [a.text for a in answers][:2]
        assert len({answer.json()["id"] for answer in identical}) == 1
        assert len({answer.json()["id"] for answer in different}) == 50
        replayed = Counter(answer.headers.get("Idempotency-Replayed") for answer in identical)
        assert replayed == {"true": 49, None: 1}


def test_processes_know_each_others_cursors_and_links(tmp_path: Path, sqlite_url: str) -> None:
    """They start at the same moment, without a secret in the settings: one is made, and all read that one."""
    with serving(tmp_path / "home", sqlite_url, api_processes=3) as server:
        assert (server.home / "secret").stat().st_mode & 0o777 == 0o600
        with server.client() as client:
            for name in ("a", "b"):
                client.post(
                    "/v1/uploads", params={"filename": name}, content=b"x", headers={"Content-Type": "audio/wav"}
                )
            cursor = client.get("/v1/uploads?limit=1").json()["next"]
        for _ in range(12):
            with server.client() as client:  # a new connection, which any of the processes may take
                assert client.get("/v1/uploads", params={"cursor": cursor}).status_code == 200
