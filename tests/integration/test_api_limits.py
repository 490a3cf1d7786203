"""Quotas and the end of what is kept, as callers see them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from common.db import keys, usage
from common.db.keys import Scope
from common.db.tables import batches as batch_rows
from common.db.tables import jobs as job_rows
from common.jobs import queueing
from tests import jobs
from tests.api import AUDIO, Api, Caller, api, sqlite_api
from tests.jobs import LEASE
from worker.scheduler import Scheduler

__all__ = ["api", "sqlite_api"]

BATCH = {"engine": "rnnoise", "params": {"prompts": ["speech"]}, "items": [{"input": "https://media.example/1.mp3"}]}


def _limited(api: Api, **limits: Any) -> Caller:
    caller = api.caller("limited")
    with api.database.write() as tx:
        assert keys.change(tx, caller.key.id, limits) is not None
    return caller


def _hear(api: Api, caller: Caller, hours: float) -> None:
    with api.database.write() as tx:
        usage.add(tx, caller.key.id, audio_seconds=3600 * hours)


def _scheduler(api: Api) -> Scheduler:
    return Scheduler(api.settings, api.database, api.store, api.ringer)  # type: ignore[arg-type]


def test_a_key_is_changed_and_sees_what_it_uses(api: Api) -> None:
    admin, me = api.caller("admin", Scope.ADMIN), api.me
    path = f"/v1/keys/{me.key.id}"
    changed = admin.patch(path, json={"max_audio_hours_per_day": 1.5, "max_bytes": 10**9, "weight": 3})
    assert (changed.json["max_audio_hours_per_day"], changed.json["max_bytes"], changed.json["weight"]) == (
        1.5, 10**9, 3,
    )  # fmt: skip
    me.upload()
    me.submit()
    _hear(api, me, 2.0)
    seen = me.get("/v1/keys/me").json["usage"]
    until = datetime.fromisoformat(seen.pop("held_until"))
    assert until.time().isoformat() == "00:00:00" and until > datetime.now(until.tzinfo)
    assert seen == {
        "unfinished": 1, "max_waiting": 100_000, "audio_hours_today": 2.0, "max_audio_hours_per_day": 1.5,
        "bytes_stored": len(AUDIO), "max_bytes": 10**9,
    }  # fmt: skip
    assert admin.patch(path, json={"max_audio_hours_per_day": None}).json["max_bytes"] == 10**9
    assert me.get("/v1/keys/me").json["usage"]["held_until"] is None
    assert me.patch(path, json={"max_bytes": None}).status_code == 403
    assert admin.patch("/v1/keys/key_none", json={"weight": 1}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [{}, {"max_bytes": -1}, {"max_bytes": 1.5}, {"max_audio_hours_per_day": -1}, {"weight": None}, {"name": "x"}],
)
def test_a_change_that_makes_no_sense_is_refused(sqlite_api: Api, body: dict[str, Any]) -> None:
    admin = sqlite_api.caller("admin", Scope.ADMIN)
    assert admin.patch(f"/v1/keys/{admin.key.id}", json=body).json["code"] == "invalid_request"


def test_beyond_its_bytes_a_key_sends_and_starts_nothing(api: Api) -> None:
    caller = _limited(api, max_bytes=2 * len(AUDIO))
    first = caller.upload()
    made = caller.post("/v1/batches", json=BATCH, headers={"Idempotency-Key": "one"})
    second = caller.post("/v1/uploads", json={"size": len(AUDIO)})
    assert (made.status_code, second.status_code) == (202, 201)
    answers = [
        caller.post("/v1/uploads", json={"size": 1}),
        caller.post("/v1/uploads", data=AUDIO, content_type="audio/wav"),
        caller.submit(input={"upload": first}),
        caller.post("/v1/batches", json=BATCH),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json["code"], answer.json["quota"]) == (429, "quota_exceeded", "bytes")
        assert not answer.json["retryable"] and "Retry-After" not in answer.headers
        assert answer.json["used"] == answer.json["limit"] == 2 * len(AUDIO)
    again = caller.post("/v1/batches", json=BATCH, headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.json["id"]) == (202, made.json["id"]), "what was accepted stays so"
    assert [batch["id"] for batch in caller.get("/v1/batches").json["items"]] == [made.json["id"]]
    assert {info.key.split("/")[1] for info in api.store.list("batches/")} == {made.json["id"]}
    caller.delete(f"/v1/uploads/{second.json['id']}")
    assert caller.submit(input={"upload": first}).status_code == 202


def test_an_upload_that_fails_takes_no_room(sqlite_api: Api) -> None:
    caller = _limited(sqlite_api, max_bytes=1000)
    wrong = {"X-Content-SHA256": "0" * 64}
    assert caller.post("/v1/uploads", data=AUDIO, content_type="audio/wav", headers=wrong).status_code == 422
    assert caller.get("/v1/keys/me").json["usage"]["bytes_stored"] == 0


def test_beyond_its_hours_a_key_waits_and_says_until_when(api: Api) -> None:
    caller = _limited(api, max_audio_hours_per_day=1.0)
    _hear(api, caller, 1.0)
    batch = caller.post("/v1/batches", json=BATCH).json
    with api.database.write() as tx:
        queueing.fill(tx, "cpu", 5, LEASE)
    seen = caller.get(f"/v1/batches/{batch['id']}").json
    assert seen["counts"]["waiting"] == 1 and seen["held_until"].endswith("T00:00:00Z")
    assert caller.get("/v1/batches").json["items"][0]["held_until"] == seen["held_until"]
    (item,) = caller.get(f"/v1/batches/{batch['id']}/items").json["items"]
    assert caller.get(f"/v1/jobs/{item['id']}").json["queue"]["held_until"] == seen["held_until"]
    refused = caller.submit()
    assert (refused.status_code, refused.json["quota"]) == (429, "audio_hours")
    assert int(refused.headers["Retry-After"]) == refused.json["retry_after"]
    assert refused.json["until"] == seen["held_until"]
    waits = caller.submit(priority="batch")
    assert (waits.status_code, waits.json["queue"]["held_until"]) == (202, seen["held_until"])
    with api.database.write() as tx:
        keys.change(tx, caller.key.id, {"max_audio_hours_per_day": 2.0})
    assert caller.get(f"/v1/batches/{batch['id']}").json["held_until"] is None


def test_what_ended_says_when_it_goes_and_its_owner_is_warned(api: Api) -> None:
    me, scheduler = api.me, _scheduler(api)
    job = api.succeeded(me)
    waiting = me.submit().json
    batch = me.post("/v1/batches", json={**BATCH, "callback": {"url": jobs.RECEIVER}}).json
    assert waiting["expires_at"] is waiting["warned_at"] is batch["expires_at"] is None
    me.post(f"/v1/batches/{batch['id']}/cancel")
    seen = me.get(f"/v1/jobs/{job.id}").json
    ended = datetime.fromisoformat(seen["finished_at"])
    assert datetime.fromisoformat(seen["expires_at"]) == ended + timedelta(days=30) and seen["warned_at"] is None
    upload = me.get(f"/v1/uploads/{me.upload()}").json
    kept = datetime.fromisoformat(upload["expires_at"]) - datetime.fromisoformat(upload["created_at"])
    assert kept == timedelta(days=30)
    with api.database.write() as tx:
        for table in (job_rows, batch_rows):
            tx.execute(update(table).where(table.c.finished_at.is_not(None)).values(finished_at=tx.now(-28 * 86400.0)))
    assert scheduler.warn_of_deletion() == 2 and scheduler.warn_of_deletion() == 0
    told = {one["event"]: one for one in me.get("/v1/callbacks").json["items"]}
    assert told["job.expiring"]["job"] == job.id and "batch.expiring" in told
    for path in (f"/v1/jobs/{job.id}", f"/v1/batches/{batch['id']}"):
        seen = me.get(path).json
        left = datetime.fromisoformat(seen["expires_at"]) - datetime.fromisoformat(seen["warned_at"])
        assert left == timedelta(days=3), "told late, it stays longer"
    log = me.get(f"/v1/jobs/{job.id}/events", headers={"Accept": "application/json"}).json["items"]
    (line,) = [event for event in log if event["type"] == "log"]
    assert line["data"]["code"] == "expiring"
    scheduler.prune()
    assert me.get(f"/v1/jobs/{job.id}").status_code == 200
    with api.database.write() as tx:
        for table in (job_rows, batch_rows):
            tx.execute(
                update(table)
                .where(table.c.expiry_told_at.is_not(None))
                .values(expiry_told_at=tx.now(-4 * 86400.0), finished_at=tx.now(-31 * 86400.0))
            )
    scheduler.prune()
    assert me.get(f"/v1/jobs/{job.id}").status_code == me.get(f"/v1/batches/{batch['id']}").status_code == 404
    assert me.get(f"/v1/jobs/{waiting['id']}").status_code == 200
