"""The launcher as a process: its workers, their environment, their restarts, the drain, and no orphans."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from common.db import processes
from common.db.engine import Database
from common.db.migrate import upgrade
from tests.integration.waiting import until
from tests.servers.redis import PrivateRedis

ROOT = Path(__file__).parents[2]

# Stands for a worker: notes its environment, and at SIGTERM what the database orders it to do.
WORKER = """
import json, os, signal, sqlite3, sys, time
name = os.environ["NIGHTSHIFT_WORKER_NAME"]
def note(what, **more):
    with open("notes", "a") as notes:
        notes.write(json.dumps({"name": name, "what": what, "pid": os.getpid(), **more}) + "\\n")
def told(number, frame):
    with sqlite3.connect("nightshift.db") as database:
        (control,) = database.execute("SELECT control FROM processes WHERE name = ?", (name,)).fetchone()
    note("told", control=control)
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
note("began", torch="torch" in sys.modules, environment=dict(os.environ))
time.sleep(600)
"""

LAUNCHER = """
import sys
from common.restarts import Backoff
from common.settings import load
from tests.nvml import FakeNvml
from worker.cards import find
from worker.launcher import command, launch, posts
settings = load()
found = find(FakeNvml({cards}), settings.cuda_visible_devices)
def stand_in(settings, post):
    return {command}
sys.exit(launch(settings, posts(found.cards, {cpus}, "host"), command=stand_in, backoff=Backoff(0.1, 1)))
"""

STAND_IN = '[sys.executable, "stand_in.py"]'
RECORDING = '[p if p != "worker.celery_app" else "tests.integration.recording_worker" for p in command(settings, post)]'


class Launcher:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.database = f"sqlite:///{folder}/nightshift.db"
        upgrade(self.database)
        (folder / "stand_in.py").write_text(WORKER)

    def start(self, argv: list[str], **environment: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env={
                    **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
                    "PYTHONPATH": str(ROOT),
                    "NIGHTSHIFT_HOME": str(self.folder),
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_with(self, cards: int, cpus: int = 0, command: str = STAND_IN, **environment: str) -> None:
        (self.folder / "launcher.py").write_text(LAUNCHER.format(cards=cards, cpus=cpus, command=command))
        self.start([sys.executable, "launcher.py"], **environment)

    def notes(self, what: str) -> list[SimpleNamespace]:
        file = self.folder / "notes"
        lines = file.read_text().splitlines() if file.exists() else []
        return [note for note in (SimpleNamespace(**json.loads(line)) for line in lines) if note.what == what]

    def began(self, count: int) -> list[SimpleNamespace]:
        return until(
            lambda: notes if len(notes := self.notes("began")) >= count else [],
            lambda: f"{count} workers\n{self.log()}",
        )

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=120)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    made = Launcher(tmp_path)
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait()


def living(family: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("cards", [2, 8])
def test_each_card_has_its_process_with_that_card_alone_in_sight_from_the_start(launcher: Launcher, cards: int) -> None:
    launcher.start_with(cards)
    began = sorted(launcher.began(cards), key=lambda note: note.name)
    assert [note.name for note in began] == [f"gpu{n}@host" for n in range(cards)]
    assert [note.environment["CUDA_VISIBLE_DEVICES"] for note in began] == [f"GPU-{n:04d}-aaaa" for n in range(cards)]
    assert {note.environment["NIGHTSHIFT_WORKER_LANES"] for note in began} == {"gpu,cpu"}
    assert len({note.pid for note in began}) == cards
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 0


def test_a_dead_worker_is_started_again_at_the_same_post_and_the_others_are_left_alone(launcher: Launcher) -> None:
    launcher.start_with(2, cpus=1, CUDA_VISIBLE_DEVICES="1")
    first = {note.name: note for note in launcher.began(2)}
    assert set(first) == {"gpu1@host", "cpu0@host"}
    os.kill(first["gpu1@host"].pid, signal.SIGKILL)
    again = launcher.began(3)[2]
    assert again.name == "gpu1@host"
    assert again.environment == first["gpu1@host"].environment
    assert psutil.pid_exists(first["cpu0@host"].pid)
    assert "SIGKILL" in launcher.log()


def test_workers_are_ordered_to_drain_before_they_are_told_to_end(launcher: Launcher) -> None:
    database = Database(launcher.database)
    names = ["gpu0@host", "gpu1@host", "gpu2@host", "cpu0@elsewhere"]
    with database.write() as tx:
        for name in names:
            processes.register(tx, name, "worker", lanes=("gpu",))
        processes.order(tx, "gpu2@host", "pause")
    launcher.start_with(3)
    launcher.began(3)
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 0
    assert sorted((note.name, note.control) for note in launcher.notes("told")) == [
        ("gpu0@host", "drain"),
        ("gpu1@host", "drain"),
        ("gpu2@host", "pause"),
    ]
    with database.read() as tx:
        controls = {process.name: process.control for process in processes.list_all(tx, 30)}
    database.dispose()
    assert controls["cpu0@elsewhere"] == "run"


def test_a_killed_launcher_leaves_no_worker(launcher: Launcher) -> None:
    launcher.start_with(2)
    launcher.began(2)
    family = launcher.family()
    assert len(family) == 2
    launcher.signal(signal.SIGKILL)
    launcher.wait()
    until(lambda: not living(family), "the workers end")


def test_a_killed_launcher_leaves_no_celery_and_no_spawned_child(
    launcher: Launcher, private_redis: PrivateRedis
) -> None:
    folder = launcher.folder
    launcher.start_with(
        1, command=RECORDING, NIGHTSHIFT_BROKER_URL=private_redis.url, RECORDING_FOLDER=str(folder)
    )  # fmt: skip
    until(lambda: (folder / "record").exists(), lambda: f"the child opens its runner\n{launcher.log()}")
    opened = int((folder / "record").read_text().split()[0])
    family = launcher.family()
    assert opened in [one.pid for one in family]
    launcher.signal(signal.SIGKILL)
    launcher.wait()
    until(lambda: not living(family), "Celery and its children end")


def test_python_m_worker_runs_polling_workers_that_sign_on_and_off(launcher: Launcher) -> None:
    launcher.start([sys.executable, "-m", "worker", "--cpu", "2"])
    database = Database(launcher.database)

    def present() -> dict[str, tuple[str, ...]]:
        with database.read() as tx:
            return {process.name: process.lanes for process in processes.list_all(tx, 30, "worker")}

    host = socket.gethostname()
    expected = {f"cpu{n}@{host}": ("cpu",) for n in range(2)}
    until(lambda: present() == expected, lambda: f"both sign on\n{launcher.log()}")
    family = launcher.family()
    launcher.signal(signal.SIGINT)
    assert launcher.wait() == 0
    assert present() == {}
    assert not living(family)
    database.dispose()


def test_python_m_worker_without_a_card_says_what_to_do(launcher: Launcher) -> None:
    launcher.start([sys.executable, "-m", "worker"], CUDA_VISIBLE_DEVICES="")
    assert launcher.wait() == 78
    assert "python -m worker --cpu" in launcher.log()
