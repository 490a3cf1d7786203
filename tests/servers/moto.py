"""moto's S3 server in this process: quick to stop and start, for outages. It checks no signature: see `swift`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.servers.processes import free_port
from tests.servers.swift import S3Server

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer


class MotoServer:
    """`stop` is the outage; `start` brings the same address and the same objects back.
    Two of them in one process have their buckets in common."""

    def __init__(self) -> None:
        self._port = free_port()
        self._thread: ThreadedMotoServer | None = None
        self.server = S3Server(f"http://127.0.0.1:{self._port}", "any", "any")

    def start(self) -> None:
        # Here, because it takes a second to import, and most tests need no such server.
        from moto.server import ThreadedMotoServer

        self._thread = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None


@pytest.fixture
def moto_s3() -> Iterator[MotoServer]:
    """A running S3 server that a test may stop and start."""
    moto = MotoServer()
    moto.start()
    try:
        yield moto
    finally:
        moto.stop()
