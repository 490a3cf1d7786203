"""Callbacks to real receivers on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from common.outbound.backoff import Outcome
from common.outbound.webhooks import KEPT_BYTES, Delivery, new_secret, post, sign
from tests.servers.dns import Names, names
from tests.servers.raw_http import Line, RawRequest, RawServer

__all__ = ["names"]

BODY = '{"type":"job.succeeded","name":"Für alle"}'.encode()


@pytest.fixture
def server() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.stop()


def send(url: str, timeout: float = 10.0, **headers: str) -> Delivery:
    return post(url, BODY, headers, timeout=timeout, allow_hosts=["127.0.0.1"])


def test_a_delivery_arrives_whole_and_verifies(server: RawServer) -> None:
    old, new = new_secret(), new_secret()
    url = server.on("/hook", lambda request, line: line.answer(b"thanks", 202))
    delivery = post(
        url, BODY, sign([new, old], "msg_1", datetime.now(UTC), BODY), timeout=10, allow_hosts=["127.0.0.1"]
    )
    assert (delivery.status, delivery.error, delivery.response) == (202, None, "thanks")
    assert delivery.outcome is Outcome.DELIVERED
    assert 0 < delivery.duration < 10
    [request] = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/hook", BODY)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "msg_1"
    for secret in (old, new):
        Webhook(secret).verify(request.body, dict(request.headers))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure(server: RawServer, status: int) -> None:
    server.on("/other", lambda request, line: line.answer())
    url = server.on("/hook", lambda request, line: line.answer(b"", status, Location="/other"))
    delivery = send(url)
    assert (delivery.status, delivery.outcome) == (status, Outcome.RETRY)
    assert server.paths() == ["/hook"]


@pytest.mark.parametrize(
    ("status", "asked", "outcome", "wait"),
    [
        (500, None, Outcome.RETRY, None),
        (404, None, Outcome.RETRY, None),
        (429, "120", Outcome.RETRY, 120.0),
        (503, "soon", Outcome.RETRY, None),
        (410, None, Outcome.GONE, None),
    ],
)
def test_other_answers(server: RawServer, status: int, asked: str | None, outcome: Outcome, wait: float | None) -> None:
    headers = {"Retry_After": asked} if asked else {}
    delivery = send(server.on("/hook", lambda request, line: line.answer(b"no", status, **headers)))
    assert (delivery.status, delivery.outcome, delivery.retry_after) == (status, outcome, wait)


def test_only_the_beginning_of_the_answer_is_kept(server: RawServer) -> None:
    def endless(request: RawRequest, line: Line) -> None:
        line.head(Connection="close")
        while True:
            line.send(b"a\0\xff" * 1000)

    delivery = send(server.on("/hook", endless))
    assert delivery.outcome is Outcome.DELIVERED
    assert delivery.response == ("a��" * KEPT_BYTES)[:KEPT_BYTES]


def test_a_body_that_drips_or_breaks_does_not_undo_the_delivery(server: RawServer) -> None:
    def drips(request: RawRequest, line: Line) -> None:
        line.head(Content_Length=900)
        line.drip(b"x", 0.05)

    def breaks(request: RawRequest, line: Line) -> None:
        line.head(Content_Length=900)
        line.send(b"ok")

    assert send(server.on("/drips", drips), 0.5).outcome is Outcome.DELIVERED
    delivery = send(server.on("/breaks", breaks))
    assert (delivery.outcome, delivery.response) == (Outcome.DELIVERED, "ok")


def test_the_time_is_limited_in_all(server: RawServer) -> None:
    def drips(request: RawRequest, line: Line) -> None:
        line.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        line.drip(b"x", 0.05)

    delivery = send(server.on("/hook", drips), 0.5)
    assert (delivery.status, delivery.error, delivery.outcome) == (None, "no answer within 0.5 s", Outcome.RETRY)
    assert 0.5 <= delivery.duration < 5


def test_receivers_that_are_not_there(server: RawServer, names: Names) -> None:
    server.stop()
    refused = send(server.url("/hook"))
    assert (refused.status, refused.error, refused.outcome) == (None, "connection refused", Outcome.RETRY)
    assert send("http://nowhere.example/hook").error == "the name does not resolve"


def test_private_receivers_are_not_contacted(server: RawServer, names: Names) -> None:
    names.set("inside.example", ["127.0.0.1"])
    for url in (server.url("/hook"), server.url("/hook", "inside.example"), server.url("/hook", "u:p@inside.example")):
        delivery = post(url, BODY, {}, timeout=5)
        assert delivery.status is None and delivery.outcome is Outcome.RETRY
        assert delivery.error is not None and delivery.error.startswith("url_forbidden")
    assert server.connections == 0


def test_the_operator_s_hosts_are_contacted(server: RawServer, names: Names) -> None:
    names.set("hooks.lan", ["127.0.0.1"])
    url = server.on("/hook", lambda request, line: line.answer()).replace("127.0.0.1", "hooks.lan")
    assert post(url, BODY, {}, timeout=5, allow_hosts=[f"hooks.lan:{server.port}"]).outcome is Outcome.DELIVERED
