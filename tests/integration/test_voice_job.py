"""A voice from its recording to a job that speaks in it: the real API, database, store and worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("transformers")

from common import engines
from common.engines import EngineSpec, Kind, Lane
from common.states import State
from tests import chat, csm, media, whisper
from tests.api import VOICE, Api
from tests.house import House
from tests.voices import RATE, SENTENCES, Passage, passage
from worker.compose import open_runner
from worker.engine import Artifact, Event, Host, Metrics, Work
from worker.media.speech import available
from worker.runner import Runner

pytestmark = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")

PARROT = EngineSpec(
    name="parrot",
    kind=Kind.TTS,
    target="tests.integration.test_voice_job:Parrot",
    lane=Lane.CPU,
    summary="Gives back the voice it was to speak in",
    licence="Apache-2.0",
    features=frozenset({"cloning"}),
)


class Parrot:
    name, version = "parrot", "1"

    def __init__(self, host: Host) -> None:
        pass

    def run(self, work: Work) -> Iterator[Event]:
        for voice in work.voices.values():
            yield Metrics({"voice": [voice.id, voice.name, voice.transcript]})
            yield Artifact("speech", voice.audio, "audio/flac", "speech")

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def told() -> Passage:
    return passage(SENTENCES[:4])


@pytest.fixture
def house(tmp_path: Path, sqlite_url: str, told: Passage, monkeypatch: pytest.MonkeyPatch) -> House:
    """It has a Whisper that hears the passage as it was spoken."""
    whisper.write_weights(tmp_path / "models", lines=[(round(s, 1), round(e, 1), text) for s, e, text in told.spoken])
    extra = ("tests.whisper:TINY", "tests.integration.test_voice_job:PARROT")
    made = House(tmp_path / "home", sqlite_url, models_dir=tmp_path / "models", extra_engines=extra)
    for name in ("whisper-tiny", "parrot"):
        monkeypatch.setitem(engines.REGISTRY, name, engines.REGISTRY[name])
    return made


@pytest.fixture
def api(house: House, runner: Runner) -> Api:
    """Its workers are known to it."""
    return Api(house.settings, house.database, house.store)


def submit(api: Api, voice: str) -> str:
    body = {"kind": "tts", "engine": "parrot", "params": {"text": "Hello.", "voice": voice}}
    answer = api.me.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


def voice_of(api: Api, tmp_path: Path, told: Passage, **members: Any) -> dict[str, Any]:
    recording = media.write(tmp_path / "me.wav", told.samples[None], RATE)
    upload = api.me.upload(recording.read_bytes())
    made = api.me.post("/v1/voices", json={**VOICE, "input": {"upload": upload}, "transcript": told.text, **members})
    assert made.status_code == 201, made.text
    return dict(made.json)


def test_a_long_recording_with_its_transcript_becomes_a_voice_that_jobs_hear(
    api: Api, house: House, runner: Runner, told: Passage, tmp_path: Path
) -> None:
    made = voice_of(api, tmp_path, told, transcriber="whisper-tiny")
    assert runner.run() and runner.run() and not runner.run()
    heard = house.job(made["transcription"])
    assert heard.state is State.SUCCEEDED, heard.error
    voice = api.me.get(f"/v1/voices/{made['id']}").json
    assert (voice["state"], voice["error"]) == ("ready", None), house.job(made["job"]).error
    excerpt = voice["excerpt"]
    assert 5 <= excerpt["end"] - excerpt["start"] <= 15
    inside = [t for s, e, t in told.spoken if s >= excerpt["start"] - 0.3 and e <= excerpt["end"] + 0.3]
    assert voice["transcript"] == " ".join(inside) != told.text
    spoken = house.job(submit(api, made["id"]))
    assert runner.run()
    result = house.job(spoken.id).result
    assert result["metrics"]["voice"] == [made["id"], "Ada", voice["transcript"]]
    with house.store.open(result["outputs"][0]["key"]) as stream:
        samples, rate = soundfile.read(stream)
    assert samples.size / rate == pytest.approx(excerpt["end"] - excerpt["start"], abs=0.001)
    # The voice outlives the job that made it.
    api.me.delete(f"/v1/jobs/{made['job']}")
    assert api.me.get(f"/v1/voices/{made['id']}").json["state"] == "ready"
    assert len(house.files(f"voices/{api.me.key.id}/{made['id']}/")) == 2


def test_a_conversation_in_a_recorded_voice_goes_on_in_its_manner(
    tmp_path: Path, sqlite_url: str, told: Passage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voice and two turns, all through the API, with a model that clones: it hears the voice and its last answer."""
    csm.write(tmp_path / "models")
    with chat.served("Yes.", "No.") as server:
        house = House(
            tmp_path / "home", sqlite_url, models_dir=tmp_path / "models", llm_url=server.url, llm_model="tiny",
            models_on_cpu=True, extra_engines=("tests.csm:TINY",),
        )  # fmt: skip
        monkeypatch.setitem(engines.REGISTRY, csm.NAME, engines.REGISTRY[csm.NAME])
        runner = open_runner(house.settings, lanes=("cpu", "gpu"))
        runner.start()
        try:
            api = Api(house.settings, house.database, house.store)
            short = Passage(told.samples[: round(told.spoken[1][1] * RATE)], told.spoken[:2])
            voice = voice_of(api, tmp_path, short)["id"]
            assert runner.run()
            heard: list[list[str]] = []
            engine = runner.card.acquire(engines.lookup(csm.NAME))
            synthesizer = engine.synthesizer  # type: ignore[attr-defined]
            row = synthesizer._row

            def listening(line: Any, text: str) -> Any:
                heard.append([line.reference.text, *(said.text for said in line.context), text])
                return row(line, text)

            monkeypatch.setattr(synthesizer, "_row", listening)
            turns: list[str] = []
            for question in ("Does it rain?", "Does it snow?"):
                speech = {"engine": csm.NAME, "voice": voice}
                body = {"kind": "conversation", "params": {"text": question, "speech": speech}}
                if turns:
                    body["previous"] = {"job": turns[-1]}
                answer = api.me.post("/v1/jobs", json=body)
                assert answer.status_code == 202, answer.text
                turns.append(answer.json["id"])
                assert answer.json["queue"]["lane"] == "gpu"
                assert runner.run()
                job = house.job(turns[-1])
                assert job.state is State.SUCCEEDED, job.error
                speech_of = next(output for output in job.result["outputs"] if output["name"] == "speech")
                assert speech_of["cloned"] and speech_of["provenance"]["voices"] == [voice]
        finally:
            runner.close()
    assert heard[0] == [short.text, "Yes."]
    assert heard[-1] == [short.text, "Yes.", "No."]


def test_a_job_whose_voice_was_deleted_says_so(
    api: Api, house: House, runner: Runner, told: Passage, tmp_path: Path
) -> None:
    short = Passage(told.samples[: round(told.spoken[1][1] * RATE)], told.spoken[:2])
    made = voice_of(api, tmp_path, short)
    assert runner.run()
    assert api.me.get(f"/v1/voices/{made['id']}").json["transcript"] == short.text
    job_id = submit(api, made["id"])
    api.me.delete(f"/v1/voices/{made['id']}")
    assert runner.run()
    ended = house.job(job_id)
    assert ended.state is State.FAILED
    assert (ended.error["code"], ended.error["pointer"]) == ("voice_missing", "/params/voice")


def test_a_transcript_is_drafted_and_confirmed(
    api: Api, house: House, runner: Runner, told: Passage, tmp_path: Path
) -> None:
    made = voice_of(api, tmp_path, told, transcript=None, transcriber="whisper-tiny")
    assert runner.run() and runner.run()
    path = f"/v1/voices/{made['id']}"
    draft = api.me.get(path).json
    assert (draft["state"], draft["needs"]) == ("draft", "transcript")
    assert draft["transcript"] and draft["transcript"] in told.text
    assert api.me.patch(path, json={"transcript": draft["transcript"]}).json["state"] == "ready"
    outputs = {output["name"]: output for output in house.job(made["transcription"]).result["outputs"]}
    with house.store.open(outputs["transcript"]["key"]) as stream:
        assert [segment["text"] for segment in json.load(stream)["segments"]] == [text for _, _, text in told.spoken]


def test_what_cannot_be_prepared_says_why(
    api: Api, house: House, runner: Runner, told: Passage, tmp_path: Path
) -> None:
    made = voice_of(api, tmp_path, Passage(told.samples[: 3 * RATE], told.spoken[:1]))
    assert runner.run()
    voice = api.me.get(f"/v1/voices/{made['id']}").json
    assert (voice["state"], voice["error"]["code"], voice["excerpt"]) == ("draft", "too_short", None)
