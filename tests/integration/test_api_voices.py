"""Voices over HTTP: made with consent, confirmed, named by jobs, deleted with all that was kept of them."""

from __future__ import annotations

from typing import Any

import pytest

from common.db import processes
from common.jobs import sweep
from common.states import State
from common.storage import keys as layout
from tests import jobs
from tests.api import VOICE, Api, Caller, api, sqlite_api

__all__ = ["api", "sqlite_api"]


def with_whisper(api: Api, *, ready: bool = True) -> None:
    """A worker that could transcribe."""
    told = {"whisper": {"ready": True} if ready else {"ready": False, "missing": "torch", "hint": "pip"}}
    with api.database.write() as tx:
        processes.register(tx, "cpu0@host", "worker", lanes=["cpu"], info={"device": "cpu", "engines": told})


def speak(caller: Caller, voice: str, **members: Any) -> Any:
    body = {"kind": "tts", "engine": "csm-1b", "params": {"text": "Good evening.", "voice": voice}, **members}
    return caller.post("/v1/jobs", json=body)


def test_a_voice_is_prepared_by_a_job_and_then_ready(api: Api) -> None:
    upload = api.me.upload()
    made = api.me.post("/v1/voices", json={**VOICE, "input": {"upload": upload}})
    assert made.status_code == 201 and made.headers["Location"].endswith(made.json["id"])
    voice = made.json
    assert (voice["state"], voice["needs"], voice["excerpt"]) == ("draft", "preparation", None)
    assert voice["consent"] == {**VOICE["consent"], "recorded_at": voice["consent"]["recorded_at"]}
    job = api.me.get(f"/v1/jobs/{voice['job']}").json
    assert (job["kind"], job["engine"], job["state"]) == ("voice", "excerpt", "queued")
    assert job["inputs"] == [{"upload": upload}]
    assert api.ringer.rung == [voice["job"]]
    ready = api.me.get(f"/v1/voices/{api.voice(api.me)}").json
    assert (ready["state"], ready["needs"], ready["transcript"], ready["seconds"]) == (
        "ready", None, "What is said.", 20.0
    )  # fmt: skip
    assert (ready["excerpt"]["start"], ready["excerpt"]["end"]) == (1.5, 11.5)
    listened = api.stranger().get(ready["excerpt"]["url"].removeprefix("http://localhost"))
    assert (listened.status_code, listened.data) == (200, b"excerpt")


def test_a_draft_is_confirmed_with_its_words(api: Api) -> None:
    voice_id = api.voice(api.me, "What was hurt.", exact=False)
    path = f"/v1/voices/{voice_id}"
    draft = api.me.get(path).json
    assert (draft["state"], draft["needs"], draft["transcript"]) == ("draft", "transcript", "What was hurt.")
    assert speak(api.me, voice_id).json["code"] == "voice_not_ready"
    renamed = api.me.patch(path, json={"name": "Countess"}).json
    assert (renamed["name"], renamed["state"]) == ("Countess", "draft")
    confirmed = api.me.patch(path, json={"transcript": " What was heard. "}).json
    assert (confirmed["state"], confirmed["transcript"], confirmed["name"]) == ("ready", "What was heard.", "Countess")
    assert speak(api.me, voice_id).status_code == 202


def test_nothing_can_be_confirmed_before_there_is_an_excerpt(api: Api) -> None:
    made = api.me.post("/v1/voices", json=VOICE).json
    path = f"/v1/voices/{made['id']}"
    refused = api.me.patch(path, json={"transcript": "Words."})
    assert (refused.status_code, refused.json["code"]) == (409, "voice_not_ready")
    assert made["job"] in refused.json["hint"]
    jobs.claimed(api.database, made["job"])
    with api.database.write() as tx:
        from common.jobs import finish

        error = {"code": "too_short", "message": "2 s.", "retryable": False}
        finish.fail(tx, jobs.look(api.database, made["job"]).lease, error)
    assert api.me.get(path).json["error"]["code"] == "too_short"
    assert "error" in api.me.patch(path, json={"transcript": "Words."}).json["hint"]


def test_without_a_transcript_one_is_drafted_first(api: Api) -> None:
    body = {name: value for name, value in VOICE.items() if name != "transcript"}
    refused = api.me.post("/v1/voices", json=body)
    assert (refused.status_code, refused.json["code"], refused.json["pointer"]) == (
        503, "engine_not_ready", "/transcriber"
    )  # fmt: skip
    with_whisper(api, ready=False)
    assert api.me.post("/v1/voices", json=body).status_code == 503
    with_whisper(api)
    made = api.me.post("/v1/voices", json=body).json
    first, second = (api.me.get(f"/v1/jobs/{made[name]}").json for name in ("transcription", "job"))
    assert (first["kind"], first["engine"], first["input"]) == ("transcription", "whisper", VOICE["input"])
    assert (second["kind"], second["state"], second["upstream"]) == ("voice", "waiting", first["id"])
    assert second["inputs"] == [VOICE["input"], {"job": first["id"], "output": "transcript"}]
    # With a transcript it is asked only where it is named; nobody is asked where that was said.
    assert api.me.post("/v1/voices", json=VOICE).json["transcription"] is None
    assert api.me.post("/v1/voices", json={**VOICE, "transcriber": "whisper"}).json["transcription"] is not None
    assert api.me.post("/v1/voices", json={**body, "transcriber": None}).json["transcription"] is None
    unknown = api.me.post("/v1/voices", json={**body, "transcriber": "rnnoise"})
    assert (unknown.status_code, unknown.json["code"], unknown.json["pointer"]) == (
        422, "unknown_engine", "/transcriber"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"consent": {"given_by": "Ada", "date": "2026-01-31"}}, "/consent/purpose"),
        ({"consent": {**VOICE["consent"], "date": "2999-01-01"}}, "/consent/date"),  # type: ignore[dict-item]
        ({"consent": {**VOICE["consent"], "given_by": "  "}}, "/consent/given_by"),  # type: ignore[dict-item]
        ({"name": ""}, "/name"),
        ({"transcript": " "}, "/transcript"),
        ({"input": {"url": "http://127.0.0.1/a.wav"}}, "/input/url"),
        ({"input": {"upload": "upl_nobody"}}, "/input/upload"),
        ({"input": {"job": "job_nobody", "output": "speech"}}, "/input/job"),
        ({"voice": "voi_1"}, "/voice"),
    ],
)
def test_what_is_wrong_is_pointed_at(sqlite_api: Api, members: dict[str, Any], pointer: str) -> None:
    answer = sqlite_api.me.post("/v1/voices", json={**VOICE, **members})
    assert (answer.status_code, answer.json["pointer"]) == (422, pointer)
    assert sqlite_api.me.get("/v1/voices").json["items"] == []
    assert sqlite_api.me.get("/v1/jobs").json["items"] == []


def test_the_preparation_cannot_be_submitted_as_a_job(sqlite_api: Api) -> None:
    body = {"kind": "voice", "inputs": [VOICE["input"]], "params": {"voice": sqlite_api.voice(sqlite_api.me)}}
    assert sqlite_api.me.post("/v1/jobs", json=body).status_code == 422


def test_a_job_speaks_only_in_voices_of_its_own_key(api: Api) -> None:
    voice_id = api.voice(api.me)
    assert speak(api.me, voice_id).status_code == 202
    theirs, nobodys = speak(api.caller("other"), voice_id), speak(api.caller("third"), "voi_nobody")
    for answer, named in ((theirs, voice_id), (nobodys, "voi_nobody")):
        assert (answer.status_code, answer.json["code"], answer.json["pointer"]) == (
            422, "voice_missing", "/params/voice"
        )  # fmt: skip
        assert answer.json["detail"] == f"There is no voice {named}."


def test_deleting_a_voice_leaves_nothing_of_it(api: Api) -> None:
    voice_id = api.voice(api.me)
    voice = api.me.get(f"/v1/voices/{voice_id}").json
    upload = api.me.get(f"/v1/jobs/{voice['job']}").json["inputs"][0]["upload"]
    waiting = speak(api.me, voice_id).json["id"]
    assert len(list(api.store.list(layout.voice_folder(api.me.key.id, voice_id)))) == 2
    assert api.me.delete(f"/v1/voices/{voice_id}").status_code == 204
    for path in (f"/v1/voices/{voice_id}", f"/v1/jobs/{voice['job']}", f"/v1/uploads/{upload}"):
        assert api.me.get(path).status_code == 404, path
    with api.database.read() as tx:
        prefixes = [due.prefix for due in sweep.due_sweeps(tx)]
    assert layout.voice_folder(api.me.key.id, voice_id) in prefixes
    assert layout.upload(api.me.key.id, upload) in prefixes
    # The job is still there, and learns of it when its turn comes; trying again says the same.
    assert api.me.get(f"/v1/jobs/{waiting}").json["state"] in ("waiting", "queued")
    api.me.post(f"/v1/jobs/{waiting}/cancel")
    again = api.me.post(f"/v1/jobs/{waiting}/retry")
    assert (again.status_code, again.json["code"]) == (422, "voice_missing")


def test_deleting_a_voice_ends_its_preparation(api: Api) -> None:
    with_whisper(api)
    made = api.me.post("/v1/voices", json={**VOICE, "transcriber": "whisper"}).json
    running = jobs.claimed(api.database, made["transcription"])
    api.me.delete(f"/v1/voices/{made['id']}")
    assert jobs.look(api.database, running.id).cancel_requested
    assert api.me.get(f"/v1/jobs/{made['job']}").status_code == 404
    other = api.me.post("/v1/voices", json=VOICE).json
    running = jobs.claimed(api.database, other["job"])
    assert running.state is State.RUNNING
    api.me.delete(f"/v1/voices/{other['id']}")
    with api.database.read() as tx:
        folder = layout.voice_folder(api.me.key.id, other["id"])
        assert folder in [due.prefix for due in sweep.due_sweeps(tx)]
    assert jobs.look(api.database, running.id).cancel_requested
