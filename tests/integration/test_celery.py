"""The doorbell on a real Redis with a real Celery worker: one main process, one spawned child, a recording runner."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from common.jobs.queueing import Bell
from common.queue import RUN_TASK, make_celery, open_ringer, queue_name
from common.settings import Settings
from tests.integration.waiting import until
from tests.servers.processes import ServerProcess, free_port
from tests.servers.redis import PrivateRedis
from worker.launcher import Post, command, environment

ROOT = Path(__file__).parents[2]
APP = "tests.integration.recording_worker"


def entries(folder: Path) -> list[SimpleNamespace]:
    """What the recording runner wrote down so far: pid, what, job."""
    record = folder / "record"
    lines = record.read_text().splitlines() if record.exists() else []
    return [SimpleNamespace(pid=int(pid), what=what, job=job) for pid, what, job in (line.split() for line in lines)]


def a_bell(job_id: str, *, interactive: bool = False, lane: str = "cpu", batch: str | None = None) -> Bell:
    return Bell(job_id, lane, interactive, "separation", "rnnoise", batch)


class CeleryWorker:
    """The launcher's own command, with the recording app in the place of the real one."""

    def __init__(self, settings: Settings, folder: Path, name: str = "cpu0@test") -> None:
        self.name, self.folder, self.settings = name, folder, settings
        post = Post(name, ("cpu", "gpu"))
        argv = [APP if part == "worker.celery_app" else part for part in command(settings, post)]
        self.environment = {
            **os.environ,
            **environment(post),
            "NIGHTSHIFT_BROKER_URL": settings.broker or "",
            "NIGHTSHIFT_BROKER_PREFIX": settings.broker_prefix,
            "RECORDING_FOLDER": str(folder),
        }
        self.process = ServerProcess(argv, folder / "celery.log", environment=self.environment, folder=ROOT)
        self.ringer = open_ringer(settings)

    def start(self) -> None:
        self.process.start(lambda: bool(self.seen("opened")) and "ready." in self.process.log_tail(500))

    def seen(self, what: str) -> list[str]:
        return [entry.job for entry in entries(self.folder) if entry.what == what]

    @property
    def child(self) -> int:
        """The pid of the child that opened its runner last."""
        return [entry.pid for entry in entries(self.folder) if entry.what == "opened"][-1]

    def ring(self, *bells: Bell) -> None:
        self.ringer.ring(bells)

    def await_began(self, job_id: str) -> None:
        until(lambda: job_id in self.seen("began"), lambda: f"{job_id} begins\n{self.process.log_tail()}")

    def go(self) -> None:
        (self.folder / "go").touch()

    def ended(self) -> bool:
        return not self.process.running


@pytest.fixture
def settings(private_redis: PrivateRedis) -> Settings:
    return Settings(broker_url=private_redis.url, broker_prefix="test")


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[CeleryWorker]:
    started = CeleryWorker(settings, tmp_path)
    started.start()
    try:
        yield started
    finally:
        started.process.kill()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_busy_worker_answers_and_takes_nothing_and_then_serves_interactive_before_batch(
    worker: CeleryWorker, settings: Settings
) -> None:
    worker.ring(a_bell("job_wait"))
    worker.await_began("job_wait")
    batch = [a_bell(f"job_b{n}", lane=lane) for n, lane in enumerate(("cpu", "gpu", "cpu"))]
    interactive = [a_bell(f"job_i{n}", interactive=True, lane=lane) for n, lane in enumerate(("gpu", "cpu", "gpu"))]
    worker.ring(*batch, *interactive)

    app = make_celery(settings)
    assert app.control.ping(destination=[worker.name], timeout=20, limit=1) == [{worker.name: {"ok": "pong"}}]
    with app.connection_for_read() as connection:
        client = connection.default_channel.client
        waiting = {
            (lane, kind): client.llen(queue_name("test", lane, interactive=kind == "interactive"))
            for lane in ("cpu", "gpu")
            for kind in ("interactive", "batch")
        }
    assert waiting == {("cpu", "interactive"): 1, ("gpu", "interactive"): 2, ("cpu", "batch"): 2, ("gpu", "batch"): 1}

    worker.go()
    until(lambda: len(worker.seen("ended")) == 7, "all seven jobs end")
    # Strictly: the interactive ones of every lane, then the batch; within a class by lane, then in turn of arrival.
    assert worker.seen("ended") == ["job_wait", "job_i1", "job_i0", "job_i2", "job_b0", "job_b2", "job_b1"]


def test_a_killed_child_is_replaced_and_the_worker_goes_on(worker: CeleryWorker) -> None:
    main, child = worker.process.pid, worker.child
    assert psutil.Process(child).ppid() == main
    worker.ring(a_bell("job_wait_killed"))
    worker.await_began("job_wait_killed")
    os.kill(child, signal.SIGKILL)
    until(lambda: worker.child != child, "another child opens its runner")
    worker.ring(a_bell("job_after"))
    until(lambda: "job_after" in worker.seen("ended"), "the new child works")
    assert worker.process.running
    # Acknowledged early: what becomes of the interrupted job is for the database to say, not for the broker.
    assert worker.seen("began").count("job_wait_killed") == 1


def test_the_child_dies_with_a_killed_main_process(worker: CeleryWorker) -> None:
    worker.ring(a_bell("job_wait"))
    worker.await_began("job_wait")
    child = worker.child
    os.kill(worker.process.pid, signal.SIGKILL)
    until(lambda: gone(child), "the child ends")
    assert "closed" not in {entry.what for entry in entries(worker.folder)}


def test_sigterm_drains_the_runner_waits_for_it_and_closes_it(worker: CeleryWorker) -> None:
    worker.ring(a_bell("job_wait"), a_bell("job_left"))
    worker.await_began("job_wait")
    os.kill(worker.process.pid, signal.SIGTERM)
    until(lambda: worker.seen("drained"), "the child hears of it while it works")
    time.sleep(1.0)
    assert worker.process.running
    worker.go()
    until(worker.ended, "the worker ends")
    assert [entry.what for entry in entries(worker.folder)] == ["opened", "began", "drained", "ended", "closed"]


def test_a_drained_worker_ends_by_itself(worker: CeleryWorker) -> None:
    (worker.folder / "drain").touch()
    until(worker.ended, "the worker ends")
    assert worker.seen("closed")


def test_a_flushed_and_a_restarted_redis_are_survived_on_both_sides(
    worker: CeleryWorker, private_redis: PrivateRedis
) -> None:
    worker.ring(a_bell("job_1"))
    until(lambda: "job_1" in worker.seen("ended"), "the first job")
    private_redis.flush()
    worker.ring(a_bell("job_2"))
    until(lambda: "job_2" in worker.seen("ended"), "a job rung after a flush")
    private_redis.restart()
    until(lambda: _rings(worker, "job_3"), "a job rung after a restart")


def _rings(worker: CeleryWorker, job_id: str) -> bool:
    """As the scheduler does: rings again while nobody answers."""
    worker.ring(a_bell(job_id))
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and job_id not in worker.seen("ended"):
        time.sleep(0.05)
    return job_id in worker.seen("ended")


def test_flower_shows_id_kind_engine_and_batch(worker: CeleryWorker, settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "celery", "--app", APP, "flower", "--address=127.0.0.1", f"--port={port}"]
    flower = ServerProcess(
        [*argv, "--basic-auth=watch:secret"], tmp_path / "flower.log", environment=worker.environment, folder=ROOT
    )
    ask = _asker(f"http://127.0.0.1:{port}", "watch:secret")
    flower.start(lambda: _status(f"http://127.0.0.1:{port}/api/tasks") == 401)
    try:
        # Flower hears only of what happens while it listens.
        until(lambda: worker.name in ask("/api/workers?refresh=1"), "Flower sees the worker")
        worker.ring(a_bell("job_shown", batch="batch_7"))
        task = until(lambda: _finished(ask("/api/tasks"), "job_shown"), lambda: f"Flower lists it\n{flower.log_tail()}")
    finally:
        flower.kill()
    assert task["name"] == RUN_TASK
    assert task["uuid"].startswith("job_shown.")
    assert task["args"] == "('job_shown',)"
    assert task["kwargs"] == "{'kind': 'separation', 'engine': 'rnnoise', 'batch': 'batch_7'}"
    assert task["worker"] == worker.name


def _asker(address: str, login: str) -> Callable[[str], dict[str, dict[str, str]]]:
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    def ask(path: str) -> dict[str, dict[str, str]]:
        with urllib.request.urlopen(urllib.request.Request(address + path, headers=headers), timeout=20) as answer:
            found: dict[str, dict[str, str]] = json.load(answer)
            return found

    return ask


def _status(address: str) -> int | None:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _finished(tasks: dict[str, dict[str, str]], job_id: str) -> dict[str, str] | None:
    found = [task for task in tasks.values() if job_id in (task["args"] or "") and task["state"] == "SUCCESS"]
    return found[0] if found else None
