"""Batches through the API, on both databases: from items, manifests and feeds to results."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.batches.intake import Intake
from common.db.engine import Database
from common.jobs import batch_query, claiming, finish, queueing, transfers
from common.jobs import batches as batch_verbs
from common.params.batch import BatchRequest
from common.settings import Settings
from common.storage import open_store
from tests.api import Api, Caller, sqlite_api
from tests.jobs import ERROR, LEASE, RECEIVER, result
from tests.servers.receiver import Answer, Receiver
from worker.scheduler import Scheduler

__all__ = ["sqlite_api"]

LINES = "application/x-ndjson"
WORK = {"engine": "rnnoise", "params": {"prompts": ["speech"]}}


@pytest.fixture
def api(tmp_path: Path, database: Database) -> Api:
    settings = Settings(home=tmp_path / "home", allow_private_hosts=("127.0.0.1",), s3_output_buckets=("mine",))
    return Api(settings, database)


def _items(count: int) -> list[dict[str, Any]]:
    return [{"input": f"https://media.example/{n}.mp3", "title": f"Episode {n}"} for n in range(1, count + 1)]


def _start(caller: Caller, **members: Any) -> dict[str, Any]:
    response = caller.post("/v1/batches", json={**WORK, **members})
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json
    return found


def _lines(caller: Caller, path: str) -> list[dict[str, Any]]:
    response = caller.get(path)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def _work(api: Api, *, fail: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Runs what may run, as one worker does; items in `fail` fail. Returns how many it was."""
    done = 0
    while True:
        with api.database.write() as tx:
            queueing.fill(tx, "cpu", 2, LEASE)
            job = claiming.claim(tx, "w1", ["cpu"], LEASE)
            if job is None:
                return done
            if job.batch_item in fail:
                finish.fail(tx, job.lease, ERROR)
            else:
                outputs = [
                    {"name": name, "role": "stem", "filename": f"{name}.flac", "content_type": "audio/flac", "bytes": 5,
                     "sha256": "0" * 64, "key": f"jobs/{job.id}/1/{name}.flac"}
                    for name in ("speech", "residual")
                ]  # fmt: skip
                finish.succeed(tx, job.lease, {**result(), "outputs": outputs})
        done += 1


def test_from_items_to_results(api: Api) -> None:
    batch = _start(api.me, name="archive", items=_items(5), naming="{title}.{stem}.{ext}", callback={"url": RECEIVER})
    assert (batch["state"], batch["counts"]["total"], batch["open"]) == ("active", 5, True)
    assert api.ringer.rung, "what may start is released at once"
    page = api.me.get(f"/v1/batches/{batch['id']}/items?limit=3").json
    assert [(job["item"], job["batch"], job["batch_id"]) for job in page["items"]] == [
        (n, "archive", batch["id"]) for n in (1, 2, 3)
    ]
    rest = api.me.get(f"/v1/batches/{batch['id']}/items?cursor={page['next']}").json
    assert [job["item"] for job in rest["items"]] == [4, 5]
    assert _work(api, fail={2}) == 5
    ended = api.me.get(f"/v1/batches/{batch['id']}").json
    assert (ended["state"], ended["percent"], ended["counts"]["failed"]) == ("finished", 100.0, 1)
    output = _lines(api.me, f"/v1/batches/{batch['id']}/output.jsonl")
    assert [line["item"] for line in output] == [1, 3, 4, 5]
    assert [one["path"] for one in output[0]["outputs"]] == ["Episode-1.speech.flac", "Episode-1.residual.flac"]
    assert all(one["url"].startswith("http") for line in output for one in line["outputs"])
    (wrong,) = _lines(api.me, f"/v1/batches/{batch['id']}/errors.jsonl")
    assert (wrong["item"], wrong["state"], wrong["error"]["code"]) == (2, "failed", "engine_failed")
    assert [message["event"] for message in api.me.get("/v1/callbacks").json["items"]] == ["batch.finished_with_errors"]
    again = api.me.post(f"/v1/batches/{batch['id']}/retry-failed")
    assert (again.status_code, again.json["again"], again.json["batch"]["state"]) == (202, 1, "active")
    _work(api)
    assert api.me.get(f"/v1/batches/{batch['id']}").json["counts"]["succeeded"] == 5


def test_names_of_results_never_meet(api: Api) -> None:
    items = [{"input": "https://media.example/a.mp3", "title": title} for title in ("Pilot", "pilot!", "Other")]
    batch = _start(api.me, items=items, naming="{title}.{stem}.{ext}")
    _work(api)
    paths = [
        one["path"].casefold()
        for line in _lines(api.me, f"/v1/batches/{batch['id']}/output.jsonl")
        for one in line["outputs"]
    ]
    assert len(set(paths)) == 6
    assert "other.speech.flac" in paths


def test_a_manifest_as_the_body_with_wrong_lines(api: Api) -> None:
    lines = [
        '{"input": "https://media.example/1.mp3", "metadata": {"a": "b"}}',
        "{no json",
        '{"input": "https://media.example/3.mp3", "params": {"quality": "best"}}',
        "",
        '{"input": {"url": "https://10.0.0.1/4.mp3"}}',
        '{"input": "https://media.example/6.mp3", "params": {"prompts": ["drums"]}}',
        '{"input": "https://media.example/7.mp3", "colour": "red"}',
        '{"input": {"upload": "upl_none"}}',
    ]
    body = "\n".join(lines)
    address = "/v1/batches?preset=podcast-voice&name=lines"
    response = api.me.post(address, data=body, content_type=LINES)
    assert response.status_code == 202, response.text
    batch = response.json
    assert (batch["preset"], batch["counts"]["total"], batch["counts"]["rejected"]) == ("podcast-voice@1", 1, 6)
    wrong = _lines(api.me, f"/v1/batches/{batch['id']}/errors.jsonl")
    assert [(line["item"], line["error"]["code"], line["error"].get("pointer")) for line in wrong] == [
        (2, "invalid_manifest", ""),
        (3, "invalid_request", "/params/quality"),
        (5, "url_forbidden", "/input/url"),
        (6, "engine_unsupported", "/params/prompts/0/description"),
        (7, "invalid_manifest", "/colour"),
        (8, "input_missing", "/input/upload"),
    ]
    (job,) = api.me.get(f"/v1/batches/{batch['id']}/items").json["items"]
    assert (job["preset"], job["params"]["outputs"], job["metadata"]) == ("podcast-voice@1", ["target"], {"a": "b"})
    refused = api.me.post(f"{address}&on_error=stop", data=body, content_type=LINES).json
    assert (refused["state"], refused["counts"]["total"], refused["error"]["code"]) == ("failed", 0, "invalid_manifest")
    assert refused["error"]["message"].startswith("Line 2: ") and refused["error"]["message"].count("Line 2") == 1
    broken = (
        b'{"input": "https://media.example/1.mp3"}\n{"input": "https://media.example/2.mp3", "params": {"seed": "x"}}\n'
    )
    refused = api.me.post(f"{address}&on_error=stop", data=broken, content_type=LINES).json
    assert refused["error"]["message"].startswith("Line 2: /params/seed")


def test_a_manifest_that_was_uploaded(api: Api) -> None:
    lines = b"".join(json.dumps({"input": f"https://media.example/{n}.mp3"}).encode() + b"\r\n" for n in range(1200))
    upload = api.me.upload(lines, "manifest.jsonl")
    batch = _start(api.me, manifest=upload)
    assert (batch["state"], batch["counts"]["total"]) == ("active", 1200)
    refused = api.me.post("/v1/batches", json={**WORK, "manifest": "upl_none"})
    assert (refused.status_code, refused.json["code"], refused.json["pointer"]) == (422, "input_missing", "/manifest")


def test_a_plan_makes_nothing(api: Api) -> None:
    upload = api.me.upload(b'{"input": "https://media.example/1.mp3"}\n{"input": 7}\n', "manifest.jsonl")
    body = {**WORK, "manifest": upload, "window": "22:00-06:00 Europe/Madrid", "name": "planned"}
    response = api.me.post("/v1/batches?dry_run=true", json=body)
    assert response.status_code == 200, response.text
    plan = response.json
    assert (plan["jobs"], plan["rejected"], plan["rejects"][0]["item"]) == (1, 1, 2)
    assert plan["names"] == ["00001-1.stem.flac"]
    assert plan["starts"]
    assert not api.me.post("/v1/batches?dry_run=true", json={**body, "on_error": "stop"}).json["starts"]
    assert plan["window"] == "22:00-06:00 Europe/Madrid"
    assert api.me.get("/v1/batches").json["items"] == []
    assert api.me.get("/v1/jobs").json["items"] == []


def test_a_batch_gets_another_window_deadline_and_share(api: Api) -> None:
    now = datetime.now(UTC)
    later = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M} UTC"
    batch = _start(api.me, items=[{"input": "https://media.example/1.mp3"}], window=later)
    address = f"/v1/batches/{batch['id']}"
    assert not batch["open"]
    opened = api.me.patch(address, json={"window": None, "weight": 2})
    assert (opened.status_code, opened.json["open"], opened.json["window"]) == (200, True, None), opened.text
    (job,) = api.me.get(f"{address}/items").json["items"]
    assert job["state"] == "queued"
    changed = api.me.patch(address, json={"window": later, "deadline": "2031-01-01T08:00:00+01:00"}).json
    assert (changed["open"], changed["weight"], changed["deadline"]) == (False, 2, "2031-01-01T07:00:00Z")
    (job,) = api.me.get(f"{address}/items").json["items"]
    assert (job["state"], job["reason"]) == ("waiting", "window_closed")
    for body, pointer in (
        ({}, ""), ({"window": "at night"}, "/window"), ({"deadline": "2031-01-01T08:00:00"}, "/deadline"),
        ({"weight": 0}, "/weight"), ({"weight": None}, "/weight"), ({"name": "x"}, "/name"),
    ):  # fmt: skip
        refused = api.me.patch(address, json=body)
        assert (refused.status_code, refused.json["pointer"]) == (422, pointer), refused.text
    assert api.me.post(f"{address}/cancel").status_code == 200
    assert api.me.patch(address, json={"weight": 1}).json["code"] == "state_conflict"


def test_outside_the_window_nothing_is_released(api: Api) -> None:
    now = datetime.now(UTC)
    window = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M} UTC"
    batch = _start(api.me, items=_items(2), window=window)
    assert (batch["open"], batch["window"]) == (False, window)
    assert api.ringer.rung == []
    assert _work(api) == 0
    person = api.me.submit().json["id"]
    assert api.ringer.rung == [person]


def test_paused_resumed_cancelled(api: Api) -> None:
    batch = _start(api.me, items=_items(4))
    address = f"/v1/batches/{batch['id']}"
    assert api.me.post(f"{address}/pause").json["state"] == "paused"
    assert _work(api) == 0
    assert api.me.post(f"{address}/resume").json["state"] == "active"
    with api.database.write() as tx:
        queueing.fill(tx, "cpu", 2, LEASE)
        job = claiming.claim(tx, "w1", ["cpu"], LEASE)
    assert job is not None
    cancelled = api.me.post(f"{address}/cancel")
    assert (cancelled.status_code, cancelled.json["state"], cancelled.json["counts"]["cancelled"]) == (
        202, "cancelling", 3,
    )  # fmt: skip
    with api.database.write() as tx:
        finish.cancelled(tx, job.lease)
    over = api.me.post(f"{address}/cancel")
    assert (over.status_code, over.json["state"]) == (200, "cancelled")
    refused = api.me.post(f"{address}/pause")
    assert (refused.status_code, refused.json["code"]) == (409, "state_conflict")


def test_the_same_idempotency_key_makes_one_batch(api: Api) -> None:
    body = {**WORK, "items": _items(2)}
    first = api.me.post("/v1/batches", json=body, headers={"Idempotency-Key": "night"})
    again = api.me.post("/v1/batches", json=body, headers={"Idempotency-Key": "night"})
    other = api.me.post("/v1/batches", json={**body, "name": "x"}, headers={"Idempotency-Key": "night"})
    assert (first.json["id"], again.headers["Idempotency-Replayed"]) == (again.json["id"], "true")
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    assert len(api.me.get("/v1/jobs").json["items"]) == 2
    assert len(list(api.store.list("batches/"))) == 1


# --- Delivery into a bucket -------------------------------------------------------------------------------------------


def _carried(api: Api, *wrong: int) -> None:
    """Says of every delivery that is due how it went; items in `wrong` could not be delivered."""
    with api.database.write() as tx:
        for one in transfers.due(tx, 100, 60.0, per_bucket=100):
            if one.item in wrong:
                refused = {"code": "target_exists", "message": "Another object lies there.", "retryable": False}
                transfers.failed(tx, one, refused, None)
            else:
                transfers.done(tx, one, 10)


def test_results_on_their_way_into_a_bucket(api: Api) -> None:
    wanted = {"items": _items(3), "naming": "{title}.{stem}.{ext}", "deliver": {"to": "s3://mine/stems"}}
    plan = api.me.post("/v1/batches?dry_run=true", json={**WORK, **wanted}).json
    assert plan["target"] == "s3://mine/stems/Episode-1.stem.flac"
    batch = _start(api.me, **wanted, callback={"url": RECEIVER})
    asked = {"to": "s3://mine/stems/", "overwrite": False, "pictures": False}
    assert batch["delivery"] == {**asked, "pending": 0, "done": 0, "failed": 0}
    address = f"/v1/batches/{batch['id']}"
    _work(api)
    assert api.me.get(address).json["delivery"] == {**asked, "pending": 3, "done": 0, "failed": 0}
    outputs = [one for line in _lines(api.me, f"{address}/output.jsonl") for one in line["outputs"]]
    assert {one["delivered"] for one in outputs} == {None}
    _carried(api, 2)
    assert api.me.get(address).json["delivery"] == {**asked, "pending": 0, "done": 2, "failed": 1}
    delivered = [[one["delivered"] for one in line["outputs"]] for line in _lines(api.me, f"{address}/output.jsonl")]
    assert delivered == [
        ["s3://mine/stems/Episode-1.speech.flac", "s3://mine/stems/Episode-1.residual.flac"],
        [None, None],
        ["s3://mine/stems/Episode-3.speech.flac", "s3://mine/stems/Episode-3.residual.flac"],
    ]
    (wrong,) = _lines(api.me, f"{address}/errors.jsonl")
    assert (wrong["item"], wrong["state"], wrong["error"]["code"]) == (2, "undelivered", "target_exists")
    items = api.me.get(f"{address}/items").json["items"]
    assert [job["delivery"]["state"] for job in items] == ["done", "failed", "done"]
    job = api.me.get(f"/v1/jobs/{wrong['job']}").json
    assert (job["state"], job["delivery"]["error"]["code"]) == ("succeeded", "target_exists")
    again = api.me.post(f"{address}/retry-failed").json
    assert (again["again"], again["deliveries"], again["batch"]["delivery"]["pending"]) == (0, 1, 1)
    _carried(api)
    events = [message["event"] for message in reversed(api.me.get("/v1/callbacks").json["items"])]
    assert events == ["batch.finished", "batch.delivered_with_errors", "batch.delivered"]


def test_a_manifest_as_the_body_says_where_to_deliver_in_the_query(api: Api) -> None:
    address = "/v1/batches?preset=podcast-voice&deliver=s3://mine/&deliver_overwrite=true"
    line = '{"input": "https://media.example/1.mp3"}'
    batch = api.me.post(address, data=line, content_type=LINES).json
    assert batch["delivery"]["to"] == "s3://mine/"
    assert batch["delivery"]["overwrite"]
    refused = api.me.post(address.replace("mine", "other"), data=line, content_type=LINES)
    assert (refused.status_code, refused.json["code"]) == (422, "bucket_forbidden")
    assert "NIGHTSHIFT_S3_OUTPUT_BUCKETS" in refused.json["hint"]
    wrong = api.me.post(address.replace("s3://mine/", "mine"), data=line, content_type=LINES)
    assert (wrong.status_code, wrong.json["errors"][0]["parameter"]) == (422, "deliver")


@pytest.mark.parametrize(
    ("members", "code", "pointer"),
    [
        ({"items": []}, "invalid_request", "/items"),
        ({}, "invalid_request", ""),
        ({"items": _items(1), "engine": "none"}, "unknown_engine", "/engine"),
        ({"items": _items(1), "preset": "none"}, "unknown_preset", "/preset"),
        ({"items": _items(1), "params": {"prompts": ["speech"], "seed": "x"}}, "invalid_request", "/params/seed"),
        ({"items": _items(1), "window": "at night"}, "invalid_request", "/window"),
        ({"items": _items(1), "preset": "podcast-voice\n"}, "unknown_preset", "/preset"),
        ({"items": _items(1), "deadline": "9999-12-31T23:59:59-10:00"}, "invalid_request", "/deadline"),
        ({"items": _items(1), "naming": "{stem}"}, "invalid_request", "/naming"),
        ({"rss": {"url": "http://10.0.0.1/feed.xml"}}, "url_forbidden", "/rss/url"),
        ({"s3": {"pattern": "s3://strange/x/"}}, "bucket_forbidden", "/s3/pattern"),
        ({"items": _items(1), "callback": {"url": "http://10.0.0.1/"}}, "url_forbidden", "/callback/url"),
        ({"items": _items(1), "deliver": {"to": "s3://strange/x/"}}, "bucket_forbidden", "/deliver/to"),
        ({"items": _items(1), "deliver": {"to": "mine/x/"}}, "invalid_request", "/deliver/to"),
        ({"items": _items(1), "deliver": {"to": "s3://mine/../x/"}}, "invalid_request", "/deliver/to"),
        ({"items": _items(1), "deliver": {"to": "s3://mine//x/"}}, "invalid_request", "/deliver/to"),
        ({"items": _items(1), "deliver": {"to": f"s3://mine/{'ü' * 151}/"}}, "invalid_request", "/deliver/to"),
    ],
)  # fmt: skip
def test_wrong_requests(sqlite_api: Api, members: dict[str, Any], code: str, pointer: str) -> None:
    response = sqlite_api.me.post("/v1/batches", json={**WORK, **members})
    assert (response.status_code, response.json["code"]) == (422, code), response.text
    assert (response.json.get("pointer") or "") == pointer


# --- Many jobs by a filter --------------------------------------------------------------------------------------------


def _bulk(caller: Caller, action: str, dry_run: bool = False, **which: Any) -> dict[str, Any]:
    response = caller.post("/v1/jobs/bulk", json={"action": action, "filter": which, "dry_run": dry_run})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json
    return found


def test_many_jobs_by_a_filter(api: Api) -> None:
    batch = _start(api.me, name="night", items=_items(5))
    other = api.me.submit(batch="other").json["id"]
    stranger = api.caller("stranger")
    theirs = stranger.submit(batch="night").json["id"]
    with api.database.write() as tx:
        running = claiming.claim(tx, "w1", ["cpu"], LEASE, job_id=other)
    assert running is not None
    dry = _bulk(api.me, "cancel", dry_run=True, batch="night")
    assert (dry["matched"], dry["done"], dry["left"], len(dry["sample"])) == (5, 0, True, 5)
    done = _bulk(api.me, "cancel", state=["waiting", "queued", "running", "failed"])
    assert (done["matched"], done["done"], done["left"]) == (6, 6, False)
    assert api.me.get(f"/v1/jobs/{other}").json["cancel_requested"]
    assert stranger.get(f"/v1/jobs/{theirs}").json["state"] in ("waiting", "queued")
    over = api.me.get(f"/v1/batches/{batch['id']}").json
    assert (over["state"], over["counts"]["cancelled"]) == ("finished", 5)
    again = _bulk(api.me, "retry", batch="night")
    assert (again["done"], again["refused"]) == (5, 0)
    assert api.me.get(f"/v1/batches/{batch['id']}").json["state"] == "active"
    _work(api)
    gone = _bulk(api.me, "delete", batch="night", kind="separation")
    assert gone["done"] == 5
    assert api.me.get("/v1/jobs?batch=night").json["items"] == []
    refused = api.me.post("/v1/jobs/bulk", json={"action": "delete", "filter": {}})
    assert (refused.status_code, refused.json["pointer"]) == (422, "/filter")


# --- Feeds and schedules ----------------------------------------------------------------------------------------------


def _feed(receiver: Receiver, *guids: str, until: str | None = None) -> str:
    """until: where the document is cut off."""
    items = "".join(
        f"<item><title>Episode {guid}</title><guid>{guid}</guid><pubDate>Mon, 0{n} Jun 2026 05:00:00 GMT</pubDate>"
        f'<enclosure url="{receiver.url(f"/{guid}.mp3")}" type="audio/mpeg" length="1000"/></item>'
        for n, guid in enumerate(guids, 1)
    )
    text = f'<rss version="2.0"><channel><title>The Show</title>{items}<item><title>None</title></item></channel></rss>'
    sent = text.partition(until)[0] if until else text
    receiver.serve("/feed.xml", Answer(body=sent.encode(), headers={"Content-Type": "application/rss+xml"}))
    return receiver.url("/feed.xml")


def test_a_feed_gives_each_episode_once(api: Api, receiver: Receiver) -> None:
    url = _feed(receiver, "a", "b", "b")
    plan = api.me.post("/v1/batches?dry_run=true", json={"preset": "podcast-voice", "rss": {"url": url}}).json
    assert (plan["jobs"], plan["rejected"], plan["skipped"], plan["bytes"]) == (2, 1, {"duplicate_guid": 1}, 2000)
    first = _start(api.me, preset="podcast-voice", rss={"url": url})
    assert (first["counts"]["total"], first["counts"]["skipped"], first["counts"]["rejected"]) == (2, 1, 1)
    _feed(receiver, "a", "b", "c")
    again = _start(api.me, preset="podcast-voice", rss={"url": url})
    assert (again["counts"]["total"], again["source"]["skipped"]) == (1, {"taken_before": 2})
    other = _start(api.me, preset="podcast-voice", params={"quality": "draft"}, rss={"url": url})
    assert other["counts"]["total"] == 3, "other work on the same episodes is new"
    _work(api)
    (line,) = _lines(api.me, f"/v1/batches/{again['id']}/output.jsonl")
    assert line["guid"] == "c"
    assert line["outputs"][0]["path"] == "The-Show/2026-06-03-Episode-c.speech.flac"


def test_a_feed_that_ends_in_the_middle_says_so_and_the_rest_comes_later(api: Api, receiver: Receiver) -> None:
    url = _feed(receiver, "a", "b", "c", until="sode c</title>")
    first = _start(api.me, preset="podcast-voice", rss={"url": url})
    assert (first["counts"]["total"], first["counts"]["rejected"]) == (2, 1)
    (line,) = _lines(api.me, f"/v1/batches/{first['id']}/errors.jsonl")
    assert (line["item"], line["source"], line["error"]["code"]) == (3, "the end of the feed", "invalid_feed")
    assert "there may be more episodes" in line["error"]["message"]
    plan = api.me.post("/v1/batches?dry_run=true", json={"preset": "podcast-voice", "rss": {"url": url}}).json
    assert (plan["jobs"], plan["rejected"]) == (0, 1)
    stopped = _start(api.me, preset="podcast-voice", rss={"url": url}, on_error="stop", only_new=False)
    assert (stopped["state"], stopped["counts"]["total"]) == ("failed", 0)
    _feed(receiver, "a", "b", "c")
    rest = _start(api.me, preset="podcast-voice", rss={"url": url})
    _work(api)
    assert [line["guid"] for line in _lines(api.me, f"/v1/batches/{rest['id']}/output.jsonl")] == ["c"]


def test_a_feed_that_is_away_is_asked_again_later(api: Api, receiver: Receiver) -> None:
    receiver.serve("/feed.xml", Answer(503))
    batch = _start(api.me, rss={"url": receiver.url("/feed.xml")})
    assert (batch["state"], batch["error"]["code"]) == ("preparing", "input_unreachable")
    receiver.serve("/feed.xml", Answer(body=b"<html>no feed</html>"))
    with api.database.write() as tx:
        batch_verbs.leave(tx, batch["id"])
    _scheduler(api).prepare()
    failed = api.me.get(f"/v1/batches/{batch['id']}").json
    assert (failed["state"], failed["error"]["code"]) == ("failed", "invalid_feed")


def _scheduler(api: Api) -> Scheduler:
    return Scheduler(api.settings, api.database, api.store, api.ringer)  # type: ignore[arg-type]


def test_a_schedule_takes_what_is_new(api: Api, receiver: Receiver) -> None:
    url = _feed(receiver, "a")
    body = {
        "name": "nightly",
        "cron": "0 21 * * *",
        "timezone": "europe/madrid",
        "batch": {
            "preset": "podcast-voice",
            "rss": {"url": url},
            "window": "22:00-06:00 Europe/Madrid",
            "deliver": {"to": "s3://mine/nightly/"},
        },
    }
    made = api.me.post("/v1/schedules", json=body)
    assert made.status_code == 201, made.text
    address = f"/v1/schedules/{made.json['id']}"
    assert made.json["timezone"] == "Europe/Madrid"
    assert api.me.get(address).json == made.json
    scheduler = _scheduler(api)
    assert scheduler.tick_schedules() == 0
    run = api.me.post(f"{address}/run")
    assert (run.status_code, run.json["outcome"]) == (202, "by_hand")
    scheduler.prepare()
    first = api.me.get(f"/v1/batches/{run.json['batch']}").json
    assert (first["schedule"], first["name"], first["counts"]["total"]) == (made.json["id"], "nightly", 1)
    assert first["delivery"]["to"] == "s3://mine/nightly/"
    _feed(receiver, "a", "b")
    assert api.me.put(address, json={**body, "deadline_after": "PT9H"}).json["deadline_after"] == "PT9H"
    second = api.me.post(f"{address}/run").json["batch"]
    scheduler.prepare()
    counts = api.me.get(f"/v1/batches/{second}").json["counts"]
    assert (counts["total"], counts["skipped"]) == (1, 1)
    due = datetime.fromisoformat(api.me.get(f"/v1/batches/{second}").json["deadline"])
    assert abs(due - datetime.now(UTC) - timedelta(hours=9)) < timedelta(minutes=2)
    assert [tick["batch"] for tick in api.me.get(f"{address}/ticks").json["items"]] == [second, first["id"]]
    assert [one["id"] for one in api.me.get(f"/v1/batches?schedule={made.json['id']}").json["items"]] == [
        second, first["id"],
    ]  # fmt: skip
    assert api.me.post(f"{address}/pause").json["next_at"] is None
    assert api.me.post(f"{address}/resume").json["next_at"] is not None
    changed = api.me.put(address, json={**body, "cron": "0 3 * * mon"})
    assert (changed.status_code, changed.json["cron"]) == (200, "0 3 * * mon")
    assert api.me.delete(address).status_code == 204
    assert api.me.get(address).status_code == 404
    assert api.me.get(f"/v1/batches/{second}").status_code == 200


@pytest.mark.parametrize(
    ("members", "code", "pointer"),
    [
        ({"cron": "every day"}, "invalid_schedule", "/cron"),
        ({"timezone": "Middle/Earth"}, "invalid_schedule", "/timezone"),
        ({"batch": {**WORK, "items": _items(1)}}, "invalid_request", "/batch"),
        (
            {"batch": {**WORK, "rss": {"url": "https://a.example/"}, "deadline": "2030-01-01T06:00:00Z"}},
            "invalid_request", "/batch/deadline",
        ),
        ({"deadline_after": "-PT1H"}, "invalid_request", "/deadline_after"),
        ({"batch": {"preset": "none", "rss": {"url": "https://a.example/"}}}, "unknown_preset", "/batch/preset"),
    ],
)  # fmt: skip
def test_wrong_schedules(sqlite_api: Api, members: dict[str, Any], code: str, pointer: str) -> None:
    body = {"name": "n", "cron": "0 1 * * *", "timezone": "UTC",
            "batch": {**WORK, "rss": {"url": "https://media.example/feed"}}}  # fmt: skip
    response = sqlite_api.me.post("/v1/schedules", json={**body, **members})
    assert (response.status_code, response.json["code"], response.json["pointer"]) == (422, code, pointer)


# --- Presets ----------------------------------------------------------------------------------------------------------


def test_a_job_records_the_preset_it_was_made_from(api: Api) -> None:
    work = {"engine": "rnnoise", "params": {"prompts": ["speech"], "quality": "draft"}, "description": "quick"}
    made = api.me.put("/v1/presets/quick", json=work)
    assert (made.status_code, made.json["version"], made.json["built_in"]) == (201, 1, False)
    source = {"input": {"url": "https://media.example/a.mp3"}}
    first = api.me.post("/v1/jobs", json={"preset": "quick", **source}).json
    work["params"]["quality"] = "reference"  # type: ignore[index]
    assert api.me.put("/v1/presets/quick", json=work).json["version"] == 2
    second = api.me.post("/v1/jobs", json={"preset": "quick", "params": {"seed": 7}, **source}).json
    third = api.me.post("/v1/jobs", json={"preset": "quick@1", **source}).json
    seen = [(job["preset"], job["params"]["quality"], job["params"]["seed"]) for job in (first, second, third)]
    assert seen == [("quick@1", "draft", 0), ("quick@2", "reference", 7), ("quick@1", "draft", 0)]
    assert api.me.delete("/v1/presets/quick").status_code == 204
    assert api.me.post("/v1/jobs", json={"preset": "quick", **source}).json["code"] == "unknown_preset"
    assert api.me.post("/v1/jobs", json={"preset": "quick@2", **source}).status_code == 202
    assert api.me.post(f"/v1/jobs/{first['id']}/cancel").json["preset"] == "quick@1"
    assert api.me.post(f"/v1/jobs/{first['id']}/retry").status_code == 202


@pytest.mark.parametrize(
    ("work", "code", "pointer"),
    [
        ({"params": {"qualty": "draft"}}, "invalid_request", "/params/qualty"),
        ({"params": {"quality": "best"}}, "invalid_request", "/params/quality"),
        ({"kind": "tts", "params": {"prompts": ["speech"]}}, "invalid_request", "/params/prompts"),
        (
            {"engine": "rnnoise", "params": {"prompts": ["a dog"]}},
            "engine_unsupported",
            "/params/prompts/0/description",
        ),
    ],
)
def test_a_preset_that_no_request_could_use_is_refused(
    api: Api, work: dict[str, Any], code: str, pointer: str
) -> None:  # fmt: skip
    refused = api.me.put("/v1/presets/wrong", json=work)
    assert (refused.json["code"], refused.json["pointer"]) == (code, pointer), refused.text
    assert api.me.get("/v1/presets/wrong").status_code == 404


@pytest.mark.parametrize(
    "work",
    [
        {"params": {"seed": 1}},
        {"params": {"prompts": ["a dog"]}},
        {"engine": "sam-audio-base", "params": {"quality": "draft"}},
        {"kind": "tts", "engine": "espeak", "params": {"speed": 1.5}},
        {"kind": "segmentation", "params": {"automatic": {}}},
    ],
)
def test_a_preset_leaves_to_requests_what_it_does_not_say(api: Api, work: dict[str, Any]) -> None:
    made = api.me.put("/v1/presets/part", json=work)
    assert (made.status_code, made.json.get("params")) == (201, work["params"]), made.text


def test_presets_that_are_built_in(api: Api) -> None:
    names = [preset["name"] for preset in api.me.get("/v1/presets").json["items"]]
    assert names == ["music-out", "one-speaker", "podcast-voice"]
    for name in names:
        job = api.me.post("/v1/jobs", json={"preset": name, "input": {"url": "https://media.example/a.mp3"}})
        assert (job.status_code, job.json["preset"]) == (202, f"{name}@1"), job.text
    assert api.me.delete("/v1/presets/podcast-voice").status_code == 404
    assert api.me.put("/v1/presets/No Name", json={"params": {"seed": 1}}).json["code"] == "invalid_request"


# --- What dies half-way -----------------------------------------------------------------------------------------------


def test_an_intake_that_died_is_gone_on_with(api: Api) -> None:
    lines = b"".join(json.dumps({"input": f"https://media.example/{n}.mp3"}).encode() + b"\n" for n in range(1300))
    upload = api.me.upload(lines, "manifest.jsonl")
    intake = Intake(api.settings, api.database, open_store(api.settings))
    request = BatchRequest.model_validate({**WORK, "manifest": upload})
    batch, _ = intake.make(api.me.key.id, request)
    half = intake.run(batch.id, seconds=0.0)
    assert half is not None
    assert (half.total, half.consumed) == (500, 500)
    assert _work(api) == 0
    _scheduler(api).prepare()
    whole = api.me.get(f"/v1/batches/{batch.id}").json
    assert (whole["state"], whole["counts"]["total"]) == ("active", 1300)
    with api.database.read() as tx:
        assert [job.batch_item for job in batch_query.items(tx, batch.id, after=0, limit=2000)] == list(range(1, 1301))
