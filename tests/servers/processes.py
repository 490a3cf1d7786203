"""Server processes of a test: started in process groups of their own, waited for, and ended whatever happens."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path


class ServerFailed(Exception):
    """The server ended, or was not ready in time; holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that is free now; below the range from which outgoing connections take theirs."""
    for _ in range(200):
        port = random.randint(20000, 32000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed("no free port found")


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess:
    """One server: `start`, `stop` (asks, then kills), `kill` (at once). Its children end with it, and it with us.

    user: the account it runs under; None for our own.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._argv = [str(part) for part in argv]
        self._log, self._environment, self._folder = log, environment, folder
        self._user, self._stop_signal = user, stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(f"{self._argv[0]} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Starts and waits until `ready` says so. Raises ServerFailed, with the server ended."""
        if self.running:
            raise ServerFailed(f"{self._argv[0]} runs already")
        account = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self._environment) if self._environment is not None else None,
                cwd=self._folder,
                start_new_session=True,
                **account,
            )
        atexit.register(self.kill)
        deadline = time.monotonic() + seconds
        try:
            while not ready():
                if not self.running:
                    raise ServerFailed(f"{self._argv[0]} ended:\n{self.log_tail()}")
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{self._argv[0]} was not ready after {seconds:g} s:\n{self.log_tail()}")
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = 20.0) -> None:
        """Asks the server to end; kills it when it has not after so long."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Ends the server and all its children at once, as a power cut would."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        atexit.unregister(self.kill)

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-lines:])
