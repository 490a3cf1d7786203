"""A language model's server for tests: speaks the OpenAI chat format over real HTTP, says what it is told to, and
remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Chat:
    """answers: one a request, the last again and again; a text, or a status and a body.  pause: seconds before each.

    asked: the requests' bodies.  keys: their Authorization.  left: set when a caller went away before its answer.
    """

    answers: list[str | tuple[int, str]]
    pause: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def next(self) -> tuple[int, str]:
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if not isinstance(answer, str):
            return answer
        said = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        return 200, json.dumps(
            {"id": "c1", "object": "chat.completion", "model": "tiny-1", "choices": [said], "usage": usage}
        )


@contextmanager
def served(*answers: str | tuple[int, str], pause: float = 0.0, models: Sequence[str] = ("tiny-1",)) -> Iterator[Chat]:
    """models: that it names."""
    chat = Chat(list(answers), pause)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            chat.keys.append(self.headers.get("Authorization"))
            self._give(200, json.dumps({"object": "list", "data": [{"id": name} for name in models]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self._give(404, '{"error": {"message": "no such path"}}')
                return
            chat.asked.append(body)
            chat.keys.append(self.headers.get("Authorization"))
            until = time.monotonic() + chat.pause
            while time.monotonic() < until:
                self.connection.settimeout(0.05)
                try:
                    if self.connection.recv(1) == b"":
                        chat.left.set()
                        self.close_connection = True
                        return
                except TimeoutError:
                    continue
            self.connection.settimeout(None)
            self._give(*chat.next())

        def _give(self, status: int, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
