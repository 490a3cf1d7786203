from __future__ import annotations

import io
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from common.db import keys, processes
from common.db.engine import Database
from common.db.tables import jobs as job_rows
from common.jobs import finish, running
from common.settings import Settings
from common.states import State
from tests import jobs
from tests.api import AUDIO, Api, api, sqlite_api

__all__ = ["api", "sqlite_api"]


def test_a_job_is_accepted_released_and_rung_for(api: Api) -> None:
    response = api.me.submit(input={"upload": api.me.upload()}, metadata={"episode": "12"}, batch="night")
    assert response.status_code == 202
    job = response.json
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["engine"], job["metadata"], job["batch"]) == (
        "queued",
        "rnnoise",
        {"episode": "12"},
        "night",
    )
    assert job["params"]["prompts"] == [{"description": "speech", "name": "speech", "spans": []}]
    assert api.ringer.rung == [job["id"]]
    assert api.me.get(f"/v1/jobs/{job['id']}").json == job


def test_the_place_in_the_queue_is_told(api: Api) -> None:
    ids = [api.me.submit(priority=p).json["id"] for p in ("batch", "batch", "interactive")]
    places = {job_id: api.me.get(f"/v1/jobs/{job_id}").json["queue"] for job_id in ids}
    assert [places[job_id]["ahead"] for job_id in ids] == [1, 2, 0]
    assert all(place["lane"] == "cpu" and place["workers"] == 0 for place in places.values())
    with api.database.write() as tx:
        processes.register(tx, "w", "worker", lanes=["cpu"])
    assert api.me.get(f"/v1/jobs/{ids[0]}").json["queue"]["workers"] == 1


@pytest.mark.parametrize(
    ("members", "code", "pointer"),
    [
        ({"engine": "nothing"}, "unknown_engine", "/engine"),
        ({"params": {"prompts": ["a dog barking"]}}, "engine_unsupported", "/params/prompts/0/description"),
        ({"params": {"prompts": []}}, "invalid_request", "/params/prompts"),
        (
            {"params": {"prompts": [{"description": "speech", "spans": [["+", 2, 1]]}]}},
            "invalid_request", "/params/prompts/0/spans/0",
        ),
        ({"surprise": 1}, "invalid_request", "/surprise"),
        ({"params": {"prompts": ["speech"], "output": {"a/b~c": 1}}}, "invalid_request", "/params/output/a~1b~0c"),
        ({"input": {}}, "invalid_request", "/input"),
        ({"input": {"upload": "upl_nobody"}}, "input_missing", "/input/upload"),
        ({"input": {"job": "job_nobody", "output": "speech"}}, "input_missing", "/input/job"),
        ({"input": {"url": "http://127.0.0.1/a.wav"}}, "url_forbidden", "/input/url"),
        ({"input": {"url": "http://169.254.169.254/latest"}}, "url_forbidden", "/input/url"),
        ({"input": {"url": "http://[::1]:80/"}}, "url_forbidden", "/input/url"),
        ({"input": {"url": "https://user:pass@media.example/"}}, "url_forbidden", "/input/url"),
        ({"input": {"url": "ftp://media.example/"}}, "invalid_request", "/input"),
        ({"input": {"s3": "s3://secrets/key"}}, "bucket_forbidden", "/input/s3"),
        ({"callback": {"url": "http://10.0.0.1/hook"}}, "url_forbidden", "/callback/url"),
        ({"deadline": "2030-01-01T00:00:00"}, "invalid_request", "/deadline"),
        ({"deadline": "0001-01-01T00:00:00+14:00"}, "invalid_request", "/deadline"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_place(
    sqlite_api: Api, members: dict[str, Any], code: str, pointer: str
) -> None:
    response = sqlite_api.me.submit(**members)
    assert response.status_code == 422
    assert (response.json["code"], response.json["pointer"]) == (code, pointer)
    assert sqlite_api.me.get("/v1/jobs").json["items"] == [] and sqlite_api.ringer.rung == []


def test_a_bucket_that_the_operator_allows_may_be_named(tmp_path: Path, sqlite_database: Database) -> None:
    api = Api(Settings(home=tmp_path, s3_input_buckets=("archive",)), sqlite_database)
    assert api.me.submit(input={"s3": "s3://archive/2024/a.wav"}).status_code == 202


def test_a_pending_upload_is_looked_for_when_a_job_wants_it(api: Api) -> None:
    upload = api.me.post("/v1/uploads", json={"size": len(AUDIO)}).json
    refused = api.me.submit(input={"upload": upload["id"]})
    assert (refused.status_code, refused.json["code"]) == (409, "upload_incomplete")
    # As a presigned address does: the bytes arrive without the API's knowing.
    api.store.put(f"uploads/{api.me.key.id}/{upload['id']}", io.BytesIO(AUDIO))
    assert api.me.submit(input={"upload": upload["id"]}).status_code == 202
    assert api.me.get(f"/v1/uploads/{upload['id']}").json["state"] == "ready"


def test_an_upload_of_another_size_is_not_ready(sqlite_api: Api) -> None:
    upload = sqlite_api.me.post("/v1/uploads", json={"size": len(AUDIO)}).json
    sqlite_api.store.put(f"uploads/{sqlite_api.me.key.id}/{upload['id']}", io.BytesIO(AUDIO[:-1]))
    assert sqlite_api.me.submit(input={"upload": upload["id"]}).json["code"] == "upload_incomplete"


# --- Idempotency -----------------------------------------------------------------------------------------------------


def test_a_repeated_key_gives_the_same_job(api: Api) -> None:
    upload_id = api.me.upload()
    first = api.me.submit(input={"upload": upload_id}, headers={"Idempotency-Key": "night 1"})
    api.me.delete(f"/v1/uploads/{upload_id}")
    again = api.me.submit(input={"upload": upload_id}, headers={"Idempotency-Key": "night 1"})
    assert again.status_code == 202 and again.json["id"] == first.json["id"]
    assert again.headers["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first.headers
    assert len(api.me.get("/v1/jobs").json["items"]) == 1 and len(api.ringer.rung) == 1


def test_a_key_with_another_body_is_refused(api: Api) -> None:
    first = api.me.submit(headers={"Idempotency-Key": "k"})
    other = api.me.submit(headers={"Idempotency-Key": "k"}, batch="another")
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    assert other.json["job"] == first.json["id"]


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "a\tb", "ü"])
def test_a_key_is_printable_and_short(sqlite_api: Api, key: str) -> None:
    response = sqlite_api.me.submit(headers={"Idempotency-Key": key})
    assert response.status_code == 422
    assert response.json["errors"][0]["header"] == "Idempotency-Key"


def test_a_request_that_was_refused_does_not_use_the_key_up(sqlite_api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    assert sqlite_api.me.submit(headers=headers, input={"upload": "upl_none"}).status_code == 422
    assert sqlite_api.me.submit(headers=headers).status_code == 202


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_prefer_wait_answers_with_the_job_that_ended(api: Api) -> None:
    ended = threading.Event()

    def work() -> None:
        while not api.ringer.rung:
            time.sleep(0.02)
        job = jobs.claimed(api.database, api.ringer.rung[0])
        with api.database.write() as tx:
            finish.fail(tx, job.lease, jobs.ERROR)
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    response = api.me.submit(headers={"Prefer": "respond-async, wait=20"})
    worker.join()
    assert ended.is_set()
    assert (response.status_code, response.json["state"]) == (200, "failed")
    assert response.headers["Preference-Applied"] == "wait=20"


def test_prefer_wait_ends_with_the_job_as_it_is(sqlite_api: Api) -> None:
    response = sqlite_api.me.submit(headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json["state"]) == (202, "queued")


def test_prefer_wait_is_capped(tmp_path: Path, sqlite_database: Database) -> None:
    api = Api(Settings(home=tmp_path, max_wait_seconds=0), sqlite_database)
    assert api.me.submit(headers={"Prefer": "wait=999999999"}).headers["Preference-Applied"] == "wait=0"


def test_waiting_never_takes_the_last_thread(tmp_path: Path, sqlite_database: Database) -> None:
    api = Api(Settings(home=tmp_path, api_threads=2), sqlite_database)
    waiters = api.app.extensions["nightshift"].waiters
    assert waiters.acquire(blocking=False)
    response = api.me.submit(headers={"Prefer": "wait=30"})
    assert response.status_code == 202 and "Preference-Applied" not in response.headers
    waiters.release()


@pytest.mark.parametrize("prefer", ["wait", "wait=x", "wait=-1", "awaiting=5", "respond-async"])
def test_other_preferences_are_left_alone(sqlite_api: Api, prefer: str) -> None:
    assert "Preference-Applied" not in sqlite_api.me.submit(headers={"Prefer": prefer}).headers


# --- Looking ---------------------------------------------------------------------------------------------------------


def test_progress_is_told(api: Api) -> None:
    job = jobs.claimed(api.database, jobs.submitted(api.database, api.me.key.id).id)
    with api.database.write() as tx:
        said = {"phase": "separate", "done": 30.0, "total": 120.0, "unit": "s", "block": 1, "blocks": 4}
        running.renew(tx, job.lease, 30, said)
    with api.database.write() as tx:
        started = update(job_rows).where(job_rows.c.id == job.id)
        tx.execute(started.values(started_at=tx.now(-10.0), updated_at=tx.now()))
    seen = api.me.get(f"/v1/jobs/{job.id}").json
    assert (seen["state"], seen["worker"], seen["attempt"]) == ("running", "w1", 1)
    progress = seen["progress"]
    assert (progress["phase"], progress["percent"], progress["block"], progress["blocks"]) == ("separate", 25.0, 1, 4)
    assert progress["eta_seconds"] == pytest.approx(30, rel=0.05)


def test_an_end_is_told_whole(api: Api) -> None:
    done = api.me.get(f"/v1/jobs/{api.succeeded(api.me).id}").json
    assert done["state"] == "succeeded" and done["progress"]["percent"] == 100 and done["queue"] is None
    assert [output["name"] for output in done["outputs"]] == ["speech", "waveform"]
    assert "key" not in done["outputs"][0] and done["outputs"][0]["duration_seconds"] == 1.5
    assert done["warnings"][0]["code"] == "shortfall"
    failed = api.me.get(f"/v1/jobs/{jobs.brought(api.database, api.me.key.id, State.FAILED).id}").json
    assert failed["error"]["code"] == "engine_failed" and failed["outputs"] is None


def test_pages_hold_every_job_once_though_others_come(api: Api) -> None:
    ids = [jobs.submitted(api.database, api.me.key.id).id for _ in range(7)]
    response = api.me.get("/v1/jobs?limit=3")
    seen = [job["id"] for job in response.json["items"]]
    while response.json["next"]:
        jobs.submitted(api.database, api.me.key.id)
        link = response.headers["Link"]
        assert link.endswith('; rel="next"') and "limit=3" in link
        response = api.me.get(link[1:].split(">")[0].removeprefix("http://localhost"))
        seen += [job["id"] for job in response.json["items"]]
    assert seen == sorted(ids, reverse=True)


def test_lists_are_filtered(api: Api) -> None:
    key = api.me.key.id
    made = {state: jobs.brought(api.database, key, state).id for state in State if state is not State.SUCCEEDED}
    batch = jobs.submitted(api.database, key, batch="night 7").id

    def found(query: str) -> set[str]:
        response = api.me.get(f"/v1/jobs?{query}")
        assert response.status_code == 200, response.text
        return {job["id"] for job in response.json["items"]}

    everything = {*made.values(), batch}
    assert found("") == everything
    assert found("state=failed") == {made[State.FAILED]}
    assert found("state=failed&state=running") == {made[State.FAILED], made[State.RUNNING]}
    assert found("batch=night+7") == {batch}
    assert found("kind=separation&engine=rnnoise") == everything
    assert found("kind=tts") == found("engine=none") == set()
    now = datetime.now(UTC)
    for sign, expected in ((-1, everything), (1, set())):
        instant = (now + sign * timedelta(hours=1)).isoformat().replace("+", "%2B")
        assert found(f"created_after={instant}") == expected
        assert found(f"created_before={instant}") == everything - expected


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("limit=1&limit=2", "limit"),
        ("limit=" + "9" * 400, "limit"), ("state=done", "state"), ("kind=video", "kind"), ("unknown=1", "unknown"),
        ("created_after=yesterday", "created_after"), ("created_after=2024-01-01T00:00:00", "created_after"),
        ("created_after=0001-01-01T00:00:00%2B14:00", "created_after"), ("batch=%00", "batch"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(sqlite_api: Api, query: str, parameter: str) -> None:
    response = sqlite_api.me.get(f"/v1/jobs?{query}")
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert response.json["errors"][0]["parameter"] == parameter


def test_a_cursor_is_one_of_ours_and_of_this_list(sqlite_api: Api) -> None:
    for _ in range(2):
        sqlite_api.me.upload()
    foreign = sqlite_api.me.get("/v1/uploads?limit=1").json["next"]
    assert foreign
    for cursor in ("x", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "%00", foreign):
        response = sqlite_api.me.get(f"/v1/jobs?cursor={cursor}")
        assert response.json["code"] in ("invalid_cursor", "invalid_request"), cursor
        assert response.status_code in (400, 422)


# --- Doing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
def test_cancel(api: Api, state: State) -> None:
    job = api.succeeded(api.me) if state is State.SUCCEEDED else jobs.brought(api.database, api.me.key.id, state)
    response = api.me.post(f"/v1/jobs/{job.id}/cancel")
    if state in (State.WAITING, State.QUEUED, State.CANCELLED):
        assert (response.status_code, response.json["state"]) == (200, "cancelled")
    elif state is State.RUNNING:
        assert (response.status_code, response.json["state"]) == (202, "running")
        assert response.json["cancel_requested"]
    else:
        assert (response.status_code, response.json["code"], response.json["state"]) == (409, "state_conflict", state)


@pytest.mark.parametrize("state", list(State))
def test_retry(api: Api, state: State) -> None:
    job = api.succeeded(api.me) if state is State.SUCCEEDED else jobs.brought(api.database, api.me.key.id, state)
    response = api.me.post(f"/v1/jobs/{job.id}/retry")
    if state in (State.FAILED, State.CANCELLED, State.EXPIRED):
        assert response.status_code == 202 and response.json["id"] == job.id
        assert api.ringer.rung == [job.id]
        assert api.me.get(f"/v1/jobs/{job.id}").json["state"] == "queued"
    else:
        assert (response.status_code, response.json["code"]) == (409, "state_conflict")


@pytest.mark.parametrize("state", list(State))
def test_delete(api: Api, state: State) -> None:
    job = api.succeeded(api.me) if state is State.SUCCEEDED else jobs.brought(api.database, api.me.key.id, state)
    response = api.me.delete(f"/v1/jobs/{job.id}")
    if job.terminal:
        assert response.status_code == 204
        assert api.me.get(f"/v1/jobs/{job.id}").status_code == 404
    else:
        assert (response.status_code, response.json["code"]) == (409, "state_conflict")
        assert api.me.get(f"/v1/jobs/{job.id}").status_code == 200


def test_cancelling_lets_the_next_one_in(sqlite_api: Api) -> None:
    ids = [sqlite_api.me.submit().json["id"] for _ in range(3)]
    assert sqlite_api.ringer.rung == ids[:2]
    sqlite_api.me.post(f"/v1/jobs/{ids[0]}/cancel")
    assert sqlite_api.ringer.rung == ids


def test_a_quota_is_kept(api: Api) -> None:
    with api.database.write() as tx:
        key, token = keys.create(tx, "small", ["read", "write"], max_waiting=2)
    small = api.stranger(token)
    assert [small.submit().status_code for _ in range(3)] == [202, 202, 429]
    refused = small.submit()
    assert refused.json["code"] == "quota_exceeded" and refused.headers["Retry-After"]
    assert key.max_waiting == 2
