"""An HTTP server written by hand at the socket, for what no decent server does: drip, lie, break, stall, and TLS."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class RawRequest:
    """What came in. headers: names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Line:
    """The connection a handler writes to."""

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self.sock = sock
        self._stopping = stopping

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self, status: int = 200, /, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def answer(self, body: bytes = b"", status: int = 200, /, **headers: object) -> None:
        self.head(status, Content_Length=len(body), **headers)
        self.send(body)

    def drip(self, data: bytes, seconds: float) -> None:
        """Sends `data` again and again, a byte each `seconds`, until the client leaves or the server stops."""
        position = 0
        while not self._stopping.wait(seconds):
            self.send(data[position : position + 1])
            position = (position + 1) % len(data)

    def stall(self) -> None:
        """Says nothing until the server stops."""
        self._stopping.wait(60)

    def reset(self) -> None:
        """Breaks the connection with a RST, so that the client sees an error and not an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Handler = Callable[[RawRequest, Line], None]


class RawServer:
    """One thread a connection, one request a connection. Handlers are by path; an unknown path is answered 404.

    opening: instead of everything else, what to do with a connection before a byte is read.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        opening: Callable[[Line], None] | None = None,
    ) -> None:
        self.handlers: dict[str, Handler] = {}
        self.requests: list[RawRequest] = []
        self.connections = 0
        self._tls = tls
        self._opening = opening
        self._stopping = threading.Event()
        self._listener = socket.create_server((host, port))
        self.host, self.port = self._listener.getsockname()[:2]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"{'https' if self._tls else 'http'}://{host or self.host}:{self.port}{path}"

    def on(self, path: str, handler: Handler) -> str:
        self.handlers[path] = handler
        return self.url(path)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def stop(self) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(30)
            if self._opening:
                self._opening(Line(sock, self._stopping))
                return
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            request = _read(sock)
            if request:
                self.requests.append(request)
                handler = self.handlers.get(request.path.partition("?")[0])
                line = Line(sock, self._stopping)
                handler(request, line) if handler else line.answer(b"", 404)
        except OSError:
            pass  # the client left
        finally:
            sock.close()


def _read(sock: socket.socket) -> RawRequest | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += sock.recv(65536)
    return RawRequest(method, path, headers, body)
