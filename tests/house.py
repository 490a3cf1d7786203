"""A house for tests: one installation with its database, store and scratch, and workers in it as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from common import engines
from common.db import keys, uploads
from common.db.engine import Database
from common.db.keys import Scope
from common.jobs import events, query, queueing, submit
from common.jobs.job import Job
from common.params import parse_request
from common.queue import open_ringer
from common.quotas import Quotas
from common.settings import Settings
from common.states import State
from common.storage import keys as layout
from common.storage import open_store
from tests.engines import ALL
from tests.servers.processes import ServerProcess

if TYPE_CHECKING:
    from worker.scheduler import Scheduler

T = TypeVar("T")

# Short, so that a test of a lost lease takes seconds.
QUICK: dict[str, Any] = {
    "lease_seconds": 3.0,
    "heartbeat_seconds": 0.5,
    "cancel_poll_seconds": 0.2,
    "poll_seconds": 0.1,
    "tick_seconds": 0.2,
    "rescue_seconds": 0.3,
    "rering_seconds": 1.0,
    "retry_base_seconds": 0.1,
    "drain_seconds": 10.0,
}


def wait_for(what: Callable[[], T], seconds: float = 60.0, why: str = "") -> T:
    """Waits until `what` gives something true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, why or f"waited {seconds:g} s in vain"
        time.sleep(0.05)
    return value


class House:
    """One installation. settings: as its processes see them too, through `environment`."""

    def __init__(self, home: Path, database_url: str, **members: Any) -> None:
        values = {**QUICK, "home": home, "database_url": database_url, "extra_engines": ALL, **members}
        self._values = values
        self.settings = Settings(**values)
        engines.register(self.settings.extra_engines)
        self.database = Database(database_url)
        self.store = open_store(self.settings)
        self.ringer = open_ringer(self.settings)
        with self.database.write() as tx:
            self.key, self.token = keys.create(tx, "tester", list(Scope))

    @property
    def environment(self) -> dict[str, str]:
        told = {
            f"NIGHTSHIFT_{name.upper()}": ",".join(value) if isinstance(value, tuple | list) else str(value)
            for name, value in self._values.items()
        }
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **told}

    def upload(self, path: Path, sha256: str | None = None) -> str:
        upload_id = uploads.new_id()
        key = layout.upload(self.key.id, upload_id)
        stat = self.store.put(key, path)
        with self.database.write() as tx:
            uploads.create(
                tx, upload_id, self.key.id, key, filename=path.name, content_type="audio/wav", size=stat.size,
                sha256=sha256, ready=True,
            )  # fmt: skip
        return upload_id

    def submit(self, engine: str = "fast", **members: Any) -> Job:
        """Submits as the API does."""
        body = {"engine": engine, "params": {"prompts": ["speech"]}, **members}
        request = parse_request(body)
        with self.database.write() as tx:
            job = submit.submit(tx, self.key.id, request, default_quota=Quotas(1000)).job
            bells = queueing.fill(tx, job.lane, self.settings.release_ahead, self.settings.alive_seconds)
        self.ringer.ring(bells)
        return job

    def job(self, job_id: str) -> Job:
        with self.database.read() as tx:
            job = query.get(tx, job_id)
        assert job is not None
        return job

    def log(self, job_id: str) -> list[dict[str, Any]]:
        with self.database.read() as tx:
            return [dict(event.data) for event in events.after(tx, job_id)]

    def ended(self, job_id: str, seconds: float = 60.0) -> Job:
        wait_for(lambda: self.job(job_id).terminal, seconds, f"{job_id} has not ended")
        return self.job(job_id)

    def reached(self, job_id: str, state: State, seconds: float = 30.0) -> Job:
        wait_for(lambda: self.job(job_id).state is state, seconds, f"{job_id} is not {state}")
        return self.job(job_id)

    def process(self, *module: str, **members: Any) -> ServerProcess:
        """A process of the house, `python -m module …`, not yet started; members: settings of its own."""
        environment = {**self.environment, **{f"NIGHTSHIFT_{n.upper()}": str(v) for n, v in members.items()}}
        log = self.settings.home / f"{module[0]}-{time.monotonic_ns()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return ServerProcess([sys.executable, "-m", *module], log, environment=environment)

    @contextmanager
    def running(self, *processes: ServerProcess) -> Iterator[None]:
        try:
            for process in processes:
                process.start(lambda: True)
            yield
        finally:
            for process in processes:
                process.kill()

    @contextmanager
    def kept_going(self, scheduler: Scheduler) -> Iterator[None]:
        """Inside, a worker runs that is started again whenever it dies, as a launcher does, and a scheduler rescues and
        releases."""
        over = threading.Event()

        def restart() -> None:
            worker = self.process("worker.poll")
            while not over.is_set():
                worker.start(lambda: True)
                while worker.running and not over.wait(0.1):
                    pass
                worker.kill()

        def rescue() -> None:
            while not over.wait(0.2):
                scheduler.rescue()
                scheduler.release()

        threads = [threading.Thread(target=target) for target in (restart, rescue)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def files(self, prefix: str = "") -> list[str]:
        return [stat.key for stat in self.store.list(prefix)]


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    """An embedded house, once on SQLite and once on PostgreSQL."""
    made = House(tmp_path / "home", database_url)
    yield made
    made.database.dispose()


@pytest.fixture
def sqlite_house(tmp_path: Path, sqlite_url: str) -> Iterator[House]:
    made = House(tmp_path / "home", sqlite_url)
    yield made
    made.database.dispose()


def pids_of(*words: str) -> list[int]:
    """Processes whose command line holds all the words."""
    out = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in out.splitlines() if all(word in line for word in words)]
