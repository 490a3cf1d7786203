"""The service as README starts it on real services: each part a process of its own, with one environment for all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.command import Command, environment, processes_of
from tests.house import wait_for
from tests.servers.processes import ServerProcess, free_port


class Stack:
    """settings: NIGHTSHIFT_ variables without that beginning, for every process."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"home": self.home, "port": self.port, **settings}
        self.environment = environment(self.settings)
        self.command = Command(folder, inside=True, **self.settings, url=self.url)

    def once(self, *command: str) -> str:
        """Runs a command of the environment's folder of programs to its good end; returns what it printed."""
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run(
            [program, *command[1:]],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def process(self, *module: str) -> ServerProcess:
        """`python -m module …`, not yet started."""
        log = self.folder / f"{module[0]}.log"
        return ServerProcess([sys.executable, "-m", *module], log, environment=self.environment)

    @contextmanager
    def running(self, *processes: ServerProcess) -> Iterator[None]:
        """Keeps them running; then all end as SIGTERM asks them to, the last started first, and leave nothing."""
        try:
            for process in processes:
                process.start(lambda: True)
            yield
            for process in reversed(processes):
                process.stop(60)
            wait_for(lambda: not processes_of(NIGHTSHIFT_HOME=self.home), 20, "processes are left")
        finally:
            for process in processes:
                process.kill()

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
