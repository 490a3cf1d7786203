"""A model hub on loopback: gated repositories, as `huggingface_hub` asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

COMMIT = "0" * 40


class Hub:
    """files: of every repository, by name; a repository whose name ends in `none` does not exist.

    The token `good` may read; `stranger` is known and was not let in; others are unknown. asked: the paths, in order.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes, dict[str, str]]:
        """Status, content and headers."""
        self.asked.append(path)
        repository, _, name = path.strip("/").partition("/resolve/main/")
        if repository.endswith("none"):
            return 404, b"", {"X-Error-Code": "RepoNotFound"}
        if authorization is None:
            return 401, b"", {"X-Error-Code": "GatedRepo"}
        if authorization == "Bearer stranger":
            return 403, b"", {"X-Error-Code": "GatedRepo"}
        if authorization != "Bearer good":
            return 401, b"", {}
        if name not in self.files:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        return 200, self.files[name], {"ETag": '"abc"', "X-Repo-Commit": COMMIT}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(body=True)

            def do_HEAD(self) -> None:
                self._send(body=False)

            def _send(self, body: bool) -> None:
                status, content, headers = hub.answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Its repositories hold a config.json that is empty and a checkpoint.pt that is none."""
    one = Hub({"config.json": b"{}", "checkpoint.pt": b"weights" * 1000})
    one.start()
    yield one
    one.stop()
