"""A conversation from its questions to spoken answers: the real queue, store and worker, and a server that answers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from common import engines
from common.jobs.job import Job
from common.states import State
from tests import chat, jobs, media
from tests.api import VOICE, Api
from tests.house import House
from worker.compose import open_runner
from worker.media.speech import available
from worker.runner import Runner

pytestmark = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")


@pytest.fixture
def server() -> Iterator[chat.Chat]:
    with chat.served("**Yes**, it rains in Leith.", "Until the morning, I think.") as made:
        yield made


@pytest.fixture
def house(tmp_path: Path, sqlite_url: str, server: chat.Chat) -> House:
    return House(
        tmp_path / "home", sqlite_url, models_dir=tmp_path / "models", llm_url=server.url, llm_model="tiny",
        llm_api_key="sk-0123456789abcdef",
        # What is to be tried again is seen waiting, however slow the machine.
        retry_base_seconds=600.0,
    )  # fmt: skip


def ask(house: House, runner: Runner, **members: Any) -> Job:
    job = house.submit("llm", kind="conversation", **{"params": {"text": "Does it rain?"}, **members})
    assert runner.run()
    return house.job(job.id)


def outputs(house: House, job: Job) -> dict[str, bytes]:
    assert job.state is State.SUCCEEDED, job.error
    found = {}
    for output in job.result["outputs"]:
        with house.store.open(output["key"]) as stream:
            found[output["name"]] = stream.read()
    return found


def test_a_question_is_answered_aloud_and_followed_by_another(house: House, runner: Runner, server: chat.Chat) -> None:
    first = ask(house, runner)
    made = outputs(house, first)
    assert made["question"] == b"Does it rain?\n"
    assert made["answer"] == b"**Yes**, it rains in Leith.\n"
    samples, rate = soundfile.read(io.BytesIO(made["speech"]))
    # 22 letters at 160 words a minute, and audible.
    assert 1.0 < samples.size / rate < 5.0 and abs(samples).max() > 0.1
    assert b"Yes, it rains in Leith." in made["captions.vtt"]
    assert server.keys == ["Bearer sk-0123456789abcdef"]
    assert first.result["metrics"]["answer"]["answer_tokens"] == 7
    meta = {output["name"]: output for output in first.result["outputs"]}
    assert meta["speech"]["provenance"]["generated"] and meta["speech"]["provenance"]["job"] == first.id
    assert meta["answer"]["provenance"]["model"] == "tiny-1"

    second = ask(house, runner, params={"text": "Until when?"}, previous={"job": first.id})
    document = json.loads(outputs(house, second)["conversation"])
    assert [(turn["question"], turn["spoken"], turn["job"]) for turn in document["turns"]] == [
        ("Does it rain?", "Yes, it rains in Leith.", first.id),
        ("Until when?", "Until the morning, I think.", second.id),
    ]
    told = [(message["role"], message["content"]) for message in server.asked[1]["messages"]]
    assert told[1:] == [
        ("user", "Does it rain?"), ("assistant", "**Yes**, it rains in Leith."), ("user", "Until when?")
    ]  # fmt: skip


def test_turns_may_be_submitted_before_the_one_they_follow_has_ended(
    house: House, runner: Runner, server: chat.Chat
) -> None:
    first = house.submit("llm", kind="conversation", params={"text": "Does it rain?"})
    second = house.submit("llm", kind="conversation", params={"text": "Until when?"}, previous={"job": first.id})
    assert second.upstream == first.id
    assert runner.run() and runner.run()
    assert house.job(second.id).state is State.SUCCEEDED, house.job(second.id).error
    assert len(server.asked[1]["messages"]) == 4


def test_a_job_that_goes_on_elsewhere_does_not_ask_again(house: House, runner: Runner, server: chat.Chat) -> None:
    """Its worker dies when the answer is there and half of it is spoken."""
    server.answers[:] = ["One sentence is spoken here. " * 12 + "\n\n" + "And another paragraph follows. " * 12]
    job = house.submit("llm", kind="conversation", params={"text": "Does it rain?"})
    runner.card.acquire(engines.lookup("espeak"))
    engine = runner.card._resident["espeak"]
    synthesizer = engine.synthesizer  # type: ignore[attr-defined]
    speak, spoken = synthesizer.speak, []

    def breaks(lines: Any, *more: Any) -> Any:
        spoken.extend(lines)
        if len(spoken) == 3:
            raise ConnectionError("the worker is taken away")
        return speak(lines, *more)

    synthesizer.speak = breaks
    assert runner.run()
    assert house.job(job.id).state is State.WAITING
    kept = house.job(job.id).blocks_done
    assert kept >= 2, "the answer, and what of its speech was stored by then"
    jobs.queue_up(house.database, job.id)
    assert runner.run(job.id)
    ended = house.job(job.id)
    assert ended.state is State.SUCCEEDED, ended.error
    assert len(server.asked) == 1
    assert ended.result["metrics"]["speech"]["blocks_resumed"] == kept - 1


def test_a_server_that_refuses_fails_the_job_with_its_reason(house: House, runner: Runner, server: chat.Chat) -> None:
    server.answers[:] = [(404, '{"error": "no model tiny"}')]
    job = ask(house, runner)
    assert (job.state, job.error["code"]) == (State.FAILED, "llm_refused")
    assert "no model tiny" in job.error["message"] and "NIGHTSHIFT_LLM_MODEL" in job.error["hint"]
    server.answers[:] = ["<think>hm</think> …"]
    job = ask(house, runner)
    assert (job.state, job.error["code"]) == (State.WAITING, "llm_failed"), "another try may give another answer"


def test_without_a_configured_model_the_engine_is_not_ready(tmp_path: Path, sqlite_url: str) -> None:
    bare = House(tmp_path / "home", sqlite_url)
    runner = open_runner(bare.settings)
    told = runner.presence._info["engines"]["llm"]
    assert not told["ready"] and "NIGHTSHIFT_LLM_URL" in told["hint"]


def test_over_http(house: House, runner: Runner) -> None:
    api = Api(house.settings, house.database, house.store)
    draft = api.me.post("/v1/voices", json=VOICE).json["id"]
    body = {"kind": "conversation", "params": {"text": "Does it rain?"}}
    for more, code, pointer in (
        ({"previous": {"job": "job_nobody"}}, "input_missing", "/previous/job"),
        ({"params": {"text": "Rain?", "speech": {"voice": "espeak:xx"}}}, "voice_missing", "/params/speech/voice"),
        ({"params": {"text": "Rain?", "speech": {"voice": draft, "engine": "csm-1b"}}}, "voice_not_ready",
         "/params/speech/voice"),
    ):  # fmt: skip
        answer = api.me.post("/v1/jobs", json={**body, **more})
        assert (answer.json["code"], answer.json["pointer"]) == (code, pointer)
    other = api.succeeded(api.me).id
    answer = api.me.post("/v1/jobs", json={**body, "previous": {"job": other}})
    assert (answer.status_code, answer.json["code"]) == (422, "input_missing")
    accepted = api.me.post("/v1/jobs", json=body)
    assert accepted.status_code == 202
    while runner.run():
        pass
    results = api.me.get(f"/v1/jobs/{accepted.json['id']}/results").json
    assert {"question", "answer", "speech", "conversation"} <= {output["name"] for output in results["outputs"]}


def test_a_spoken_question_is_heard_first(
    tmp_path: Path, sqlite_url: str, server: chat.Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests import whisper

    whisper.write_weights(tmp_path / "models", lines=[(0.0, 2.0, "Does it rain in Leith?")])
    house = House(
        tmp_path / "home", sqlite_url, models_dir=tmp_path / "models", llm_url=server.url, llm_model="tiny",
        extra_engines=("tests.whisper:TINY",),
    )  # fmt: skip
    monkeypatch.setitem(engines.REGISTRY, "whisper-tiny", engines.REGISTRY["whisper-tiny"])
    runner = open_runner(house.settings)
    runner.start()
    try:
        recording = {"upload": house.upload(media.make(tmp_path / "question.wav", 16_000, 1, 4.0, "noise"))}
        hearing = {"transcription": {"engine": "whisper-tiny", "language": "en"}}
        job = ask(house, runner, input=recording, params=hearing)
        assert outputs(house, job)["question"] == b"Does it rain in Leith?\n"
        assert server.asked[0]["messages"][-1] == {"role": "user", "content": "Does it rain in Leith?"}
        assert job.result["metrics"]["question"]["language"] == "en"
        silence = {"upload": house.upload(media.make(tmp_path / "still.wav", 16_000, 1, 4.0, "silence"))}
        job = ask(house, runner, input=silence, params=hearing)
        assert (job.state, job.error["code"], job.error["pointer"]) == (State.FAILED, "no_speech", "/input")
    finally:
        runner.close()
