"""Faults while jobs run, and an invariant checker at the end: no accepted job is lost, none is published twice."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from common.db import keys
from common.db.engine import Database
from common.db.keys import Scope
from common.db.tables import callbacks, events, jobs, sweeps
from common.settings import Settings
from common.states import TABLE, State
from common.storage import keys as layout
from common.storage import open_store
from nightshift import Client
from nightshift.errors import NightshiftClientError
from tests import media
from tests.command import descendants
from tests.engines import ALL
from tests.house import QUICK, wait_for
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import ServerFailed, ServerProcess
from tests.servers.receiver import Receiver
from tests.servers.redis import PrivateRedis
from tests.stack import Stack

# At least so many; callers go on until the last fault is over.
JOBS = 12
# Of the engine `slow`, half a second each.
BLOCKS = 8
LEASE_SECONDS = 5.0
SEED = int(os.environ.get("TEST_CHAOS_SEED", "20"))


class Kept:
    """A process that is started again whenever it has ended, as an operator's supervisor does."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        self.process.start(lambda: True)
        self._thread.start()

    def end(self) -> None:
        """Stops it as SIGTERM asks, for good."""
        self._over.set()
        self._thread.join()
        self.process.stop(60)

    def _keep(self) -> None:
        while not self._over.wait(0.1):
            if not self.process.running:
                self.process.kill()
                self.process.start(lambda: True)


@dataclass
class Night:
    """The service under fault, and the callers' memory of what was accepted."""

    stack: Stack
    postgres: PrivatePostgres
    redis: PrivateRedis
    receiver: Receiver
    database: Database
    token: str
    kept: dict[str, Kept]
    accepted: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def client(self) -> Client:
        return Client(self.stack.url, self.token)

    def submit(self, name: str, upload: str, engine: str) -> str:
        """As a careful caller does: again until there is an answer, under one Idempotency-Key."""
        request = {
            "engine": engine,
            "input": {"upload": upload},
            "params": {"prompts": ["speech"]},
            "cache": False,
            "priority": "batch" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 3 else "interactive",
            "callback": {"url": self.receiver.url(f"/{name}")},
        }
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.client() as client:
                    job_id = client.submit(request, idempotency_key=name).id
            except NightshiftClientError:
                assert time.monotonic() < deadline, f"{name} was never accepted"
                time.sleep(0.2)
                continue
            assert self.accepted.setdefault(name, job_id) == job_id
            return job_id

    def unfinished(self) -> int:
        with self.database.read() as tx:
            return len(tx.execute(select(jobs.c.id).where(jobs.c.finished_at.is_(None))).all())

    def in_mid_file(self) -> list[str]:
        """Workers whose job has finished blocks, has blocks left, and was not hit before: two deaths on the same block
        are, rightly, held against the job."""
        here = (jobs.c.state == State.RUNNING, jobs.c.losses == 0, jobs.c.blocks_done.between(1, BLOCKS - 4))
        # The fault before may have been PostgreSQL's end: its pooled connections are dead.
        return self.database.run(lambda tx: list(tx.execute(select(jobs.c.worker).where(*here)).scalars()))

    # --- The faults ---------------------------------------------------------------------------------------------------

    def kill_a_child(self) -> None:
        """The process that computes."""
        self._victim()[-1].kill()

    def kill_a_main(self) -> None:
        """Celery's main process, whose child has to die with it."""
        self._victim()[0].kill()

    def kill_the_launcher(self) -> None:
        os.kill(self.kept["workers"].process.pid, signal.SIGKILL)

    def kill_the_scheduler(self) -> None:
        os.kill(self.kept["scheduler"].process.pid, signal.SIGKILL)

    def kill_the_api(self) -> None:
        os.killpg(self.kept["api"].process.pid, signal.SIGKILL)

    def restart_postgres(self) -> None:
        self.postgres.restart()

    def kill_postgres(self) -> None:
        self.postgres.kill()
        self.postgres.start()

    def flush_redis(self) -> None:
        self.redis.flush()

    def restart_redis(self) -> None:
        self.redis.kill()
        time.sleep(0.5)
        self.redis.start()

    def freeze_a_worker(self) -> None:
        """Past its lease: it wakes up as a zombie, when another one has long taken its job."""
        victim = self._victim()[-1]
        victim.suspend()
        time.sleep(LEASE_SECONDS + 1.5)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.resume()

    def _victim(self) -> list[psutil.Process]:
        """The main process and the child of a worker in the middle of a job."""

        def find() -> list[psutil.Process] | None:
            workers = self.in_mid_file()
            with contextlib.suppress(psutil.NoSuchProcess, ServerFailed):
                for process in descendants(self.kept["workers"].process.pid):
                    line = process.cmdline()
                    named = [worker for worker in workers if worker in line]
                    children = [c for c in process.children() if "spawn_main" in " ".join(c.cmdline())]
                    if named and children:
                        self.told.append(f"  at {named[0]}")
                        return [process, children[-1]]
            return None

        return wait_for(find, 60, "no worker is in the middle of a job")


@pytest.fixture
def night(
    tmp_path: Path, private_postgres: PrivatePostgres, private_redis: PrivateRedis, receiver: Receiver
) -> Iterator[Night]:
    values = {
        **QUICK,
        "lease_seconds": LEASE_SECONDS,
        "extra_engines": ALL,
        "database_url": private_postgres.url,
        "broker_url": private_redis.url,
        "broker_prefix": "chaos",
        "allow_private_hosts": receiver.host,
        "quarantine_seconds": 1,
    }
    stack = Stack(tmp_path, **values)
    stack.once("nightshift", "migrate")
    database = Database(private_postgres.url)
    with database.write() as tx:
        token = keys.create(tx, "chaos", list(Scope))[1]
    modules = {
        "api": ("api",),
        "scheduler": ("worker.scheduler",),
        "deliverer": ("worker.deliver",),
        "workers": ("worker", "--cpu", "2"),
    }
    kept = {name: Kept(stack.process(*module)) for name, module in modules.items()}
    with stack.running():
        for one in kept.values():
            one.start()
        try:
            made = Night(stack, private_postgres, private_redis, receiver, database, token, kept)
            wait_for(stack.ready, 60)
            wait_for(lambda: _alive(made) == 2, 60, "two workers")
            yield made
        finally:
            for one in reversed(kept.values()):
                one.end()
    database.dispose()


def _alive(night: Night) -> int:
    with night.client() as client:
        return sum(worker["alive"] for worker in client.workers())


def test_no_fault_loses_a_job_or_publishes_two_results(night: Night) -> None:
    chance = random.Random(SEED)
    episode = media.make(night.stack.folder / "episode.flac", 8000, 1, BLOCKS * 5.0, "noise")
    with night.client() as client:
        upload = client.upload(episode)
    undisturbed = night.submit("undisturbed", upload, "slow")
    wait_for(lambda: _state(night, undisturbed) is State.SUCCEEDED, 60)

    over = threading.Event()
    callers = threading.Thread(target=_submit_many, args=(night, upload, over))
    callers.start()
    faults: list[Callable[[], None]] = [
        night.kill_a_child, night.kill_a_main, night.kill_the_launcher, night.kill_the_scheduler, night.kill_the_api,
        night.restart_postgres, night.kill_postgres, night.flush_redis, night.restart_redis, night.freeze_a_worker,
    ]  # fmt: skip
    chance.shuffle(faults)
    started = time.monotonic()
    try:
        for fault in faults:
            time.sleep(chance.uniform(0.2, 1.5))
            night.told.append(f"{time.monotonic() - started:5.1f} s {fault.__name__}")
            fault()
    finally:
        over.set()
        callers.join(120)
        print(f"seed {SEED}", *night.told, sep="\n")
    assert not callers.is_alive()

    _all_end(night)
    Invariants(night, undisturbed).check()


def _submit_many(night: Night, upload: str, over: threading.Event) -> None:
    for number in itertools.count():
        if number >= JOBS and over.is_set():
            return
        engine = "fast" if number % 4 == 0 else "slow"
        night.submit(f"job-{number}", upload, engine)
        time.sleep(0.5)
        # A caller that lost the answer asks again.
        night.submit(f"job-{number}", upload, engine)
        while not over.is_set() and _in_spite(night.unfinished) > 5:
            time.sleep(0.2)


def _in_spite(look: Callable[[], int]) -> int:
    """What it sees; nothing while the database is away."""
    try:
        return look()
    except SQLAlchemyError:
        return 0


def _state(night: Night, job_id: str) -> State:
    return State(
        night.database.run(lambda tx: tx.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one())
    )


def _all_end(night: Night) -> None:
    def open_jobs() -> list[object]:
        which = select(jobs.c.id, jobs.c.state, jobs.c.reason).where(jobs.c.finished_at.is_(None))
        return night.database.run(lambda tx: [tuple(row) for row in tx.execute(which)])

    def open_callbacks() -> int:
        pending = select(callbacks.c.id).where(callbacks.c.state == "pending")
        return night.database.run(lambda tx: len(tx.execute(pending).all()))

    try:
        wait_for(lambda: not open_jobs(), 120)
    except AssertionError:
        raise AssertionError(f"unfinished: {open_jobs()}") from None
    wait_for(lambda: not open_callbacks(), 90, "callbacks are not delivered")


class Invariants:
    """What must hold after any night, read from the database, the store, the receiver and the API."""

    def __init__(self, night: Night, undisturbed: str) -> None:
        self.night, self.undisturbed = night, undisturbed
        self.store = open_store(Settings(home=night.stack.home))
        with night.database.read() as tx:
            self.jobs = {row.id: row for row in tx.execute(select(jobs))}
            self.events = list(tx.execute(select(events).where(events.c.type == "state").order_by(events.c.id)))
            self.callbacks = list(tx.execute(select(callbacks)))
            self.sweeps = [row.prefix for row in tx.execute(select(sweeps))]

    def check(self) -> None:
        self.it_was_a_bad_night()
        self.exactly_the_accepted_jobs()
        self.each_succeeded_once()
        self.each_told_its_caller_once()
        self.each_published_one_attempt()
        self.samples_are_those_of_an_undisturbed_run()

    def it_was_a_bad_night(self) -> None:
        """Else nothing was shown: workers were lost with jobs in their hands, and others went on from their blocks."""
        assert sum(job.losses for job in self.jobs.values()) >= 2
        assert any((job.result["metrics"]["blocks_resumed"] or 0) > 0 for job in self.jobs.values())

    def exactly_the_accepted_jobs(self) -> None:
        assert len(self.night.accepted) > JOBS
        assert self.jobs.keys() == set(self.night.accepted.values())

    def each_succeeded_once(self) -> None:
        assert {job.state for job in self.jobs.values()} == {State.SUCCEEDED}, [
            (job.id, job.state, job.error) for job in self.jobs.values() if job.state != State.SUCCEEDED
        ]
        told = defaultdict(list)
        for event in self.events:
            told[event.job_id].append(event.data["state"])
        allowed = {(t.source, t.target) for t in TABLE}
        for states in told.values():
            assert Counter(states)["succeeded"] == 1 and states[-1] == "succeeded"
            assert all(step in allowed for step in zip([None, *states], states, strict=False)), states

    def each_told_its_caller_once(self) -> None:
        assert Counter(row.job_id for row in self.callbacks) == Counter(self.jobs.keys())
        assert {row.state for row in self.callbacks} == {"delivered"}
        own = {"Authorization": f"Bearer {self.night.token}"}
        (secret,) = httpx.get(f"{self.night.stack.url}/v1/callbacks/secret", headers=own).json()["secrets"]
        ids = defaultdict(set)
        for request in self.night.receiver.requests:
            body = Webhook(secret).verify(request.body, dict(request.headers))
            assert (body["type"], body["data"]["id"]) == ("job.succeeded", self.night.accepted[request.path[1:]])
            ids[body["data"]["id"]].add(request.headers["webhook-id"])
        assert {job_id: len(found) for job_id, found in ids.items()} == dict.fromkeys(self.jobs, 1)

    def each_published_one_attempt(self) -> None:
        published = set()
        for job in self.jobs.values():
            folder = layout.attempt_folder(job.id, job.result_attempt)
            for output in job.result["outputs"]:
                assert output["key"].startswith(folder)
                with self.store.open(output["key"]) as stream:
                    assert hashlib.sha256(stream.read()).hexdigest() == output["sha256"]
                published.add(output["key"])
        # Whatever else lies there belongs to an attempt that was lost, and is noted to be swept.
        others = {stat.key for stat in self.store.list("jobs/")} - published
        assert not [key for key in others if not any(key.startswith(prefix) for prefix in self.sweeps)]

    def samples_are_those_of_an_undisturbed_run(self) -> None:
        expected = self._stems(self.undisturbed)
        for job_id in self.jobs:
            for name, samples in self._stems(job_id).items():
                np.testing.assert_array_equal(samples, expected[name])

    def _stems(self, job_id: str) -> dict[str, np.ndarray]:
        found = {}
        for output in self.jobs[job_id].result["outputs"]:
            if output["role"] == "stem":
                with self.store.open(output["key"]) as stream:
                    found[output["name"]] = soundfile.read(stream, dtype="int16", always_2d=True)[0]
        assert found.keys() == {"speech", "residual"}
        return found
