"""One guarded exchange: resolve once, screen every address, connect to one of them, speak HTTP/1.1 under the name."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import httpcore
import httpx

from common.outbound.deadline import Deadline
from common.outbound.guard import Guard
from common.outbound.stream import Stream, connect

USER_AGENT = "Nightshift"

# What an exchange raises when the other side, or the way to it, is at fault.
FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)

RESOLVE_SECONDS = 10.0
CONNECT_SECONDS = 5.0
CONNECT_ADDRESSES = 4


@contextmanager
def exchange(
    method: str,
    url: httpx.URL,
    *,
    guard: Guard,
    deadline: Deadline,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    silence_seconds: float = 60.0,
) -> Iterator[httpx.Response]:
    """Sends one request and gives the answer as it comes; `iter_raw()` reads its body as sent.

    Nothing is added to the request but Host, Content-Length, User-Agent and `Accept-Encoding: identity`: no proxy,
    cookie or credential from the environment. httpx's client is left out on purpose, for it also logs whole URLs.

    url: from `Guard.check_url`.  silence_seconds: longest wait for the next byte.
    Raises `url_forbidden`, DeadlinePassed, one of FAILURES, and what the deadline's check raises.
    """
    given = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
    request = httpx.Request(method, url, headers=given, content=body)
    timeouts = {"connect": CONNECT_SECONDS, "read": silence_seconds, "write": silence_seconds}
    with httpcore.ConnectionPool(
        ssl_context=_trusted(), network_backend=_Backend(guard, deadline), max_keepalive_connections=0
    ) as pool:
        answer = pool.handle_request(
            httpcore.Request(
                method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.read(),
                extensions={"timeout": timeouts},
            )
        )
        try:
            yield httpx.Response(
                answer.status, headers=answer.headers, stream=_Body(answer.iter_stream()), request=request
            )
        finally:
            answer.close()


def resolve(host: str, port: int, deadline: Deadline) -> list[IPv4Address | IPv6Address]:
    """The addresses of a host, each once, in the system's order of preference.

    The C library's look-up cannot be interrupted, so it runs in a thread that is left behind when time is up.
    Raises httpcore's ConnectError for a name without address, ConnectTimeout, DeadlinePassed.
    """
    answers: list[Any] = []
    failures: list[Exception] = []
    done = threading.Event()

    def _look_up() -> None:
        try:
            answers.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failures.append(error)
        finally:
            done.set()

    threading.Thread(target=_look_up, name="resolve", daemon=True).start()
    if not deadline.wait(done.wait, RESOLVE_SECONDS):
        raise httpcore.ConnectTimeout(f"the name was not resolved within {RESOLVE_SECONDS:g} s")
    addresses = [ip_address(sockaddr[0]) for *_, sockaddr in answers]
    if not addresses:
        raise httpcore.ConnectError("the name does not resolve") from (failures[0] if failures else None)
    return list(dict.fromkeys(addresses))


class _Backend(httpcore.NetworkBackend):
    """Where httpcore gets its connections. The name it was asked for stays the name for TLS and Host."""

    def __init__(self, guard: Guard, deadline: Deadline) -> None:
        self._guard = guard
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        addresses = resolve(host, port, self._deadline)
        self._guard.screen(host, port, addresses)
        failure: Exception | None = None
        for address in addresses[:CONNECT_ADDRESSES]:
            try:
                return connect(address, port, self._deadline, timeout or CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = failure or error
        assert failure is not None
        raise failure


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream


@functools.cache
def _trusted() -> ssl.SSLContext:
    """certifi's authorities and the system's, so that an operator's own authority is added the system's way."""
    return httpcore.default_ssl_context()
