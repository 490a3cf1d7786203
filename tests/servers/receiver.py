"""An HTTP server whose answers a test scripts and whose requests it reads: for callbacks and for fetched inputs."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Request:
    """What came in. headers: names in lower case, of a repeated one the last.  at: monotonic clock, seconds."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


@dataclass(frozen=True)
class Answer:
    """What goes out.

    delay: seconds before the first byte.  drip: seconds between single bytes of the body, with a flush after each.
    endless: the body is repeated until the client or the server leaves, and no length is declared.
    declare: Content-Length where it is not to be the body's; the connection closes after the body all the same.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float | None = None
    endless: bool = False
    declare: int | None = None

    @classmethod
    def redirect(cls, target: str, status: int = 302) -> Answer:
        return cls(status, headers={"Location": target})

    @classmethod
    def retry_after(cls, value: str | int, status: int = 503) -> Answer:
        """value: seconds, or an HTTP date."""
        return cls(status, headers={"Retry-After": str(value)})


class Receiver:
    """Answers with the next scripted answer of the path, then with the path's standing one, then with an empty 200."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._scripts: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._standing: dict[str, Answer] = {}
        self.stopping = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.port = int(self._server.server_address[1])
        self.host = f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends answers that wait or drip, and closes."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}{path}"

    def script(self, *answers: Answer, path: str = "/") -> None:
        """The answers to the next requests of the path, in turn."""
        with self._changed:
            self._scripts[path].extend(answers)

    def serve(self, path: str, answer: Answer) -> None:
        """The answer to every request of the path for which none is scripted."""
        with self._changed:
            self._standing[path] = answer

    @property
    def requests(self) -> list[Request]:
        """All that came so far, in their order."""
        with self._changed:
            return list(self._requests)

    def wait(self, count: int = 1, seconds: float = 30.0) -> list[Request]:
        """All requests, once there are so many. Raises AssertionError when there are not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, seconds):
                raise AssertionError(f"{len(self._requests)} requests instead of {count} after {seconds:g} s")
            return list(self._requests)

    def take(self, request: Request) -> Answer:
        """Records a request and gives its answer."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            path = request.path.partition("?")[0]
            if scripted := self._scripts[path]:
                return scripted.popleft()
            return self._standing.get(path, Answer())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.receiver.take(Request(self.command, self.path, headers, body, time.monotonic()))
        self.close_connection = True
        # A client that has left is no failure of the receiver.
        with suppress(ConnectionError):
            if not self.server.receiver.stopping.wait(answer.delay):
                self._give(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _take

    def _give(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not answer.endless:
            length = len(answer.body) if answer.declare is None else answer.declare
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        while True:
            self._write(answer.body, answer.drip)
            if not answer.endless or self.server.receiver.stopping.is_set():
                return

    def _write(self, body: bytes, drip: float | None) -> None:
        if drip is None:
            self.wfile.write(body)
            return
        for byte in body:
            if self.server.receiver.stopping.wait(drip):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running receiver; its address is private, so the code under test must be allowed to reach 127.0.0.1."""
    server = Receiver()
    server.start()
    try:
        yield server
    finally:
        server.stop()
