"""Inputs fetched from servers that redirect, break, lie, drip and never end."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from common.errors import NightshiftError
from common.outbound import guard as guard_module
from common.outbound import transport
from common.outbound.addresses import is_public
from common.outbound.fetch import MAX_REDIRECTS, MAX_RESUMES, Fetched, fetch
from tests.servers.dns import Names, names
from tests.servers.raw_http import Handler, Line, RawRequest, RawServer

__all__ = ["names"]

BODY = random.Random(1).randbytes(300_000)
DATES = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Last_Modified": "Sun, 06 Nov 1994 08:00:00 GMT"}


class Stop(Exception):
    pass


@pytest.fixture
def server() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between resumes; the deadline's own clock stays real."""
    monkeypatch.setattr("common.outbound.deadline.Deadline.sleep", lambda self, seconds: self.tick())


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """Where the file is to be; whatever happens, nothing else is left beside it."""
    target = tmp_path / "input"
    yield target
    assert set(tmp_path.iterdir()) <= {target}


def get(url: str, target: Path, **options: Any) -> Fetched:
    settings = {"max_bytes": 1_000_000, "deadline_seconds": 20, "allow_hosts": ["127.0.0.1"], **options}
    return fetch(url, target, **settings)


def failure(url: str, target: Path, **options: Any) -> NightshiftError:
    with pytest.raises(NightshiftError) as caught:
        get(url, target, **options)
    assert not target.exists()
    return caught.value


def test_a_file_arrives_with_what_the_server_says_of_it(server: RawServer, target: Path) -> None:
    reports: list[tuple[int, int | None]] = []

    def handler(request: RawRequest, line: Line) -> None:
        line.answer(BODY, Content_Type="audio/mpeg; x=y", ETag='"v1"', **DATES)

    url = server.on("/ep.mp3", handler)
    found = get(url + "?token=abc", target, on_progress=lambda done, total: reports.append((done, total)))
    assert target.read_bytes() == BODY
    assert found == Fetched(len(BODY), "audio/mpeg", url + "?token=abc", "ep.mp3", '"v1"', DATES["Last_Modified"])
    assert reports[-1] == (len(BODY), len(BODY))
    assert server.paths() == ["/ep.mp3?token=abc"]
    assert {"cookie", "authorization", "referer"}.isdisjoint(server.requests[0].headers)


@pytest.mark.parametrize("kind", ["chunked", "until the end", "empty"])
def test_bodies_of_unknown_length(server: RawServer, target: Path, kind: str) -> None:
    def handler(request: RawRequest, line: Line) -> None:
        if kind == "chunked":
            line.head(Transfer_Encoding="chunked")
            for start in range(0, len(BODY), 99_999):
                chunk = BODY[start : start + 99_999]
                line.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            line.send(b"0\r\n\r\n")
        elif kind == "until the end":
            line.head(Connection="close")
            line.send(BODY)
        else:
            line.answer(b"")

    found = get(server.on("/a", handler), target)
    assert target.read_bytes() == (b"" if kind == "empty" else BODY)
    assert found.size == target.stat().st_size


# Redirects


def redirect(where: str, status: int = 302) -> Handler:
    return lambda request, line: line.answer(b"elsewhere", status, Location=where)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_the_last_url_is_told(server: RawServer, target: Path, status: int) -> None:
    server.on("/a", redirect("/b/?x=1#f", status))
    server.on("/b/", redirect("c.flac", status))
    server.on("/b/c.flac", lambda request, line: line.answer(BODY))
    found = get(server.url("/a"), target)
    assert target.read_bytes() == BODY
    assert (found.final_url, found.filename) == (server.url("/b/c.flac"), "c.flac")
    assert server.paths() == ["/a", "/b/?x=1", "/b/c.flac"]


def test_as_many_redirects_as_allowed_and_not_one_more(server: RawServer, target: Path) -> None:
    for number in range(MAX_REDIRECTS + 2):
        server.on(f"/{number}", redirect(f"/{number + 1}"))
    server.on(f"/{MAX_REDIRECTS}", lambda request, line: line.answer(BODY))
    assert get(server.url("/0"), target).size == len(BODY)
    target.unlink()
    server.on(f"/{MAX_REDIRECTS}", redirect(f"/{MAX_REDIRECTS + 1}"))
    assert failure(server.url("/0"), target).code == "input_refused"


def test_a_circle_of_redirects_ends(server: RawServer, target: Path) -> None:
    server.on("/a", redirect("/b"))
    server.on("/b", redirect("/a"))
    error = failure(server.url("/a"), target)
    assert error.code == "input_refused" and not error.retryable
    assert len(server.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "where",
    [
        "http://127.0.0.2:{port}/secret",
        "http://localhost:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/secret",
        "http://2130706433:{port}/secret",
        "http://inside.example:{port}/secret",
        "http://user:pw@127.0.0.1:{port}/secret",
        "file:///etc/passwd",
        "ftp://127.0.0.1/secret",
        "http://127.0.0.1:x/",
    ],
)
def test_a_redirect_to_where_nobody_may_go(server: RawServer, target: Path, names: Names, where: str) -> None:
    names.set("inside.example", ["127.0.0.1"])
    server.on("/secret", lambda request, line: line.answer(b"secret"))
    server.on("/a", redirect(where.format(port=server.port)))
    assert failure(server.url("/a"), target).code == "url_forbidden"
    assert server.paths() == ["/a"]


def test_the_operator_s_host_does_not_open_its_other_ports(server: RawServer, target: Path) -> None:
    other = RawServer()
    try:
        server.on("/a", redirect(other.url("/secret")))
        error = failure(server.url("/a"), target, allow_hosts=[f"127.0.0.1:{server.port}"])
        assert error.code == "url_forbidden"
        assert other.connections == 0
    finally:
        other.stop()


def test_no_redirect_leads_from_https_to_http(
    server: RawServer, target: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    authority = trustme.CA()
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    transport._trusted.cache_clear()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    secure = RawServer(tls=context)
    try:
        server.on("/a", lambda request, line: line.answer(BODY))
        server.on("/up", redirect(secure.url("/b")))
        secure.on("/b", lambda request, line: line.answer(BODY))
        secure.on("/down", redirect(server.url("/a")))
        assert get(server.url("/up"), target).final_url == secure.url("/b")
        target.unlink()
        error = failure(secure.url("/down"), target)
        assert error.code == "url_forbidden" and "https to http" in error.detail
        assert server.paths() == ["/up"]
    finally:
        secure.stop()
        transport._trusted.cache_clear()


def test_a_redirect_without_a_place_is_refused(server: RawServer, target: Path) -> None:
    url = server.on("/a", lambda request, line: line.answer(b"", 302))
    assert failure(url, target).code == "input_refused"


def test_a_name_that_turns_private_between_redirects(
    server: RawServer, target: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = RawServer("127.9.9.9", server.port)
    monkeypatch.setattr(guard_module, "is_public", lambda address: str(address) == "127.9.9.9" or is_public(address))
    try:
        names.set("rebind.example", ["127.9.9.9"], ["127.0.0.1"])
        server.on("/secret", lambda request, line: line.answer(b"secret"))
        outside.on("/a", redirect("/secret"))
        url = server.url("/a", "rebind.example")
        assert failure(url, target, allow_hosts=[]).code == "url_forbidden"
        assert (outside.paths(), server.connections) == (["/a"], 0)
    finally:
        outside.stop()


# Sizes


def test_a_declared_size_over_the_limit_is_refused_unread(server: RawServer, target: Path) -> None:
    def handler(request: RawRequest, line: Line) -> None:
        line.head(Content_Length=1_000_001)
        line.stall()

    error = failure(server.on("/a", handler), target)
    assert error.code == "too_large" and not error.retryable


def test_a_body_that_never_ends_is_cut_at_the_limit(server: RawServer, target: Path) -> None:
    sent = 0

    def handler(request: RawRequest, line: Line) -> None:
        nonlocal sent
        line.head(Connection="close")
        while True:
            line.send(bytes(1 << 16))
            sent += 1 << 16

    assert failure(server.on("/a", handler), target).code == "too_large"
    server.stop()
    assert sent < 50_000_000


def test_exactly_the_limit_passes(server: RawServer, target: Path) -> None:
    url = server.on("/a", lambda request, line: line.answer(BODY))
    assert get(url, target, max_bytes=len(BODY)).size == len(BODY)
    target.unlink()
    assert failure(url, target, max_bytes=len(BODY) - 1).code == "too_large"


def test_a_body_sent_compressed_all_the_same_is_decoded_and_counted(server: RawServer, target: Path) -> None:
    url = server.on("/a", lambda request, line: line.answer(gzip.compress(BODY), Content_Encoding="gzip"))
    assert get(url, target).size == len(BODY)
    assert target.read_bytes() == BODY


def test_a_decompression_bomb_is_cut_at_the_limit(server: RawServer, target: Path) -> None:
    bomb = gzip.compress(bytes(100_000_000))
    assert len(bomb) < 1_000_000
    url = server.on("/a", lambda request, line: line.answer(bomb, Content_Encoding="gzip"))
    assert failure(url, target).code == "too_large"


@pytest.mark.parametrize(("encoding", "body"), [("br", BODY), ("gzip", BODY), ("gzip", gzip.compress(BODY)[:-20])])
def test_an_encoding_that_cannot_be_read_is_refused(
    server: RawServer, target: Path, encoding: str, body: bytes
) -> None:
    url = server.on("/a", lambda request, line: line.answer(body, Content_Encoding=encoding))
    assert failure(url, target).code == "input_refused"
    assert len(server.requests) == 1


# Answers


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 402, 403, 404, 410, 416, 451])
def test_answers_that_are_final(server: RawServer, target: Path, status: int) -> None:
    url = server.on("/a", lambda request, line: line.head(status))
    error = failure(url + "?signature=abc", target)
    assert (error.code, error.retryable, error.extra) == ("input_refused", False, {"upstream_status": status})
    assert "signature" not in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_answers_that_may_pass(server: RawServer, target: Path, status: int) -> None:
    url = server.on("/a", lambda request, line: line.answer(b"", status, Retry_After=7))
    error = failure(url, target)
    assert (error.code, error.retryable) == ("input_unreachable", True)
    assert error.extra == {"upstream_status": status, "retry_after": 7.0}
    assert len(server.requests) == 1


def test_servers_that_are_not_there(server: RawServer, target: Path, names: Names) -> None:
    server.stop()
    for url in (server.url("/a?signature=abc"), "http://nowhere.example/a?signature=abc"):
        error = failure(url, target)
        assert (error.code, error.retryable) == ("input_unreachable", True)
        assert "signature" not in str(error)


def test_a_server_that_answers_nonsense(server: RawServer, target: Path) -> None:
    url = server.on("/a", lambda request, line: line.send(b"220 mail.example ESMTP\r\n"))
    assert failure(url, target).code == "input_unreachable"


# Broken connections


class Breaking:
    """Serves BODY with ranges, but breaks every connection after `step` bytes of it."""

    def __init__(self, step: int, *, reset: bool = False, ranges: bool = True, **headers: object) -> None:
        self.step = step
        self.reset = reset
        self.ranges = ranges
        self.headers: dict[str, object] = headers
        self.body = BODY
        self.asked: list[tuple[str | None, str | None]] = []

    def __call__(self, request: RawRequest, line: Line) -> None:
        asked, version = request.headers.get("range"), request.headers.get("if-range")
        self.asked.append((asked, version))
        current = self.headers.get("ETag", self.headers.get("Last_Modified"))
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if first and version == current:
            span = f"bytes {first}-{len(self.body) - 1}/{len(self.body)}"
            line.head(206, Content_Range=span, Content_Length=len(self.body) - first, **self.headers)
        else:
            first = 0
            line.head(200, Content_Length=len(self.body), **self.headers)
        line.send(self.body[first : first + self.step])
        if self.reset:
            time.sleep(0.05)  # a RST would take what is still on its way with it
            line.reset()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("headers", [{"ETag": '"v1"'}, DATES])
def test_a_broken_connection_is_resumed_where_it_broke(
    server: RawServer, target: Path, reset: bool, headers: dict[str, object]
) -> None:
    breaking = Breaking(120_000, reset=reset, **headers)
    reports: list[tuple[int, int | None]] = []
    found = get(server.on("/a", breaking), target, on_progress=lambda done, total: reports.append((done, total)))
    assert target.read_bytes() == BODY
    assert found.size == len(BODY)
    version = headers.get("ETag", headers.get("Last_Modified"))
    assert breaking.asked == [(None, None), ("bytes=120000-", version), ("bytes=240000-", version)]
    assert reports[-1] == (len(BODY), len(BODY))


def test_a_file_that_changed_meanwhile_is_begun_again(server: RawServer, target: Path) -> None:
    breaking = Breaking(120_000, ETag='"v1"')
    other = random.Random(2).randbytes(50_000)  # less than was there already

    def handler(request: RawRequest, line: Line) -> None:
        if breaking.asked:
            breaking.headers["ETag"], breaking.body, breaking.step = '"v2"', other, 1_000_000
        breaking(request, line)

    found = get(server.on("/a", handler), target)
    assert target.read_bytes() == other
    assert found.etag == '"v2"'


@pytest.mark.parametrize("headers", [{"ETag": 'W/"v1"'}, {}, {"ETag": '"v1"', "Accept_Ranges": "none"}])
def test_a_body_of_unknown_version_is_never_patched_together(
    server: RawServer, target: Path, headers: dict[str, object]
) -> None:
    breaking = Breaking(120_000, **headers)

    def handler(request: RawRequest, line: Line) -> None:
        if len(breaking.asked) == 2:
            breaking.step = len(BODY)
        breaking(request, line)

    get(server.on("/a", handler), target)
    assert target.read_bytes() == BODY
    assert breaking.asked == [(None, None)] * 3


@pytest.mark.parametrize(
    "lie",
    [
        {"Content_Range": "bytes 0-299999/300000", "ETag": '"v1"'},
        {"Content_Range": "bytes 120000-299999/400000", "ETag": '"v1"'},
        {"Content_Range": "bytes 120000-299999/300000", "ETag": '"v2"'},
        {"Content_Range": "nonsense", "ETag": '"v1"'},
        {"ETag": '"v1"'},
    ],
)
def test_a_server_that_resumes_something_else_is_asked_from_the_start(
    server: RawServer, target: Path, lie: dict[str, object]
) -> None:
    asked: list[str | None] = []

    def handler(request: RawRequest, line: Line) -> None:
        asked.append(request.headers.get("range"))
        if asked[-1]:
            line.head(206, Content_Length=180_000, **lie)
            line.send(bytes(180_000))
        else:
            line.head(200, Content_Length=len(BODY), ETag='"v1"')
            line.send(BODY if len(asked) > 1 else BODY[:120_000])

    get(server.on("/a", handler), target)
    assert target.read_bytes() == BODY
    assert asked == [None, "bytes=120000-", None]


def test_a_server_that_resumes_in_small_ranges_is_asked_on(server: RawServer, target: Path) -> None:
    """A 206 may hold less than was asked for (RFC 9110, 15.3.7): its end is not the file's."""

    def handler(request: RawRequest, line: Line) -> None:
        if "range" not in request.headers:
            line.head(200, Content_Length=len(BODY), ETag='"v1"')
            line.send(BODY[:120_000])
            return
        first = int(request.headers["range"][6:-1])
        piece = BODY[first : first + 60_000]
        span = f"bytes {first}-{first + len(piece) - 1}/{len(BODY)}"
        line.answer(piece, 206, Content_Range=span, ETag='"v1"')

    get(server.on("/a", handler), target)
    assert target.read_bytes() == BODY
    assert len(server.requests) == 4


def test_a_range_that_is_gone_is_asked_from_the_start(server: RawServer, target: Path) -> None:
    def handler(request: RawRequest, line: Line) -> None:
        if "range" in request.headers:
            line.answer(b"", 416)
        else:
            line.head(200, Content_Length=len(BODY), ETag='"v1"')
            line.send(BODY if len(server.requests) > 1 else BODY[:120_000])

    get(server.on("/a", handler), target)
    assert target.read_bytes() == BODY


def test_an_error_while_resuming_is_only_another_break(server: RawServer, target: Path) -> None:
    breaking = Breaking(120_000, ETag='"v1"')

    def handler(request: RawRequest, line: Line) -> None:
        line.answer(b"", 503) if len(server.requests) == 2 else breaking(request, line)

    get(server.on("/a", handler), target)
    assert target.read_bytes() == BODY


def test_a_file_that_vanishes_while_resuming_is_refused(server: RawServer, target: Path) -> None:
    breaking = Breaking(120_000, ETag='"v1"')

    def handler(request: RawRequest, line: Line) -> None:
        line.answer(b"", 404) if len(server.requests) == 2 else breaking(request, line)

    assert failure(server.on("/a", handler), target).code == "input_refused"


@pytest.mark.parametrize("step", [0, 10])
def test_a_server_that_always_breaks_is_given_up(server: RawServer, target: Path, step: int) -> None:
    error = failure(server.on("/a", Breaking(step, ETag='"v1"')), target)
    assert (error.code, error.retryable) == ("input_unreachable", True)
    assert len(server.requests) == MAX_RESUMES + 1


# Time


def drip(request: RawRequest, line: Line) -> None:
    line.head(Content_Length=1_000_000)
    line.drip(b"x", 0.05)


def test_a_drip_is_too_slow(server: RawServer, target: Path) -> None:
    error = failure(server.on("/a", drip) + "?signature=abc", target, deadline_seconds=0.7)
    assert (error.code, error.retryable) == ("input_too_slow", True)
    assert "signature" not in str(error)
    assert len(server.requests) == 1


def test_a_silence_is_a_break(server: RawServer, target: Path) -> None:
    def handler(request: RawRequest, line: Line) -> None:
        first = int(request.headers.get("range", "bytes=0-")[6:-1])
        if first:
            span = f"bytes {first}-{len(BODY) - 1}/{len(BODY)}"
            line.head(206, Content_Range=span, Content_Length=len(BODY) - first, ETag='"v1"')
            line.send(BODY[first:])
        else:
            line.head(Content_Length=len(BODY), ETag='"v1"')
            line.send(BODY[:1000])
            line.stall()

    get(server.on("/a", handler), target, silence_seconds=0.3)
    assert target.read_bytes() == BODY
    assert len(server.requests) == 2


def stall(request: RawRequest, line: Line) -> None:
    line.stall()


def flow(request: RawRequest, line: Line) -> None:
    line.head(Connection="close")
    while True:
        line.send(bytes(1 << 14))
        time.sleep(0.001)


@pytest.mark.parametrize("handler", [drip, stall, flow])
def test_the_caller_is_asked_all_along_and_can_stop_it(
    server: RawServer, target: Path, handler: Callable[[RawRequest, Line], None]
) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Stop

    with pytest.raises(Stop):
        get(server.on("/a", handler), target, check=check, max_bytes=10**12)
    assert not target.exists()


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(server: RawServer, target: Path) -> None:
    target.write_bytes(b"old")
    url = server.on("/a", lambda request, line: line.head(404))
    with pytest.raises(NightshiftError):
        get(url, target)
    assert target.read_bytes() == b"old"
    server.on("/a", lambda request, line: line.answer(BODY))
    get(url, target)
    assert target.read_bytes() == BODY


def test_a_forbidden_url_touches_nothing(server: RawServer, target: Path) -> None:
    assert failure(server.url("/a"), target, allow_hosts=[]).code == "url_forbidden"
    assert server.connections == 0
