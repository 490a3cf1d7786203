"""A whole worker on Celery: real runner, real database, real Redis, started as an operator starts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from common.db import processes
from common.states import Reason, State
from tests import media
from tests.house import House, wait_for
from tests.servers.processes import ServerProcess
from tests.servers.redis import PrivateRedis


@pytest.fixture
def house(tmp_path: Path, sqlite_url: str, private_redis: PrivateRedis) -> Iterator[House]:
    """Bells that are lost stay lost here: no scheduler rings again."""
    made = House(tmp_path / "home", sqlite_url, broker_url=private_redis.url, release_ahead=3)
    yield made
    made.database.dispose()


@pytest.fixture
def worker(house: House) -> Iterator[ServerProcess]:
    process = house.process("worker", "--cpu")
    process.start(lambda: bool(takers(house)))
    yield process
    process.kill()


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.write(tmp_path_factory.mktemp("media") / "minute.wav", media.signal(16_000, 1, 60.0, "noise"), 16_000)


def takers(house: House) -> list[str]:
    with house.database.read() as tx:
        return list(processes.takers(tx, 30))


def test_a_rung_job_runs_to_its_result(house: House, worker: ServerProcess, minute: Path) -> None:
    job = house.submit(input={"upload": house.upload(minute)})
    assert house.ended(job.id).state is State.SUCCEEDED, worker.log_tail()


def test_a_job_passed_over_for_what_is_loaded_is_found_by_the_others_bell(
    house: House, worker: ServerProcess, minute: Path, tmp_path: Path
) -> None:
    """Three jobs, three bells, and nobody to ring again: the first bell leads to the second job."""
    short = media.write(tmp_path / "short.wav", media.signal(16_000, 1, 3.0, "noise"), 16_000)
    running = house.submit("slow", input={"upload": house.upload(minute)})
    house.reached(running.id, State.RUNNING)
    upload = house.upload(short)
    passed_over = house.submit("fast", input={"upload": upload})
    preferred = [house.submit("slow", input={"upload": upload}) for _ in range(2)]
    ended = [house.ended(job.id) for job in (*preferred, passed_over)]
    assert [(job.state, job.attempt) for job in ended] == [(State.SUCCEEDED, 1)] * 3, worker.log_tail()
    started = [job.started_at for job in ended if job.started_at is not None]
    assert len(started) == 3 and started == sorted(started)


def test_sigterm_gives_the_running_job_back_at_its_blocks_end(
    house: House, worker: ServerProcess, minute: Path
) -> None:
    job = house.submit("slow", input={"upload": house.upload(minute)})
    house.reached(job.id, State.RUNNING)
    worker.stop(seconds=60)
    back = house.job(job.id)
    # Released again at once, for the next worker.
    assert (back.state, back.attempt, back.failures, back.crashes) == (State.QUEUED, 1, 0, 0)
    assert Reason.DRAINED in [event.get("reason") for event in house.log(job.id)]
    assert takers(house) == []


def test_a_paused_worker_leaves_the_bells_to_others_and_answers_them_when_resumed(
    house: House, worker: ServerProcess, minute: Path, private_redis: PrivateRedis
) -> None:
    (name,) = takers(house)
    with house.database.write() as tx:
        processes.order(tx, name, "pause")
    job = house.submit(input={"upload": house.upload(minute)})
    with redis.Redis.from_url(private_redis.url) as client:
        queue = "nightshift:nightshift.cpu.batch" if not job.interactive else "nightshift:nightshift.cpu.interactive"
        wait_for(lambda: "ringing for another" in worker.log_tail(200), why=worker.log_tail())
        time.sleep(2.0)
        # It lies there for whoever may take it; the paused worker took it once and then listens no more.
        assert client.llen(queue) == 1
    assert worker.log_tail(200).count("ringing for another") == 1
    assert house.job(job.id).state is State.QUEUED
    with house.database.write() as tx:
        processes.order(tx, name, "run")
    assert house.ended(job.id).state is State.SUCCEEDED
