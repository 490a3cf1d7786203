"""Speech through real workers: killed and gone on, cancelled in the middle, by espeak-ng and by a tiny CSM."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from common import engines
from common.jobs import finish
from common.jobs.job import Job
from common.states import State
from tests import media
from tests.api import VOICE, Api
from tests.house import House, wait_for
from tests.voices import RATE, passage
from tests.voices import SENTENCES as SENTENCES_OF_VOICES
from worker.compose import open_runner
from worker.media.espeak import available

SENTENCES = " ".join(f"Number {number} is not the last one." for number in range(200))


def speak(house: House, engine: str, **params: Any) -> Job:
    return house.submit(engine, kind="tts", params={"output": {"format": "wav"}, **params}, cache=False)


def speech_of(house: House, job_id: str, seconds: float = 120.0) -> tuple[np.ndarray, dict[str, Any]]:
    """The samples and the job's result."""
    job = house.ended(job_id, seconds)
    assert job.state is State.SUCCEEDED, job.error
    assert job.result is not None
    entry = next(output for output in job.result["outputs"] if output["name"] == "speech")
    with house.store.open(entry["key"]) as stream:
        return soundfile.read(stream, dtype="float32")[0], dict(job.result)


@pytest.fixture
def espeak(tmp_path: Path, sqlite_url: str) -> House:
    if not available():
        pytest.skip("espeakng-loader is not installed")
    # Longer than elsewhere: on a busy machine a lease lost by accident would be taken for the one that is to be lost.
    return House(tmp_path / "home", sqlite_url, lease_seconds=8.0)


@pytest.mark.slow
def test_a_killed_worker_s_text_goes_on_at_the_next_piece(espeak: House) -> None:
    house = espeak
    undisturbed = speak(house, "espeak", text=SENTENCES)
    disturbed = speak(house, "espeak", text=SENTENCES)
    worker = house.process("worker.poll", worker_name="one")
    with house.running(worker, house.process("worker.scheduler")):
        first, _ = speech_of(house, undisturbed.id)
        wait_for(lambda: house.job(disturbed.id).blocks_done >= 3)
        worker.kill()
        finished = house.job(disturbed.id).blocks_done
        assert not house.job(disturbed.id).terminal, "it was killed in the middle"
        with house.running(house.process("worker.poll", worker_name="two")):
            second, result = speech_of(house, disturbed.id)
    np.testing.assert_array_equal(second, first)
    assert house.job(disturbed.id).attempt == 2
    assert result["metrics"]["blocks_resumed"] >= finished
    entry = next(output for output in result["outputs"] if output["name"] == "timing.json")
    with house.store.open(entry["key"]) as stream:
        (turn,) = json.load(stream)["turns"]
    assert turn["text"] == SENTENCES, "nothing is lost and nothing doubled"


def test_a_running_text_is_cancelled_within_seconds(espeak: House) -> None:
    house = espeak
    job = speak(house, "espeak", text=f"{SENTENCES} " * 25)
    with house.running(house.process("worker.poll")):
        wait_for(lambda: house.job(job.id).blocks_done >= 2)
        with house.database.write() as tx:
            assert finish.cancel(tx, job.id).state is State.RUNNING
        began = time.monotonic()
        assert house.ended(job.id).state is State.CANCELLED
        assert time.monotonic() - began < 20


@pytest.fixture
def csm_house(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests import csm

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    csm.write(tmp_path / "models", codes=4)
    made = House(
        tmp_path / "home",
        sqlite_url,
        models_dir=tmp_path / "models",
        extra_engines=("tests.csm:TINY",),
        lease_seconds=8.0,
        worker_lanes=("cpu", "gpu"),
    )
    monkeypatch.setitem(engines.REGISTRY, csm.NAME, engines.REGISTRY[csm.NAME])
    return made


SCRIPT = [
    {"speaker": "Anna", "text": "Good evening, and welcome."},
    {"speaker": "Bob", "text": "Thank you <|AUDIO|> for having me."},
    {"speaker": "Anna", "text": "Let us begin."},
    {"speaker": "Bob", "text": "Yes, let us. " * 3},
]


@pytest.mark.slow
def test_a_dialogue_by_csm_also_when_its_worker_dies_and_a_cancel_inside_a_piece(csm_house: House) -> None:
    house = csm_house
    given = {"script": SCRIPT, "seed": 4, "temperature": 2}
    undisturbed, disturbed = speak(house, "csm-tiny", **given), speak(house, "csm-tiny", **given)
    one = house.process("worker.poll", models_on_cpu=True, worker_name="one")
    with house.running(one, house.process("worker.scheduler")):
        first, result = speech_of(house, undisturbed.id)
        wait_for(lambda: house.job(disturbed.id).blocks_done >= 2)
        one.kill()
        with house.running(house.process("worker.poll", models_on_cpu=True, worker_name="two")):
            second, resumed = speech_of(house, disturbed.id)
            long = speak(house, "csm-tiny", text="Once more, a sentence that takes its time. " * 40)
            wait_for(lambda: (house.job(long.id).progress or {}).get("done", 0) > 0, 60)
            with house.database.write() as tx:
                finish.cancel(tx, long.id)
            began = time.monotonic()
            assert house.ended(long.id).state is State.CANCELLED
            assert time.monotonic() - began < 20
    np.testing.assert_array_equal(second, first)
    assert first.size > 24_000 and np.abs(first).max() > 0.01
    assert resumed["metrics"]["blocks_resumed"] >= 2 and result["metrics"]["blocks_resumed"] == 0
    (entry,) = [output for output in result["outputs"] if output["role"] == "speech"]
    assert entry["provenance"]["engine"] == "csm-tiny" and entry["provenance"]["voices"] == ["csm:0", "csm:1"]


def test_a_job_in_a_caller_s_own_voice(csm_house: House, tmp_path: Path) -> None:
    """From the recording to the speech: the voice is made through the API, and heard by the model."""
    if not available():
        pytest.skip("espeakng-loader is not installed")
    house = csm_house
    told = passage(SENTENCES_OF_VOICES[:2])
    runner = open_runner(house.settings.model_copy(update={"models_on_cpu": True}), lanes=("cpu", "gpu"))
    runner.start()
    api = Api(house.settings, house.database, house.store)
    try:
        recording = media.write(tmp_path / "me.wav", told.samples[None], RATE)
        body = {**VOICE, "input": {"upload": api.me.upload(recording.read_bytes())}, "transcript": told.text}
        made = api.me.post("/v1/voices", json=body).json
        assert runner.run()
        params = {"text": "Hello. " * 3, "voice": made["id"], "temperature": 2, "output": {"format": "flac"}}
        answer = api.me.post("/v1/jobs", json={"kind": "tts", "engine": "csm-tiny", "params": params})
        assert answer.status_code == 202, answer.text
        assert runner.run()
        samples, result = speech_of(house, answer.json["id"])
        engine = runner.card.acquire(engines.REGISTRY["csm-tiny"])
        (heard,) = engine.synthesizer._heard.values()  # type: ignore[attr-defined]
    finally:
        runner.close()
    assert samples.size and np.abs(samples).max() > 0.01
    (entry,) = [output for output in result["outputs"] if output["role"] == "speech"]
    assert entry["cloned"] is True and entry["provenance"]["voices"] == [made["id"]]
    excerpt = api.me.get(f"/v1/voices/{made['id']}").json["excerpt"]
    assert len(heard) == pytest.approx(12.5 * (excerpt["end"] - excerpt["start"]), abs=1), "its excerpt, frame by frame"
