"""The deliverer beside receivers that answer, hang and come back: who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.db import keys
from common.db.engine import Database
from common.db.keys import Scope
from common.jobs import callbacks
from common.settings import Settings
from tests.house import wait_for
from tests.servers.receiver import Answer, Receiver
from worker.deliver import AT_ONCE, Deliverer


@pytest.fixture
def hanging() -> Iterator[Receiver]:
    """A receiver that takes messages and does not answer before it is stopped."""
    server = Receiver()
    server.serve("/", Answer(delay=600))
    server.start()
    yield server
    server.stop()


@contextmanager
def delivering(database: Database, *allowed: Receiver) -> Iterator[None]:
    settings = Settings(
        signing_key="s" * 32, callback_timeout_seconds=20, allow_private_hosts=",".join(one.host for one in allowed)
    )
    over = threading.Event()
    thread = threading.Thread(target=Deliverer(settings, database).serve, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        for one in allowed:
            one.stopping.set()
        thread.join(60)
        assert not thread.is_alive()


def put(database: Database, url: str, count: int) -> list[str]:
    with database.write() as tx:
        key_id = keys.create(tx, "caller", [Scope.WRITE])[0].id
        return [callbacks.put(tx, key_id, url, "test", '{"type":"test"}') for _ in range(count)]


def test_a_receiver_that_hangs_keeps_no_other_waiting(
    database: Database, receiver: Receiver, hanging: Receiver
) -> None:
    put(database, hanging.url(), 3 * AT_ONCE)
    with delivering(database, receiver, hanging):
        hanging.wait(2)
        sent = put(database, receiver.url(), 3 * AT_ONCE)
        receiver.wait(len(sent), 15)
        assert {request.headers["webhook-id"] for request in receiver.requests} == set(sent)
        # It still hangs on the first ones it got, and got no more.
        assert len(hanging.requests) == 2


def test_two_addresses_of_one_host_share_its_places(database: Database, hanging: Receiver, receiver: Receiver) -> None:
    for path in ("/a", "/b", "/c"):
        hanging.serve(path, Answer(delay=600))
        put(database, hanging.url(path), 2)
    marker = put(database, receiver.url(), 1)
    with delivering(database, receiver, hanging):
        hanging.wait(2)
        receiver.wait(len(marker), 15)
        assert len(hanging.requests) == 2


def test_what_a_deliverer_died_on_is_sent_by_the_next(database: Database, receiver: Receiver) -> None:
    (message,) = put(database, receiver.url(), 1)
    with database.write() as tx:
        # Taken by one that is never heard of again.
        assert [one.id for one in callbacks.due(tx, 10, 1.0)] == [message]
    with delivering(database, receiver):
        (request,) = receiver.wait(1, 15)
        assert request.headers["webhook-id"] == message

        def delivered() -> bool:
            with database.read() as tx:
                return bool(callbacks.log(tx, keys.list_all(tx)[0].id, before=None, limit=5, state="delivered"))

        wait_for(delivered, 15)
