"""A Redis server of a test's own, which it may flush, stop, freeze and restart."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.servers.availability import unavailable
from tests.servers.processes import ServerFailed, ServerProcess, free_port


class PrivateRedis:
    """redis-server without persistence: a restart loses everything, as the service must bear."""

    def __init__(self, program: str, folder: Path) -> None:
        self._port = free_port()
        arguments = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(folder), "--save", ""]
        self._process = ServerProcess([program, *arguments, "--appendonly", "no"], folder / "redis.log")
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._process.start(self._answers, seconds=20)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def freeze(self) -> None:
        """Connections stay open and nothing answers, until `thaw`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def private_redis() -> Iterator[PrivateRedis]:
    """A running Redis server that belongs to one test."""
    program = shutil.which("redis-server")
    if program is None:
        unavailable("Redis", "redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="nightshift-redis-") as folder:
        server = PrivateRedis(program, Path(folder))
        try:
            server.start()
        except ServerFailed as error:
            unavailable("Redis", str(error))
        try:
            yield server
        finally:
            server.kill()
