"""Jobs that a worker does at once, from their claim to their ends: what they gain, and that none harms another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from common.db import processes
from common.jobs import finish
from common.jobs.job import Job
from common.states import Reason, State
from tests import media
from tests.engines import scratch_of
from tests.house import House, wait_for
from worker.compose import open_runner
from worker.poll import serve
from worker.runner import Runner
from worker.scheduler import Scheduler

RATE = 8000


def episode(house: House, name: str, seconds: float, first: float = 0.0) -> str:
    """An upload. first: the first sample of its second block, which the engine `shares` looks at."""
    samples = media.signal(RATE, 1, seconds, "noise")
    samples[:, 2 * RATE : 2 * RATE + 1] = first
    house.settings.home.mkdir(parents=True, exist_ok=True)
    return house.upload(media.write(house.settings.home / f"{name}.wav", samples, RATE))


def loaded(house: House, runner: Runner) -> None:
    """The engine is loaded by a job that is done alone."""
    job = house.submit("shares", input={"upload": episode(house, "first", 1.0)})
    assert runner.run()
    done = house.job(job.id)
    assert done.state is State.SUCCEEDED and done.company is None
    assert "jobs_together" not in done.result["metrics"]


def submitted(house: House, *uploads: str, **members: Any) -> list[str]:
    return [house.submit("shares", input={"upload": upload}, **members).id for upload in uploads]


def submitted_at_once(house: House, *uploads: str) -> list[str]:
    """For the worker that is there, which might take the first before the next is submitted."""
    with house.database.write() as tx:
        name = processes.list_all(tx, 30, "worker")[0].name
        assert processes.order(tx, name, "pause")
    ids = submitted(house, *uploads)
    with house.database.write() as tx:
        assert processes.order(tx, name, "run")
    return ids


def stem_of(house: House, job: Job, name: str = "speech") -> np.ndarray:
    assert job.result is not None, job.error
    entry = next(output for output in job.result["outputs"] if output["name"] == name)
    with house.store.open(entry["key"]) as stream:
        return soundfile.read(stream, dtype="float32", always_2d=True)[0]


def test_short_jobs_are_done_at_once(house: House, runner: Runner) -> None:
    """More of them than the queue holds ready, of several blocks, of other lengths."""
    loaded(house, runner)
    ids = submitted(house, *(episode(house, f"e{n}", 3.0 + n) for n in range(5)))
    assert runner.run()
    done = [house.job(job_id) for job_id in ids]
    assert [job.state for job in done] == [State.SUCCEEDED] * 4 + [State.QUEUED]
    metrics = [job.result["metrics"] for job in done[:4]]
    assert {one["jobs_together"] for one in metrics} == {4}
    assert all(one["steps"] == 20 * one["blocks"] and one["steps_shared"] > 0 for one in metrics)
    assert all(0 < one["worker_seconds"] < one["seconds"] for one in metrics)
    for n, job in enumerate(done[:4]):
        mix, _ = soundfile.read(house.settings.home / f"e{n}.wav", dtype="float32", always_2d=True)
        np.testing.assert_allclose(stem_of(house, job), mix * 0.5, atol=2 / 32768)
        assert job.work_seconds == pytest.approx(job.result["metrics"]["worker_seconds"])
        assert (job.attempt, job.company) == (1, 4)
    assert not scratch_of(house.settings.home)
    assert runner.run()
    assert house.job(ids[4]).state is State.SUCCEEDED and house.job(ids[4]).company is None


def test_the_end_of_one_is_no_others(house: House, runner: Runner) -> None:
    """One is cancelled, one cannot be read, one is well."""
    loaded(house, runner)
    broken = house.settings.home / "broken.wav"
    broken.write_bytes(b"no sound at all")
    well, long, wrong = submitted(
        house, episode(house, "well", 4.0), episode(house, "long", 60.0), house.upload(broken)
    )  # fmt: skip
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        wait_for(lambda: house.job(long).blocks_done >= 1)
        with house.database.write() as tx:
            finish.cancel(tx, long)
        house.ended(long, 20)
    finally:
        thread.join()
    assert house.job(long).state is State.CANCELLED
    assert house.job(well).state is State.SUCCEEDED
    assert (house.job(wrong).state, house.job(wrong).error["code"]) == (State.FAILED, "unsupported_media")
    assert {house.job(job_id).company for job_id in (well, long, wrong)} == {3}
    assert not scratch_of(house.settings.home)


def test_all_yield_to_an_interactive_job_at_a_blocks_end(
    house: House, runner: Runner, scheduler: Scheduler
) -> None:  # fmt: skip
    loaded(house, runner)
    ids = submitted(house, episode(house, "a", 40.0), episode(house, "b", 30.0), priority="batch")
    over = threading.Event()
    thread = threading.Thread(target=serve, args=(runner, over, 0.05))
    thread.start()
    try:
        wait_for(lambda: all(house.job(job_id).blocks_done for job_id in ids))
        urgent = house.ended(house.submit(input={"upload": episode(house, "urgent", 3.0)}).id)
        states = {house.job(job_id).state for job_id in ids}
        wait_for(lambda: scheduler.release() or all(house.job(job_id).terminal for job_id in ids))
    finally:
        over.set()
        thread.join()
    assert urgent.state is State.SUCCEEDED and State.SUCCEEDED not in states
    for job_id in ids:
        job = house.job(job_id)
        assert (job.state, job.failures, job.losses) == (State.SUCCEEDED, 0, 0)
        assert [e["reason"] for e in house.log(job_id) if "reason" in e].count("preempted") == 1
        assert job.result["metrics"]["blocks_resumed"] >= 1


def test_a_worker_that_is_told_to_end_gives_all_back(house: House) -> None:
    worker = house.process("worker.poll")
    with house.running(worker):
        house.ended(submitted(house, episode(house, "first", 1.0))[0])
        ids = submitted_at_once(house, *(episode(house, f"e{n}", 60.0) for n in range(2)))
        wait_for(lambda: all(house.job(job_id).blocks_done for job_id in ids))
        with house.database.read() as tx:
            (here,) = processes.list_all(tx, 30, "worker")
        assert set(here.job_ids) == set(ids)
        worker.stop(20.0)
    for job_id in ids:
        given = house.job(job_id)
        assert (given.state, given.attempt, given.failures) == (State.QUEUED, 1, 0)
        assert Reason.DRAINED in [e.get("reason") for e in house.log(job_id)]


def under_way(house: House, scheduler: Scheduler, uploads: list[str]) -> list[str]:
    """The jobs, after a worker took them together and died or ended itself, and others did all that is left of them,
    each restarted as a launcher does."""
    with house.kept_going(scheduler):
        house.ended(submitted(house, episode(house, "first", 1.0))[0])
        ids = submitted_at_once(house, *uploads)
        for job_id in ids:
            house.ended(job_id, 90)
    return ids


def test_of_jobs_that_lost_their_worker_together_only_the_culprit_is_found_guilty(
    house: House, scheduler: Scheduler
) -> None:
    """They are done alone from then on; the worker is not suspected of dying on several jobs in a row."""
    uploads = [episode(house, "a", 5.0), episode(house, "poison", 5.0, first=0.999), episode(house, "b", 5.0)]
    first, poison, second = under_way(house, scheduler, uploads)
    for job_id in (first, second):
        job = house.job(job_id)
        assert (job.state, job.attempt, job.losses, job.crashes, job.company) == (State.SUCCEEDED, 2, 1, 0, None)
    failed = house.job(poison)
    assert (failed.state, failed.error["code"], failed.company) == (State.FAILED, "worker_crashed", None)
    assert not any(e.get("code") == "worker_quarantined" for job_id in (first, second) for e in house.log(job_id))


def test_jobs_beside_one_that_hangs_are_tried_again_alone(tmp_path: Path, sqlite_url: str) -> None:
    house = House(tmp_path / "home", sqlite_url, stall_seconds=1.5, max_attempts=2)
    scheduler = Scheduler(house.settings, house.database, house.store, house.ringer)
    uploads = [episode(house, "a", 5.0), episode(house, "hangs", 5.0, first=-0.999)]
    well, hanging = under_way(house, scheduler, uploads)
    assert (house.job(well).state, house.job(well).failures, house.job(well).company) == (State.SUCCEEDED, 1, None)
    assert (house.job(hanging).state, house.job(hanging).error["code"]) == (State.FAILED, "engine_stalled")


@dataclass
class Pause:
    seconds: float = 0.0


Together = tuple[House, Runner, list[int], Pause]


@pytest.fixture
def sam_audio(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Together]:
    """A house with a generated SAM-Audio whose batches hold eight windows, as on a card; the size of each
    batch, and a pause before each."""
    pytest.importorskip("transformers")
    from tests.sam_audio import Fixed, tiny_config
    from worker.separation.sam_audio import engine
    from worker.separation.sam_audio.generated import write_checkpoint
    from worker.separation.sam_audio.model import SamAudio

    folder = tmp_path / "models" / "sam-audio-small"
    write_checkpoint(folder, tiny_config(dim=32, n_heads=1, n_layers=1, context_dim=32), seed=3)
    sizes: list[int] = []
    pause = Pause()
    evaluate = SamAudio.evaluate

    def noting(model: SamAudio, state: Any, *rest: Any) -> Any:
        sizes.append(state.shape[0])
        # A network this small would be done with one job before the next is there.
        time.sleep(pause.seconds)
        return evaluate(model, state, *rest)

    monkeypatch.setattr(SamAudio, "evaluate", noting)
    monkeypatch.setattr(engine, "Batches", lambda *_, **__: Fixed(8))
    house = House(
        tmp_path / "home", sqlite_url, models_dir=tmp_path / "models", models_on_cpu=True, sam_audio_dtype="float32"
    )
    runner = open_runner(house.settings, lanes=("gpu",))
    runner.start()
    yield house, runner, sizes, pause
    runner.close()


def test_windows_of_several_jobs_share_batches(sam_audio: Together, tmp_path: Path) -> None:
    """Each gives what it gives alone; it takes fewer evaluations, as the windows of all fit into one batch."""
    house, runner, sizes, pause = sam_audio
    prompts = ["man speaking", {"description": "a dog", "spans": [["+", 0.5, 1.5]]}, "rain on a roof"]

    def submit(seconds: float, seed: int, prompt: Any) -> str:
        path = media.write(tmp_path / f"e{seed}.wav", media.signal(RATE, 1, seconds, "noise"), RATE, "float")
        params = {"prompts": [prompt], "quality": "draft", "seed": seed, "output": {"format": "wav"}}
        return house.submit("sam-audio-small", input={"upload": house.upload(path)}, params=params, cache=False).id

    first = submit(1.0, 9, "speech")
    assert runner.run()
    assert house.job(first).state is State.SUCCEEDED
    sizes.clear()
    asked = [(3.0, seed, prompt) for seed, prompt in enumerate(prompts)]
    alone = []
    for one in asked:
        alone.append(submit(*one))
        assert runner.run()
    evaluations = len(sizes) // 3
    assert sizes == [1] * len(sizes)
    sizes.clear()
    pause.seconds = 0.1
    together = [submit(*one) for one in asked]
    assert runner.run()
    for job_id, reference in zip(together, alone, strict=True):
        job = house.job(job_id)
        assert job.state is State.SUCCEEDED, job.error
        metrics = job.result["metrics"]
        assert (metrics["jobs_together"], metrics["encoded_seconds"]) == (3, 3.0)
        assert metrics["evaluations"] == metrics["windows_evaluated"] == evaluations
        for name in {output["name"] for output in job.result["outputs"] if output["role"] == "stem"}:
            ours, theirs = stem_of(house, job, name), stem_of(house, house.job(reference), name)
            assert np.abs(ours - theirs).max() < 1e-4 * np.sqrt((theirs**2).mean())
    assert sum(sizes) == 3 * evaluations
    # The first may begin before the last is there, and end before it.
    assert len(sizes) < 3 * evaluations and max(sizes) > 1
