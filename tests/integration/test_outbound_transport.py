"""The guarded path against real servers on loopback. Names come from a scripted DNS; connections are real."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import httpcore
import httpx
import pytest
import trustme

from common.errors import NightshiftError
from common.outbound import guard as guard_module
from common.outbound import transport
from common.outbound.addresses import is_public
from common.outbound.deadline import Deadline, DeadlinePassed
from common.outbound.guard import Guard
from common.outbound.transport import FAILURES, exchange, resolve
from tests.servers.dns import Names, names
from tests.servers.raw_http import Line, RawRequest, RawServer

__all__ = ["names"]

# Loopback as well, but taken for public by the tests that need a public server.
PUBLIC = "127.9.9.9"


class Stop(Exception):
    pass


def hello(request: RawRequest, line: Line) -> None:
    line.answer(b"hello")


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*args: object, **kwargs: object) -> RawServer:
        server = RawServer(*args, **kwargs)  # type: ignore[arg-type]
        server.on("/", hello)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def one_public(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(address: IPv4Address | IPv6Address) -> bool:
        return address == ip_address(PUBLIC) or is_public(address)

    monkeypatch.setattr(guard_module, "is_public", judge)


def get(url: str, *allow: str, deadline: Deadline | None = None, silence: float = 5.0) -> bytes:
    guard = Guard(allow)
    checked = guard.check_url(url)
    with exchange("GET", checked, guard=guard, deadline=deadline or Deadline(20), silence_seconds=silence) as response:
        return b"".join(response.iter_raw())


def test_the_name_is_looked_up_once_and_stays_the_name(serve: Callable[..., RawServer], names: Names) -> None:
    server = serve()
    names.set("nas.lan", ["127.0.0.1"])
    assert get(server.url("/", "nas.lan"), "nas.lan") == b"hello"
    assert names.lookups == ["nas.lan"]
    assert server.requests[0].headers["host"] == f"nas.lan:{server.port}"
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_private_server_is_never_connected_to(serve: Callable[..., RawServer], names: Names) -> None:
    server = serve()
    names.set("evil.example", ["127.0.0.1"])
    names.set("mixed.example", ["93.184.215.14", "127.0.0.1"])
    for host in ("evil.example", "mixed.example"):
        with pytest.raises(NightshiftError) as caught:
            get(server.url("/", host))
        assert caught.value.code == "url_forbidden"
        assert "127.0.0.1" not in f"{caught.value} {caught.value.hint}"
    assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "0x7f000001", "127.1", "0"])
def test_the_system_s_reading_of_an_address_is_screened(serve: Callable[..., RawServer], host: str) -> None:
    server = serve()
    with (
        pytest.raises(NightshiftError, match="url_forbidden"),
        exchange("GET", httpx.URL(server.url("/", host)), guard=Guard(), deadline=Deadline(5)),
    ):
        pass
    assert server.connections == 0


@pytest.mark.usefixtures("one_public")
def test_a_name_that_turns_private_after_its_check_is_of_no_use(serve: Callable[..., RawServer], names: Names) -> None:
    outside = serve(PUBLIC)
    inside = serve("127.0.0.1", outside.port)
    names.set("rebind.example", [PUBLIC], ["127.0.0.1"])
    assert get(outside.url("/", "rebind.example")) == b"hello"
    # The connection took the address that was screened: there was no second look-up to be fooled by.
    assert names.lookups == ["rebind.example"]
    assert (outside.connections, inside.connections) == (1, 0)
    # The next connection looks up and screens anew.
    with pytest.raises(NightshiftError, match="url_forbidden"):
        get(outside.url("/", "rebind.example"))
    assert (outside.connections, inside.connections) == (1, 0)


def test_the_next_address_is_taken_where_one_does_not_answer(serve: Callable[..., RawServer], names: Names) -> None:
    server = serve()
    names.set("nas.lan", ["127.9.9.8", "127.0.0.1"])
    assert get(server.url("/", "nas.lan"), "nas.lan") == b"hello"


def test_failures_say_what_failed(serve: Callable[..., RawServer], names: Names) -> None:
    server = serve()
    names.set("nas.lan", ["127.0.0.1"])
    url = server.url("/", "nas.lan")
    server.stop()
    with pytest.raises(httpcore.ConnectError, match="connection refused"):
        get(url, "nas.lan")
    with pytest.raises(httpcore.ConnectError, match="does not resolve"):
        get("http://nowhere.example/")


def test_proxies_of_the_environment_are_not_used(
    serve: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(), serve()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url())
    assert get(server.url(), "127.0.0.1") == b"hello"
    assert proxy.connections == 0


def test_a_look_up_that_hangs_is_left_behind(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = names.hang()
    try:
        monkeypatch.setattr(transport, "RESOLVE_SECONDS", 0.2)
        with pytest.raises(httpcore.ConnectTimeout, match="not resolved"):
            resolve("slow.example", 80, Deadline(10))
        monkeypatch.setattr(transport, "RESOLVE_SECONDS", 30.0)
        with pytest.raises(DeadlinePassed):
            resolve("slow.example", 80, Deadline(0.2))
        with pytest.raises(Stop):
            resolve("slow.example", 80, Deadline(30, stop_after(0.2)))
    finally:
        hanging.set()


def stop_after(seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise Stop

    return check


def drip_head(request: RawRequest, line: Line) -> None:
    line.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    line.drip(b"x", 0.05)


def drip_body(request: RawRequest, line: Line) -> None:
    line.head(Content_Length=10**9)
    line.drip(b"x", 0.05)


def stall_head(request: RawRequest, line: Line) -> None:
    line.stall()


def stall_body(request: RawRequest, line: Line) -> None:
    line.head(Content_Length=10)
    line.stall()


def flood_body(request: RawRequest, line: Line) -> None:
    line.head(Content_Length=10**15)
    while True:
        line.send(bytes(1 << 16))


@pytest.mark.parametrize("handler", [drip_head, drip_body, stall_head, stall_body, flood_body])
def test_the_deadline_ends_a_server_that_keeps_talking_or_silent(
    serve: Callable[..., RawServer], handler: Callable[[RawRequest, Line], None]
) -> None:
    url = serve().on("/slow", handler)
    with pytest.raises(DeadlinePassed):
        get_nothing(url, Deadline(0.6))
    with pytest.raises(Stop):
        get_nothing(url, Deadline(30, stop_after(0.2)))


def get_nothing(url: str, deadline: Deadline) -> None:
    with exchange("GET", httpx.URL(url), guard=Guard(["127.0.0.1"]), deadline=deadline) as response:
        for _ in response.iter_raw():
            pass


@pytest.mark.parametrize("handler", [stall_head, stall_body])
def test_a_silence_has_a_limit_of_its_own(
    serve: Callable[..., RawServer], handler: Callable[[RawRequest, Line], None]
) -> None:
    with pytest.raises(httpcore.ReadTimeout):
        get(serve().on("/slow", handler), "127.0.0.1", silence=0.2)


def test_a_server_that_does_not_read_is_ended(serve: Callable[..., RawServer]) -> None:
    server = serve(opening=Line.stall)
    with (
        pytest.raises(DeadlinePassed),
        exchange(
            "POST", httpx.URL(server.url()), guard=Guard(["127.0.0.1"]), deadline=Deadline(0.5), body=bytes(1 << 25)
        ),
    ):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    ],
    ids=["nothing", "ssh", "long number", "negative", "short body", "short chunks", "bad chunks", "endless head"],
)
def test_answers_that_are_not_http_are_failures(serve: Callable[..., RawServer], answer: bytes) -> None:
    url = serve().on("/bad", lambda request, line: line.send(answer))
    with pytest.raises(FAILURES):
        get(url, "127.0.0.1")


# TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[trustme.CA]:
    """An authority that the system trusts while the test runs, set up the way an operator would."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    transport._trusted.cache_clear()
    yield authority
    transport._trusted.cache_clear()


def tls(authority: trustme.CA, *identities: str) -> tuple[ssl.SSLContext, list[str | None]]:
    """A server's context with a certificate for `identities`, and the names that clients ask it for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*identities).configure_cert(context)
    asked: list[str | None] = []

    def note(sock: object, name: str | None, context: object) -> None:
        asked.append(name)

    context.sni_callback = note
    return context, asked


def test_tls_is_spoken_under_the_name_though_the_address_is_pinned(
    serve: Callable[..., RawServer], names: Names, authority: trustme.CA
) -> None:
    context, asked = tls(authority, "files.example")
    server = serve(tls=context)
    names.set("files.example", ["127.0.0.1"])
    assert get(server.url("/", "files.example"), "files.example") == b"hello"
    assert get(server.url("/", "FILES.example."), "files.example") == b"hello"
    assert asked == ["files.example", "files.example"]
    assert {request.headers["host"] for request in server.requests} == {f"files.example:{server.port}"}


@pytest.mark.parametrize("identity", ["other.example", "127.0.0.1", "sub.files.example", "*.files.example"])
def test_a_certificate_for_anything_but_the_name_is_refused(
    serve: Callable[..., RawServer], names: Names, authority: trustme.CA, identity: str
) -> None:
    context, _ = tls(authority, identity)
    server = serve(tls=context)
    names.set("files.example", ["127.0.0.1"])
    with pytest.raises(httpcore.ConnectError, match="certificate was not accepted"):
        get(server.url("/", "files.example"), "files.example")
    assert server.requests == []


@pytest.mark.usefixtures("authority")
def test_an_authority_that_is_not_trusted_is_refused(serve: Callable[..., RawServer], names: Names) -> None:
    context, _ = tls(trustme.CA(), "files.example")
    server = serve(tls=context)
    names.set("files.example", ["127.0.0.1"])
    with pytest.raises(httpcore.ConnectError, match="certificate was not accepted"):
        get(server.url("/", "files.example"), "files.example")
    assert server.requests == []


def test_a_tls_body_without_its_goodbye_is_a_failure(
    serve: Callable[..., RawServer], names: Names, authority: trustme.CA
) -> None:
    """An attacker on the way can cut a connection, but cannot forge TLS's close."""
    context, _ = tls(authority, "files.example")
    server = serve(tls=context)
    names.set("files.example", ["127.0.0.1"])

    def cut(request: RawRequest, line: Line) -> None:
        line.head(Connection="close")
        line.send(b"half of it")

    def whole(request: RawRequest, line: Line) -> None:
        cut(request, line)
        line.sock.unwrap()  # type: ignore[attr-defined]

    server.on("/cut", cut)
    server.on("/whole", whole)
    assert get(server.url("/whole", "files.example"), "files.example") == b"half of it"
    with pytest.raises(httpcore.ReadError, match="TLS failed"):
        get(server.url("/cut", "files.example"), "files.example")


def test_a_handshake_that_stalls_ends(serve: Callable[..., RawServer]) -> None:
    server = serve(opening=Line.stall)
    url = f"https://127.0.0.1:{server.port}/"
    with pytest.raises(DeadlinePassed):
        get(url, "127.0.0.1", deadline=Deadline(0.3))
    with pytest.raises(Stop):
        get(url, "127.0.0.1", deadline=Deadline(30, stop_after(0.2)))


def test_a_handshake_that_stalls_has_a_limit_of_its_own(
    serve: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
    server = serve(opening=Line.stall)
    with pytest.raises(httpcore.ConnectTimeout):
        get(f"https://127.0.0.1:{server.port}/", "127.0.0.1")


def test_plain_http_on_a_tls_port_and_the_reverse_are_failures(
    serve: Callable[..., RawServer], authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.5)
    plain = serve()
    with pytest.raises(FAILURES):
        get(f"https://127.0.0.1:{plain.port}/", "127.0.0.1")
    context, _ = tls(authority, "127.0.0.1")
    secure = serve(tls=context)
    with pytest.raises(FAILURES):
        get(f"http://127.0.0.1:{secure.port}/", "127.0.0.1")
    assert get(secure.url(), "127.0.0.1") == b"hello"
