"""A client that costs next to nothing, so that what is measured is the server: prepared bytes over kept connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Load:
    """seconds: from the first request to the last answer.  latencies: of each request, seconds."""

    seconds: float
    latencies: Sequence[float]

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


def post(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def send(port: int, requests: Callable[[], bytes], count: int, clients: int, expect: int) -> Load:
    """Sends `count` requests from `clients` connections, each waiting for its answer. Raises for another status."""
    prepared = [[requests() for _ in range(n, count, clients)] for n in range(clients)]
    latencies: list[float] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(clients + 1)

    def client(mine: list[bytes]) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ready.wait()
                for request in mine:
                    began = time.perf_counter()
                    connection.sendall(request)
                    _read(connection, expect)
                    latencies.append(time.perf_counter() - began)
        except BaseException as error:
            errors.append(error)
            ready.abort()

    threads = [threading.Thread(target=client, args=(mine,)) for mine in prepared]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    try:
        ready.wait()
        began = time.perf_counter()
    except threading.BrokenBarrierError:
        pass
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if errors:
        raise errors[0]
    return Load(took, latencies)


def _read(connection: socket.socket, expect: int) -> None:
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _more(connection)
    head, _, body = answer[:end].partition(b"\r\n")
    if head.split()[1] != b"%d" % expect:
        raise RuntimeError(f"answered {answer[:2000]!r} instead of {expect}")
    length = next(
        int(line.split(b":")[1]) for line in body.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    missing = end + 4 + length - len(answer)
    while missing > 0:
        missing -= len(_more(connection))


def _more(connection: socket.socket) -> bytes:
    chunk = connection.recv(65536)
    if not chunk:
        raise ConnectionError("the server closed the connection")
    return chunk
