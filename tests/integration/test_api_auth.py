"""Who may do what, and that nobody learns anything of what belongs to somebody else."""

from __future__ import annotations

from typing import Any

import pytest

from common.db import keys, processes
from common.db.keys import Scope
from common.states import State
from tests import jobs
from tests.api import VOICE, Api, Caller, api, sqlite_api

__all__ = ["api", "sqlite_api"]

SCHEDULE = {
    "name": "nightly",
    "cron": "0 21 * * *",
    "timezone": "UTC",
    "batch": {"preset": "podcast-voice", "rss": {"url": "https://media.example/feed"}},
}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/jobs"): {"input": {"url": "https://media.example/a.wav"}, "params": {"prompts": ["speech"]}},
    ("POST", "/v1/uploads"): {"size": 5},
    ("POST", "/v1/keys"): {"name": "another"},
    ("POST", "/v1/voices"): VOICE,
    ("PATCH", "/v1/voices/{voice_id}"): {"name": "Eve", "transcript": "Other words."},
    ("POST", "/v1/jobs/bulk"): {"action": "cancel", "filter": {"batch": "none"}},
    ("POST", "/v1/batches"): {"preset": "podcast-voice", "items": [{"input": "https://media.example/a.wav"}]},
    ("PATCH", "/v1/batches/{batch_id}"): {"weight": 2.0},
    ("PUT", "/v1/presets/{name}"): {"params": {"seed": 1}},
    ("POST", "/v1/schedules"): SCHEDULE,
    ("PUT", "/v1/schedules/{schedule_id}"): SCHEDULE,
    ("POST", "/v1/callbacks/test"): {"url": "https://receiver.example/"},
    ("POST", "/v1/callbacks/secret/rotate"): {},
}


def guarded(api: Api) -> list[tuple[str, str, Scope]]:
    """Every operation that needs a key, with the scope it needs."""
    found = []
    for path, methods in api.contract.document["paths"].items():
        for method, operation in methods.items():
            if operation["security"]:
                scope = operation["description"].rsplit("`", 2)[1]
                found.append((method.upper(), path, Scope(scope)))
    return found


def filled(path: str, value: str = "something") -> str:
    return path.split("{")[0] + (value + path.split("}")[1] if "{" in path else "")


def test_without_a_key_nothing_is_told(sqlite_api: Api) -> None:
    assert len(guarded(sqlite_api)) > 25
    for token in (None, "", "ns_wrong", "x" * 4000):
        nobody = sqlite_api.stranger(token)
        for method, path, _ in guarded(sqlite_api):
            response = nobody.request(method, filled(path), json=BODIES.get((method, path)))
            assert response.status_code == 401, (method, path)
            assert response.json["code"] == "unauthenticated"
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Basic bmU6bm8=", "Bearer", "ns_token", "Bearer ns_a ns_b", "Bearer \xe9\xff"])
def test_other_authorizations_are_none(sqlite_api: Api, header: str) -> None:
    response = sqlite_api.stranger().get("/v1/jobs", headers={"Authorization": header})
    assert response.status_code == 401


def test_every_operation_asks_for_its_scope(sqlite_api: Api) -> None:
    holders = {scope: sqlite_api.caller(scope, scope) for scope in (Scope.READ, Scope.WRITE)}
    for method, path, needed in guarded(sqlite_api):
        for scope, holder in holders.items():
            response = holder.request(method, filled(path), json=BODIES.get((method, path)))
            if scope is needed:
                assert response.status_code not in (401, 403), (method, path, scope)
            else:
                assert response.status_code == 403, (method, path, scope)
                assert response.json["code"] == "forbidden"


def test_an_admin_may_do_everything(sqlite_api: Api) -> None:
    admin = sqlite_api.caller("admin", Scope.ADMIN)
    for method, path, _ in guarded(sqlite_api):
        response = admin.request(method, filled(path), json=BODIES.get((method, path)))
        assert response.status_code not in (401, 403), (method, path)


def test_a_revoked_key_is_refused_as_an_unknown_one(api: Api) -> None:
    response = api.me.get("/v1/jobs")
    assert response.status_code == 200
    with api.database.write() as tx:
        keys.revoke(tx, api.me.key.id)
    revoked, unknown = api.me.get("/v1/jobs"), api.stranger("ns_unknown").get("/v1/jobs")
    assert revoked.status_code == unknown.status_code == 401
    assert without_id(revoked.json) == without_id(unknown.json)


def test_using_a_key_is_noted(api: Api) -> None:
    assert api.me.key.used_at is None
    api.me.get("/v1/jobs")
    assert api.me.get("/v1/keys/me").json["used_at"] is not None


def belongings(api: Api, owner: Caller) -> dict[str, list[str]]:
    """Ids of all that a key can own, in every state, by the name of the path's parameter."""
    owned = [jobs.brought(api.database, owner.key.id, state).id for state in State if state is not State.SUCCEEDED]
    owned.append(api.succeeded(owner).id)
    callbacks = [item["id"] for item in owner.get("/v1/callbacks").json["items"]]
    announced = owner.post("/v1/uploads", json={"size": 5}).json["id"]
    batches = [owner.post("/v1/batches", json=BODIES["POST", "/v1/batches"]).json["id"] for _ in range(2)]
    return {
        "job_id": owned,
        "callback_id": callbacks,
        "batch_id": batches,
        "schedule_id": [owner.post("/v1/schedules", json=SCHEDULE).json["id"] for _ in range(2)],
        "upload_id": [owner.upload(), announced],
        "voice_id": [api.voice(owner), api.voice(owner, None, exact=False)],
    }


def test_others_belongings_look_as_if_they_were_not_there(api: Api) -> None:
    """Walks every route with ids of somebody else's, and compares with ids that nobody has."""
    owned = belongings(api, api.me)
    other = api.caller("other")
    assert owned["callback_id"]
    before = {path: api.me.get(path).json for path in ("/v1/jobs", "/v1/uploads", "/v1/callbacks", "/v1/queues")}
    walked = set()
    for method, path, scope in guarded(api):
        name = path.split("{")[1].split("}")[0] if "{" in path else None
        if name not in owned or scope is Scope.ADMIN:
            continue
        body = BODIES.get((method, path))
        for thing in owned[name]:
            unknown = f"{thing[:-4]}ZZZZ"
            theirs = other.request(method, filled(path, thing), json=body)
            nobodys = other.request(method, filled(path, unknown), json=body)
            assert theirs.status_code == nobodys.status_code == 404, (method, path)
            assert without_id(theirs.json) == without_id(nobodys.json), (method, path)
            assert {k for k, _ in theirs.headers} == {k for k, _ in nobodys.headers}, (method, path)
            walked.add((method, path))
    assert {path for _, path in walked} == {
        path for _, path, _ in guarded(api) if any(f"{{{name}}}" in path for name in owned)
    }
    assert before == {path: api.me.get(path).json for path in before}, "the walk changed something"


def test_lists_show_only_what_is_ones_own(api: Api) -> None:
    owned = belongings(api, api.me)
    other = api.caller("other")
    for path in ("/v1/jobs", "/v1/batches", "/v1/schedules", "/v1/uploads", "/v1/voices", "/v1/callbacks"):
        assert other.get(path).json == {"items": [], "next": None}
        assert other.get(f"{path}?cursor=" + (api.me.get(f"{path}?limit=1").json["next"] or "")).json["items"] == []
    assert all(
        not sum(lane[s] for s in ("waiting", "queued", "running")) for lane in other.get("/v1/queues").json["lanes"]
    )
    assert other.get(f"/v1/callbacks?job={owned['job_id'][0]}").json["items"] == []


def test_others_belongings_cannot_be_worked_on(api: Api) -> None:
    owned = belongings(api, api.me)
    other = api.caller("other")
    done = api.succeeded(api.me).id
    for theirs, nobodys in (
        ({"upload": owned["upload_id"][0]}, {"upload": "upl_nobody"}),
        ({"upload": owned["upload_id"][1]}, {"upload": "upl_nobody"}),
        ({"job": done, "output": "speech"}, {"job": "job_nobody", "output": "speech"}),
        ({"job": owned["job_id"][0], "output": "speech"}, {"job": "job_nobody", "output": "speech"}),
    ):
        answers = [other.submit(input=given) for given in (theirs, nobodys)]
        assert [answer.status_code for answer in answers] == [422, 422]
        shapes = [{**without_id(a.json), "detail": a.json["detail"].replace(g.get("job", "-"), "X")}
                  for a, g in zip(answers, (theirs, nobodys), strict=True)]  # fmt: skip
        assert shapes[0] == shapes[1]


def test_an_idempotency_key_of_somebody_else_is_free(api: Api) -> None:
    mine = api.me.submit(headers={"Idempotency-Key": "night-1"}).json["id"]
    theirs = api.caller("other").submit(headers={"Idempotency-Key": "night-1"})
    assert theirs.status_code == 202 and theirs.json["id"] != mine
    assert "Idempotency-Replayed" not in theirs.headers


def test_only_an_admin_sees_workers_whole(api: Api) -> None:
    with api.database.write() as tx:
        processes.register(tx, "cpu0@host", "worker", lanes=["cpu"], info={"device": "cpu", "engines": {}})
    seen = api.me.get("/v1/workers").json["items"]
    assert [(w["name"], w["alive"], w["host"], w["pid"], w["jobs"]) for w in seen] == [
        ("cpu0@host", True, None, None, None)
    ]
    assert api.caller("admin", Scope.ADMIN).get("/v1/workers").json["items"][0]["pid"] is not None


def without_id(problem: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in problem.items() if name != "request_id"}
