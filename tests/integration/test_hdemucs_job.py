"""A job for HDemucs from its submission to its stems, through a worker's process that polls the database."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("torchaudio")

from common import engines
from common.db import processes
from common.states import State
from tests import media
from tests.hdemucs import write_weights
from tests.house import House, wait_for

RATE = 48_000
SAMPLES = 12 * RATE - 13


@pytest.fixture
def installed(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_weights(tmp_path / "models")
    made = House(
        tmp_path / "home",
        sqlite_url,
        models_dir=tmp_path / "models",
        extra_engines=("tests.hdemucs:TINY",),
        worker_lanes=("cpu", "gpu"),
        block_seconds=3.0,
    )
    monkeypatch.setitem(engines.REGISTRY, "hdemucs-tiny", engines.REGISTRY["hdemucs-tiny"])
    return made


def submit(house: House, folder: Path) -> str:
    """Stereo at another rate than the network's; two stems."""
    source = media.write(folder / "song.wav", media.signal(RATE, 2, 12.0, "noise")[:, :SAMPLES])
    params = {"prompts": ["vocals", "background music"]}
    return house.submit("hdemucs-tiny", input={"upload": house.upload(source)}, params=params, cache=False).id


def stems(house: House, job_id: str) -> dict[str, np.ndarray]:
    job = house.ended(job_id, 120)
    assert job.state is State.SUCCEEDED, job.error
    assert job.result is not None
    read = {}
    for output in job.result["outputs"]:
        if output["role"] == "stem":
            with house.store.open(output["key"]) as stream:
                samples, rate = soundfile.read(stream, dtype="float64", always_2d=True)
            assert (rate, samples.shape) == (RATE, (SAMPLES, 2))
            read[output["name"]] = samples
    return read


@pytest.mark.slow
def test_a_job_on_a_cpu_that_was_told_so_even_when_its_worker_dies(installed: House, tmp_path: Path) -> None:
    house = installed
    undisturbed = submit(house, tmp_path)
    worker = house.process("worker.poll", models_on_cpu=True, worker_name="one")
    scheduler = house.process("worker.scheduler")
    with house.running(worker, scheduler):
        first = stems(house, undisturbed)
        disturbed = submit(house, tmp_path)
        # A file of the second block: the four of the first, and the note of it, are there by then.
        wait_for(lambda: len(house.files(f"jobs/{disturbed}/blocks/")) > 4, 60, "no block was kept")
    with house.running(
        house.process("worker.poll", models_on_cpu=True, worker_name="two"), house.process("worker.scheduler")
    ):
        second = stems(house, disturbed)
    assert house.job(disturbed).attempt == 2
    assert house.job(disturbed).result["metrics"]["blocks_resumed"] >= 1
    mix = soundfile.read(tmp_path / "song.wav", dtype="float64", always_2d=True)[0]
    assert set(first) == {"vocals", "residual-vocals", "background-music", "residual-background-music"}
    for name in ("vocals", "background-music"):
        assert first[name].std() > 1e-3
        assert np.abs(first[name] + first[f"residual-{name}"] - mix).max() < 3 / 32768
    for name, stem in first.items():
        assert np.abs(second[name] - stem).max() <= 1 / 32768


def test_a_worker_that_was_not_told_so_says_what_is_missing(installed: House) -> None:
    house = installed
    with house.running(house.process("worker.poll")):

        def told() -> object:
            with house.database.read() as tx:
                found = processes.list_all(tx, 30, "worker")
            return found[0].info["engines"]["hdemucs-tiny"] if found else None

        state = wait_for(told)
    assert state == {
        "ready": False,
        "missing": "it is made for a card, and this worker has none",
        "hint": "Start a worker on a card, or set NIGHTSHIFT_MODELS_ON_CPU=1 to let it run without one, slowly.",
    }
