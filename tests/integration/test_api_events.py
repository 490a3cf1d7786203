from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from api import events as api_events
from common.db.engine import Database
from common.jobs import events, finish, running, sweep
from common.settings import Settings
from common.states import State
from tests import jobs
from tests.api import Api, api, sqlite_api

__all__ = ["api", "sqlite_api"]


class Sent(NamedTuple):
    id: int | None
    event: str
    data: Any


def parsed(chunks: Iterator[bytes]) -> Iterator[Sent | str]:
    """Server-sent events as a browser reads them; comments as text."""
    text = ""
    for chunk in chunks:
        text += chunk.decode()
        while "\n\n" in text:
            block, _, text = text.partition("\n\n")
            if block.startswith(":"):
                yield block
                continue
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            if "data" in fields:
                identity = int(fields["id"]) if "id" in fields else None
                yield Sent(identity, fields["event"], json.loads(fields["data"]))


def stream(api: Api, job_id: str, **more: Any) -> Iterator[Sent | str]:
    response = api.me.get(f"/v1/jobs/{job_id}/events", buffered=False, **more)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    return parsed(response.iter_encoded())


def finished(api: Api) -> str:
    return jobs.brought(api.database, api.me.key.id, State.FAILED).id


def test_a_finished_job_is_told_from_beginning_to_end(api: Api) -> None:
    told = list(stream(api, finished(api)))
    states = [event.data["data"]["state"] for event in told if isinstance(event, Sent) and event.event == "state"]
    assert states == ["waiting", "running", "failed"]
    ids = [event.id for event in told if isinstance(event, Sent)]
    assert ids == sorted(ids)


def test_a_stream_goes_on_where_it_broke(api: Api) -> None:
    job_id = finished(api)
    told = [event for event in stream(api, job_id) if isinstance(event, Sent)]
    rest = list(stream(api, job_id, headers={"Last-Event-ID": str(told[0].id)}))
    assert rest == told[1:]
    assert list(stream(api, job_id, query_string={"after": told[0].id})) == told[1:]
    over = api.me.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(told[-1].id)})
    assert over.status_code == 204, "a browser would connect again and again"


def test_a_stream_follows_a_job_to_its_end(api: Api) -> None:
    job = jobs.submitted(api.database, api.me.key.id)
    told = stream(api, job.id)
    first = next(told)
    assert isinstance(first, Sent) and first.data["data"]["state"] == "waiting"

    def work() -> None:
        claimed = jobs.claimed(api.database, job.id)
        for done in (1.0, 2.0):
            with api.database.write() as tx:
                running.renew(tx, claimed.lease, 30, {"phase": "separate", "done": done, "total": 4.0, "unit": "s"})
            time.sleep(1.2)
        with api.database.write() as tx:
            events.log(tx, job.id, "warning", "shortfall", "It ended early.")
            finish.fail(tx, claimed.lease, jobs.ERROR)

    worker = threading.Thread(target=work)
    worker.start()
    seen = [event for event in told if isinstance(event, Sent)]
    worker.join()
    assert [event.data["data"]["state"] for event in seen if event.event == "state"] == ["running", "failed"]
    assert [event.data["data"]["code"] for event in seen if event.event == "log"] == ["shortfall"]
    assert [event.data["percent"] for event in seen if event.event == "progress"][:2] == [25.0, 50.0]
    assert all(event.id is None for event in seen if event.event == "progress")
    assert seen[-1].event in ("state", "progress")


def test_a_silent_stream_says_that_it_lives(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_SECONDS", 0.1)
    told = stream(sqlite_api, jobs.submitted(sqlite_api.database, sqlite_api.me.key.id).id)
    assert isinstance(next(told), Sent)
    assert next(told) == ": still here"


def test_a_stream_ends_with_a_job_that_is_deleted(sqlite_api: Api) -> None:
    job = jobs.submitted(sqlite_api.database, sqlite_api.me.key.id)
    told = stream(sqlite_api, job.id)
    next(told)
    with sqlite_api.database.write() as tx:
        finish.cancel(tx, job.id)
        sweep.remove(tx, job.id)
    assert list(told) == []


def test_streams_leave_threads_for_others(tmp_path: Path, sqlite_database: Database) -> None:
    api = Api(Settings(home=tmp_path, api_threads=2), sqlite_database)
    job_id = jobs.submitted(sqlite_database, api.me.key.id).id
    first = api.me.get(f"/v1/jobs/{job_id}/events", buffered=False)
    assert first.status_code == 200
    refused = api.me.get(f"/v1/jobs/{job_id}/events")
    assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
    assert refused.headers["Retry-After"]
    first.close()
    again = api.me.get(f"/v1/jobs/{job_id}/events", buffered=False)
    assert again.status_code == 200, "a stream that was left gives its place back"
    again.close()


def test_a_list_for_those_who_want_json(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "_PAGE", 2)
    address = f"/v1/jobs/{finished(api)}/events"
    accept = {"Accept": "application/json"}
    first = api.me.get(address, headers=accept).json
    assert [event["data"]["state"] for event in first["items"]] == ["waiting", "running"]
    rest = api.me.get(f"{address}?after={first['next']}", headers=accept).json
    assert [event["data"]["state"] for event in rest["items"]] == ["failed"] and rest["next"] is None


@pytest.mark.parametrize("value", ["x", "-1", "9" * 30, "1.5"])
def test_an_id_is_a_number_that_fits(sqlite_api: Api, value: str) -> None:
    job_id = jobs.submitted(sqlite_api.database, sqlite_api.me.key.id).id
    for more in ({"headers": {"Last-Event-ID": value}}, {"query_string": {"after": value}}):
        assert sqlite_api.me.get(f"/v1/jobs/{job_id}/events", **more).status_code == 422
