"""A TCP or TLS connection whose every wait passes a deadline.

A timeout per read does not end a server that sends one byte now and then (`timeout=2` still blocked after 12 s), and a
blocking read cannot be cancelled. So the socket never blocks: one place waits, in slices, under the `Deadline`.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

import httpcore

from common.outbound.deadline import Deadline

T = TypeVar("T")


class Stream(httpcore.NetworkStream):
    """httpcore's view of a connected socket. A `timeout` limits one silence, the deadline everything together."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._retry(
            lambda: self._sock.recv(max_bytes),
            selectors.EVENT_READ,
            timeout,
            failed=httpcore.ReadError,
            late=httpcore.ReadTimeout,
        )

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        while view:
            sent = self._retry(
                lambda: self._sock.send(view),  # noqa: B023 - called before the loop goes on
                selectors.EVENT_WRITE,
                timeout,
                failed=httpcore.WriteError,
                late=httpcore.WriteTimeout,
            )
            view = view[sent:]

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        """The handshake. Ragged ends count as errors: without TLS's own goodbye a body may have been cut short."""
        wrapped = ssl_context.wrap_socket(
            self._sock, server_hostname=server_hostname, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        stream = Stream(wrapped, self._deadline)
        try:
            stream._retry(
                wrapped.do_handshake,
                selectors.EVENT_READ,
                timeout,
                failed=httpcore.ConnectError,
                late=httpcore.ConnectTimeout,
            )
        except BaseException:
            stream.close()
            raise
        return stream

    def close(self) -> None:
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "ssl_object":
                return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
            case "socket":
                return self._sock
            case "server_addr":
                return self._sock.getpeername()
            case "client_addr":
                return self._sock.getsockname()
            case "is_readable":
                return self._sock.fileno() < 0 or _ready(self._sock, selectors.EVENT_READ, 0)
        return None

    def _retry(
        self,
        attempt: Callable[[], T],
        event: int,
        timeout: float | None,
        *,
        failed: type[httpcore.NetworkError],
        late: type[httpcore.TimeoutException],
    ) -> T:
        while True:
            # Also when bytes are always there: a server must not outrun the deadline by being fast.
            self._deadline.tick()
            try:
                return attempt()
            except ssl.SSLWantReadError:
                wanted = selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                wanted = selectors.EVENT_WRITE
            except BlockingIOError:
                wanted = event
            except OSError as error:
                raise failed(reason(error)) from error
            if not self._deadline.wait(lambda span: _ready(self._sock, wanted, span), timeout):  # noqa: B023
                raise late(f"nothing happened for {timeout:g} s")


def connect(address: IPv4Address | IPv6Address, port: int, deadline: Deadline, timeout: float) -> Stream:
    """A connection to exactly this address. Raises httpcore's ConnectError and ConnectTimeout, DeadlinePassed."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(reason(error)) from error
    try:
        sock.setblocking(False)
        code = sock.connect_ex((str(address), port))
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            if not deadline.wait(lambda span: _ready(sock, selectors.EVENT_WRITE, span), timeout):
                raise httpcore.ConnectTimeout(f"no connection within {timeout:g} s")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise httpcore.ConnectError(os.strerror(code).lower())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(sock, deadline)
    except BaseException:
        sock.close()
        raise


def reason(error: OSError) -> str:
    """An OSError in a few words that name no address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'the connection ended early'}"
    return (error.strerror or type(error).__name__).lower()


def _ready(sock: socket.socket, event: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        return bool(selector.select(seconds))
