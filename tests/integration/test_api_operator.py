"""Keys, workers, engines, queues, callbacks, health and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update
from standardwebhooks import Webhook

from api import create_app
from common.db import processes
from common.db.engine import Database
from common.db.keys import Scope
from common.db.tables import processes as process_rows
from common.jobs import callbacks
from common.outbound.webhooks import sign
from common.settings import Settings
from common.states import State
from tests import jobs
from tests.api import Api, Caller, RecordingRinger, api, sqlite_api

__all__ = ["api", "sqlite_api"]


@pytest.fixture
def admin(api: Api) -> Caller:
    return api.caller("admin", Scope.ADMIN)


# --- Keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_used_and_revoked(api: Api, admin: Caller) -> None:
    made = admin.post("/v1/keys", json={"name": " the network ", "scopes": ["read"], "weight": 2.5, "max_waiting": 7})
    assert made.status_code == 201 and made.json["token"].startswith("ns_")
    holder = api.stranger(made.json["token"])
    me = holder.get("/v1/keys/me").json
    assert (me["name"], me["scopes"], me["weight"], me["max_waiting"]) == ("the network", ["read"], 2.5, 7)
    assert admin.delete(f"/v1/keys/{me['id']}").json["revoked_at"]
    assert holder.get("/v1/keys/me").status_code == 401
    listed = admin.get("/v1/keys").json["items"]
    assert {key["name"] for key in listed} == {"me", "admin", "the network"}
    assert all("token" not in key and "hash" not in key for key in listed)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": ""}, {"name": "  "}, {"name": "x" * 201}, {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["root"]},
        {"name": "a", "weight": 0}, {"name": "a", "weight": -1}, {"name": "a", "max_waiting": 0}, {"name": "a\0"},
        {"name": "a", "max_waiting": 2**31}, {"name": "a", "weight": 10**400}, {"name": "a", "id": "key_mine"}, [], "a",
    ],
)  # fmt: skip
def test_a_key_that_makes_no_sense_is_refused(sqlite_api: Api, body: Any) -> None:
    response = sqlite_api.caller("admin", Scope.ADMIN).post("/v1/keys", json=body)
    assert response.status_code in (400, 422)
    assert response.json["code"] in ("invalid_request", "malformed_json")


# --- Workers, engines, queues ----------------------------------------------------------------------------------------


def register(api: Api, name: str, info: dict[str, Any], *, gone: bool = False) -> None:
    with api.database.write() as tx:
        processes.register(tx, name, "worker", lanes=["cpu"], info=info)
        if gone:
            tx.execute(update(process_rows).where(process_rows.c.name == name).values(seen_at=tx.now(-3600.0)))


def test_an_engine_is_ready_where_a_live_worker_says_so(api: Api) -> None:
    def engine() -> dict[str, Any]:
        one = api.me.get("/v1/engines/rnnoise").json
        assert one in api.me.get("/v1/engines").json["items"]
        return one

    assert not engine()["ready"] and "python -m worker --cpu" in engine()["hint"]
    register(api, "old@host", {"engines": {"rnnoise": {"ready": True}}}, gone=True)
    assert not engine()["ready"], "a worker that is gone makes nothing ready"
    lacking = {"ready": False, "missing": "the package pyrnnoise is not installed", "hint": "pip install pyrnnoise"}
    register(api, "a@host", {"engines": {"rnnoise": lacking}})
    assert (engine()["missing"], engine()["hint"]) == (lacking["missing"], lacking["hint"])
    register(api, "b@host", {"engines": {"rnnoise": {"ready": True}}})
    assert engine()["ready"] and engine()["missing"] is None
    assert engine()["default"] and "speech" in engine()["vocabulary"]


def test_an_engine_that_is_none(sqlite_api: Api) -> None:
    response = sqlite_api.me.get("/v1/engines/nothing")
    assert response.status_code == 404 and "rnnoise" in response.json["hint"]


def test_workers_are_told_what_to_do(api: Api, admin: Caller) -> None:
    register(api, "cpu0@host", {"device": "cpu", "engines": {"rnnoise": {"ready": True}}})
    for order, control in (("pause", "pause"), ("resume", "run"), ("drain", "drain")):
        assert admin.post(f"/v1/workers/cpu0@host/{order}").json["control"] == control
        with api.database.write() as tx:
            assert processes.seen(tx, "cpu0@host") == control
    assert admin.post("/v1/workers/nobody/pause").status_code == 404
    seen = admin.get("/v1/workers").json["items"][0]
    assert (seen["device"], seen["lanes"], seen["alive"]) == ("cpu", ["cpu"], True)


def test_a_worker_tells_an_admin_what_it_runs(api: Api, admin: Caller) -> None:
    register(api, "w1", {})
    job = jobs.claimed(api.database, jobs.submitted(api.database, api.me.key.id).id)
    assert admin.get("/v1/workers").json["items"][0]["jobs"] == [job.id]


def test_depth_is_ones_own_or_for_an_admin_all(api: Api, admin: Caller) -> None:
    for state in (State.WAITING, State.QUEUED, State.RUNNING, State.FAILED):
        jobs.brought(api.database, api.me.key.id, state)
    jobs.brought(api.database, api.caller("other").key.id, State.WAITING)

    def cpu(caller: Caller) -> tuple[str, int, int, int]:
        depth = caller.get("/v1/queues").json
        lane = next(lane for lane in depth["lanes"] if lane["lane"] == "cpu")
        return depth["whose"], lane["waiting"], lane["queued"], lane["running"]

    assert cpu(api.me) == ("own", 1, 1, 1)
    assert cpu(admin) == ("all", 2, 1, 1)


# --- Callbacks -------------------------------------------------------------------------------------------------------


def test_the_log_of_callbacks(api: Api) -> None:
    job = jobs.brought(api.database, api.me.key.id, State.FAILED)
    with api.database.write() as tx:
        due = callbacks.due(tx, 10, 60.0)
    with api.database.write() as tx:
        callbacks.record(
            tx, due[0], status=500, error=None, duration_ms=12, response="oh", next_in=30.0, gone=False,
            disable_after_seconds=1e6,
        )  # fmt: skip
    (seen,) = api.me.get(f"/v1/callbacks?job={job.id}").json["items"]
    assert (seen["event"], seen["job"], seen["state"], seen["url"]) == ("job.failed", job.id, "pending", jobs.RECEIVER)
    assert [(one["status"], one["duration_ms"], one["response"]) for one in seen["tries"]] == [(500, 12, "oh")]
    assert api.me.get(f"/v1/callbacks/{seen['id']}").json == seen
    assert api.me.get("/v1/callbacks?state=delivered").json["items"] == []


def test_a_callback_is_sent_again(api: Api) -> None:
    jobs.brought(api.database, api.me.key.id, State.FAILED)
    with api.database.write() as tx:
        (sent,) = callbacks.due(tx, 10, 60.0)
    with api.database.write() as tx:
        callbacks.record(
            tx, sent, status=200, error=None, duration_ms=1, response="", next_in=None, gone=False,
            disable_after_seconds=1e6,
        )  # fmt: skip
    assert api.me.get(f"/v1/callbacks/{sent.id}").json["state"] == "delivered"
    replayed = api.me.post(f"/v1/callbacks/{sent.id}/replay")
    assert (replayed.status_code, replayed.json["state"], replayed.json["id"]) == (202, "pending", sent.id)
    with api.database.write() as tx:
        assert [again.body for again in callbacks.due(tx, 10, 60.0)] == [sent.body]


def test_a_test_goes_through_the_outbox(api: Api) -> None:
    response = api.me.post("/v1/callbacks/test", json={"url": "https://receiver.example/hook"})
    assert (response.status_code, response.json["event"], response.json["state"]) == (202, "test", "pending")
    assert api.me.get(response.headers["Location"]).json == response.json
    with api.database.write() as tx:
        (due,) = callbacks.due(tx, 10, 60.0)
    assert json.loads(due.body)["type"] == "test"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://10.1.2.3/", "http://localhost:8080/", "https://a@b.example/"]
)
def test_a_test_goes_to_public_addresses_alone(sqlite_api: Api, url: str) -> None:
    response = sqlite_api.me.post("/v1/callbacks/test", json={"url": url})
    assert (response.status_code, response.json["code"], response.json["pointer"]) == (422, "url_forbidden", "/url")


def test_secrets_verify_and_rotate(api: Api) -> None:
    (old,) = api.me.get("/v1/callbacks/secret").json["secrets"]
    new, kept = api.me.post("/v1/callbacks/secret/rotate", json={"overlap_seconds": 60}).json["secrets"]
    assert kept == old != new
    signing_key = api.app.extensions["nightshift"].signing_key
    with api.database.read() as tx:
        headers = sign(callbacks.secrets(tx, signing_key, api.me.key.id), "msg_1", tx.instant(), b"{}")
    for secret in (old, new):
        Webhook(secret).verify("{}", headers)
    (only,) = api.me.post("/v1/callbacks/secret/rotate", json={"overlap_seconds": 0}).json["secrets"]
    assert only not in (old, new)
    assert api.caller("other").get("/v1/callbacks/secret").json["secrets"] != [only]


# --- Health and figures ----------------------------------------------------------------------------------------------


def test_health_touches_nothing(tmp_path: Path) -> None:
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    app = app_of(tmp_path, away)
    assert app.test_client().get("/healthz").json == {"status": "ok"}
    ready = app.test_client().get("/readyz")
    assert ready.status_code == 503
    assert not ready.json["checks"]["database"]["ok"] and ready.json["checks"]["storage"]["ok"]
    assert "127.0.0.1" not in ready.text, "a stranger learns no addresses"


def app_of(home: Path, database: Database) -> Flask:
    return create_app(Settings(home=home), database=database, ringer=RecordingRinger())


def test_a_database_that_is_away_is_said_to_be_so(tmp_path: Path) -> None:
    app = app_of(tmp_path, Database("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    response = app.test_client().get("/v1/jobs", headers={"Authorization": "Bearer ns_x"})
    assert (response.status_code, response.json["code"]) == (503, "unavailable")
    assert response.json["retryable"] and response.headers["Retry-After"]
    assert "psycopg" not in response.text and "127.0.0.1" not in response.text


def test_ready(api: Api) -> None:
    response = api.stranger().get("/readyz")
    assert response.status_code == 200
    assert {name: check["ok"] for name, check in response.json["checks"].items()} == {"database": True, "storage": True}


def test_an_old_schema_is_not_ready(tmp_path: Path, sqlite_database: Database) -> None:
    with sqlite_database.write() as tx:
        tx.execute(text("DELETE FROM alembic_version"))
    response = Api(Settings(home=tmp_path), sqlite_database).stranger().get("/readyz")
    assert response.status_code == 503 and "--migrate" in response.json["checks"]["database"]["hint"]


def test_storage_that_cannot_be_written_is_not_ready(tmp_path: Path, sqlite_database: Database) -> None:
    home = tmp_path / "home"
    api = Api(Settings(home=home), sqlite_database)
    (home / "files").write_text("a file where the folder should be")
    response = api.stranger().get("/readyz")
    assert response.status_code == 503 and not response.json["checks"]["storage"]["ok"]


def figures(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures(api: Api) -> None:
    register(api, "w", {})
    for state in (State.WAITING, State.QUEUED, State.QUEUED):
        jobs.brought(api.database, api.me.key.id, state)
    for _ in range(3):
        api.me.get("/v1/jobs/job_x")
    seen = figures(api.stranger().get("/metrics").text)
    assert seen["nightshift_jobs", "cpu", "waiting"] == 1 and seen["nightshift_jobs", "cpu", "queued"] == 2
    assert seen["nightshift_jobs", "gpu", "running"] == 0
    assert seen["nightshift_workers", "run", "cpu"] == 1
    assert seen["nightshift_oldest_job_seconds", "cpu"] >= 0
    assert seen["nightshift_http_request_seconds_count", "GET", "/v1/jobs/<job_id>", "404"] == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "nightshift.internal"])
def test_figures_need_an_admin_where_others_can_reach_them(
    tmp_path: Path, sqlite_database: Database, host: str
) -> None:
    api = Api(Settings(home=tmp_path, host=host), sqlite_database)
    assert api.stranger().get("/metrics").status_code == 401
    assert api.me.get("/metrics").status_code == 403
    assert api.caller("prometheus", Scope.ADMIN).get("/metrics").status_code == 200
