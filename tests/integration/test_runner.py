"""The runner on real databases and a real store; where it must die, as a real process."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.db import processes
from common.jobs import callbacks, finish
from common.states import Reason, State
from tests import media
from tests.engines import scratch_of
from tests.house import House, wait_for
from worker.poll import serve
from worker.runner import Runner
from worker.scheduler import Scheduler
from worker.watch import Watch


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seconds of stereo, an odd number of samples."""
    samples = media.signal(48_000, 2, 7.0, "noise")[:, :-13]
    return media.write(tmp_path_factory.mktemp("media") / "episode.wav", samples)


def result_of(house: House, job_id: str, name: str) -> tuple[np.ndarray, int]:
    job = house.job(job_id)
    assert job.result is not None, job.error
    entry = next(output for output in job.result["outputs"] if output["name"] == name)
    with house.store.open(entry["key"]) as stream:
        return soundfile.read(stream, dtype="float32", always_2d=True)


def test_a_job_runs_to_its_result(house: House, runner: Runner, episode: Path) -> None:
    job = house.submit(input={"upload": house.upload(episode)}, callback={"url": "https://receiver.example/"})
    assert runner.run()
    ended = house.job(job.id)
    assert (ended.state, ended.reason, ended.error) == (State.SUCCEEDED, Reason.DONE, None)
    mix, rate = soundfile.read(episode, dtype="float32", always_2d=True)
    for name in ("speech", "residual"):
        stem, stem_rate = result_of(house, job.id, name)
        assert (stem_rate, stem.shape) == (rate, mix.shape)
        np.testing.assert_allclose(stem, mix * 0.5, atol=2 / 32768)
    assert {output["role"] for output in ended.result["outputs"]} == {"stem", "peaks", "waveform"}
    for output in ended.result["outputs"]:
        assert house.store.stat(output["key"]).size == output["bytes"]
    with house.database.read() as tx:
        assert [c.event for c in callbacks.log(tx, house.key.id, before=None, limit=9)] == ["job.succeeded"]
    assert not scratch_of(house.settings.home)
    assert not runner.run()


def test_blocks_are_swept_after_success(house: House, runner: Runner, scheduler: Scheduler, episode: Path) -> None:
    job = house.submit(input={"upload": house.upload(episode)})
    runner.run()
    assert house.files(f"jobs/{job.id}/blocks/")
    assert scheduler.sweep() == 1
    assert not house.files(f"jobs/{job.id}/blocks/")
    assert house.files(f"jobs/{job.id}/1/")


def test_a_bell_says_that_there_is_work_and_starts_no_job_twice(house: House, runner: Runner, episode: Path) -> None:
    upload = house.upload(episode)
    first, second = house.submit(input={"upload": upload}), house.submit(input={"upload": upload})
    assert runner.run(second.id)
    assert house.job(second.id).state is State.QUEUED
    assert runner.run(second.id)
    assert not runner.run(first.id)
    assert [house.job(job.id).attempt for job in (first, second)] == [1, 1]


def test_a_worker_goes_on_with_the_engine_it_has_loaded(house: House, runner: Runner, episode: Path) -> None:
    upload = house.upload(episode)
    house.submit(input={"upload": upload})
    assert runner.run()
    other, loaded = house.submit("slow", input={"upload": upload}), house.submit(input={"upload": upload})
    assert runner.run(other.id)
    assert (house.job(loaded.id).state, house.job(other.id).state) == (State.SUCCEEDED, State.QUEUED)
    assert runner.run(loaded.id)
    assert house.job(other.id).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("engine", "state", "code", "attempts"),
    [("refuses", State.FAILED, "corrupt_media", 1), ("breaks", State.FAILED, "engine_failed", 4)],
)
def test_failures(
    house: House, runner: Runner, scheduler: Scheduler, episode: Path,
    engine: str, state: State, code: str, attempts: int,
) -> None:  # fmt: skip
    job = house.submit(engine, input={"upload": house.upload(episode)}, callback={"url": "https://receiver.example/"})

    def done() -> bool:
        scheduler.release()
        runner.run()
        return house.job(job.id).terminal

    wait_for(done)
    ended = house.job(job.id)
    assert (ended.state, ended.error["code"], ended.attempt) == (state, code, attempts)
    assert ended.error["hint"]
    assert "secret" not in str(ended.error) and "ns_abc" not in str(ended.error)
    with house.database.read() as tx:
        assert [c.event for c in callbacks.log(tx, house.key.id, before=None, limit=9)] == ["job.failed"]


def test_an_upload_that_is_not_what_was_declared_is_refused(house: House, runner: Runner, episode: Path) -> None:
    job = house.submit(input={"upload": house.upload(episode, sha256="0" * 64)})
    assert runner.run()
    ended = house.job(job.id)
    assert (ended.state, ended.error["code"], ended.error["pointer"]) == (
        State.FAILED,
        "input_altered",
        "/input/upload",
    )


def test_an_engine_that_lacks_something_is_left_to_a_worker_that_has_it(
    house: House, runner: Runner, episode: Path
) -> None:
    job = house.submit("absent", input={"upload": house.upload(episode)})
    assert not runner.run()
    assert house.job(job.id).state is State.QUEUED
    with house.database.read() as tx:
        (worker,) = processes.list_all(tx, 30, "worker")
    assert worker.info["engines"]["absent"] == {
        "ready": False,
        "missing": "the package no_such_package is not installed",
        "hint": "pip install it",
    }


def test_a_cancel_is_seen_within_a_block(house: House, runner: Runner, episode: Path) -> None:
    long = media.write(house.settings.home / "long.wav", media.signal(8000, 1, 120.0), 8000)
    job = house.submit("slow", input={"upload": house.upload(long)})
    thread = threading.Thread(target=runner.run)
    thread.start()
    wait_for(lambda: (house.job(job.id).progress or {}).get("phase") == "separate")
    with house.database.write() as tx:
        assert finish.cancel(tx, job.id).state is State.RUNNING
    thread.join(5.0)
    assert not thread.is_alive()
    assert house.job(job.id).state is State.CANCELLED
    assert not scratch_of(house.settings.home)


def test_a_job_of_another_job_waits_for_it(house: House, runner: Runner, scheduler: Scheduler, episode: Path) -> None:
    first = house.submit(input={"upload": house.upload(episode)})
    second = house.submit(input={"job": first.id, "output": "residual"})
    assert house.job(second.id).reason is Reason.UPSTREAM
    assert runner.run()
    assert runner.run(), "the end of the first releases the second without a tick"
    stem, _ = result_of(house, second.id, "speech")
    mix, _ = soundfile.read(episode, dtype="float32", always_2d=True)
    np.testing.assert_allclose(stem, mix * 0.25, atol=3 / 32768)


def test_an_interactive_job_pre_empts_a_batch_job_at_a_blocks_end(
    house: House, runner: Runner, scheduler: Scheduler, episode: Path
) -> None:
    long = media.write(house.settings.home / "long.wav", media.signal(8000, 1, 40.0, "noise"), 8000)
    bulk = house.submit("slow", input={"upload": house.upload(long)}, priority="batch")
    over = threading.Event()
    thread = threading.Thread(target=serve, args=(runner, over, 0.05))
    thread.start()
    try:
        wait_for(lambda: house.job(bulk.id).blocks_done >= 1)
        urgent = house.submit(input={"upload": house.upload(episode)})
        house.ended(urgent.id)
        wait_for(lambda: scheduler.release() or house.job(bulk.id).state is not State.WAITING)
        ended = house.ended(bulk.id)
    finally:
        over.set()
        thread.join()
    assert ended.state is State.SUCCEEDED
    log = house.log(bulk.id)
    assert [e["reason"] for e in log if "reason" in e].count("preempted") == 1
    assert any(e.get("code") == "resumed" for e in log)
    assert ended.failures == 0
    mix, _ = soundfile.read(long, dtype="float32", always_2d=True)
    stem, _ = result_of(house, bulk.id, "speech")
    np.testing.assert_allclose(stem, mix * 0.5, atol=2 / 32768)


def test_a_job_told_to_yield_in_its_last_block_ends(
    house: House, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = media.write(tmp_path / "short.wav", media.signal(8000, 1, 4.0, "noise"), 8000)
    job = house.submit("slow", input={"upload": house.upload(short)}, priority="batch")
    told = 0

    def always(watch: Watch, reason: Reason | None, now: float) -> None:
        nonlocal told
        told += 1
        watch.yield_for = Reason.PREEMPTED

    monkeypatch.setattr(Watch, "_yield_for", always)
    assert runner.run()
    ended = house.job(job.id)
    assert (ended.state, ended.attempt, ended.blocks_total) == (State.SUCCEEDED, 1, 1)
    assert told


def test_kill_dash_nine_resumes_after_the_last_finished_block(
    house: House, scheduler: Scheduler, tmp_path: Path
) -> None:
    long = media.write(tmp_path / "long.wav", media.signal(44_100, 2, 30.0, "noise"), 44_100)
    upload = house.upload(long)
    undisturbed = house.submit("slow", input={"upload": upload})
    job = house.submit("slow", input={"upload": upload}, cache=False)
    worker = house.process("worker.poll")
    with house.running(worker):
        house.ended(undisturbed.id)
        wait_for(lambda: house.job(job.id).blocks_done >= 2)
        worker.kill()
        finished = house.job(job.id).blocks_done
        wait_for(scheduler.rescue)
        assert house.job(job.id).reason in (Reason.LEASE_EXPIRED, Reason.RELEASED)
        worker.start(lambda: True)
        ended = house.ended(job.id)
    assert (ended.state, ended.attempt, ended.crashes) == (State.SUCCEEDED, 2, 1)
    assert ended.result["metrics"]["blocks_resumed"] >= finished
    assert any(e.get("code") == "resumed" for e in house.log(job.id))
    for name in ("speech", "residual"):
        one, _ = result_of(house, undisturbed.id, name)
        two, _ = result_of(house, job.id, name)
        np.testing.assert_array_equal(one, two)


def test_a_poisonous_job_fails_and_the_worker_goes_on(house: House, scheduler: Scheduler, episode: Path) -> None:
    upload = house.upload(episode)
    poison = house.submit("crashes", input={"upload": upload})
    with house.kept_going(scheduler):
        ended = house.ended(poison.id, 90)
        good = house.ended(house.submit(input={"upload": upload}).id)
    assert (ended.state, ended.reason, ended.error["code"]) == (State.FAILED, Reason.CRASHED, "worker_crashed")
    assert ended.crashes == house.settings.max_crashes - 1
    assert good.state is State.SUCCEEDED


def test_sigterm_gives_the_job_back_at_once(house: House, tmp_path: Path) -> None:
    long = media.write(tmp_path / "long.wav", media.signal(8000, 1, 60.0), 8000)
    job = house.submit("slow", input={"upload": house.upload(long)})
    worker = house.process("worker.poll")
    with house.running(worker):
        wait_for(lambda: house.job(job.id).blocks_done >= 1)
        worker.stop(20.0)
    given = house.job(job.id)
    assert (given.state, given.attempt, given.failures) == (State.QUEUED, 1, 0)
    assert Reason.DRAINED in [e.get("reason") for e in house.log(job.id)]
    with house.database.read() as tx:
        assert processes.list_all(tx, 30, "worker") == []


def test_an_engine_that_hangs_is_ended(tmp_path: Path, sqlite_url: str, episode: Path) -> None:
    house = House(tmp_path / "home", sqlite_url, stall_seconds=1.5, max_attempts=1)
    job = house.submit("hangs", input={"upload": house.upload(episode)})
    worker = house.process("worker.poll")
    with house.running(worker):
        ended = house.ended(job.id, 60)
        wait_for(lambda: not worker.running, why="the process that hangs is still there")
    assert (ended.state, ended.error["code"]) == (State.FAILED, "engine_stalled")


def test_a_worker_that_sleeps_past_its_lease_writes_nothing(house: House, scheduler: Scheduler, tmp_path: Path) -> None:
    """A zombie: stopped while it computes, waking up when another worker has long finished its job."""
    import os
    import signal

    long = media.write(tmp_path / "long.wav", media.signal(8000, 1, 30.0), 8000)
    job = house.submit("slow", input={"upload": house.upload(long)})
    zombie, healthy = house.process("worker.poll"), house.process("worker.poll", worker_name="healthy")
    with house.running(zombie):
        wait_for(lambda: house.job(job.id).blocks_done >= 1)
        os.kill(zombie.pid, signal.SIGSTOP)
        wait_for(scheduler.rescue)
        with house.running(healthy):
            ended = house.ended(job.id)
            assert (ended.state, ended.result_attempt) == (State.SUCCEEDED, 2)
            os.kill(zombie.pid, signal.SIGCONT)
            # It is there again, and takes the next job as any worker does.
            healthy.stop()
            after = house.ended(house.submit(input={"upload": house.upload(long)}).id)
    assert after.state is State.SUCCEEDED
    assert house.job(job.id) == ended
    assert len([e for e in house.log(job.id) if e.get("state") == "succeeded"]) == 1
