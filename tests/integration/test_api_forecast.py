"""The forecast of a batch as the API shows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.db import processes
from common.db.engine import Database
from common.jobs import claiming, finish, queueing
from common.settings import Settings
from tests.api import Api
from tests.jobs import LEASE, result
from worker.scheduler import Scheduler

WORK = {"kind": "separation", "params": {"prompts": ["speech"]}}


@pytest.fixture
def api(tmp_path: Path, database: Database) -> Api:
    return Api(Settings(home=tmp_path / "home"), database)


def test_a_batch_tells_when_it_will_be_done(api: Api) -> None:
    items = [{"input": f"https://media.example/{n}.mp3"} for n in range(10)]
    deadline = (datetime.now(UTC) + timedelta(minutes=3)).isoformat()
    batch = api.me.post("/v1/batches", json={**WORK, "items": items, "deadline": deadline}).json
    address = f"/v1/batches/{batch['id']}"
    assert batch["forecast"]["likely"] is None
    assert {missing["why"] for missing in batch["forecast"]["missing"]} == {"not_measured"}
    with api.database.write() as tx:
        processes.register(tx, "w1", "worker", lanes=["cpu"])
        for _ in range(6):
            queueing.fill(tx, "cpu", 2, LEASE)
            job = claiming.claim(tx, "w1", ["cpu"], LEASE)
            assert job is not None
            metrics = {"audio_seconds": 600.0, "seconds": 60.0}
            finish.succeed(tx, job.lease, result(metrics=metrics))
    told = api.me.get(address).json["forecast"]
    assert told["worker_seconds"]["likely"] == pytest.approx(240.0)
    instants = [datetime.fromisoformat(told[name]) for name in ("earliest", "likely", "latest")]
    assert instants == sorted(instants)
    assert abs(instants[1] - datetime.now(UTC) - timedelta(minutes=4)) < timedelta(minutes=1)
    assert (told["risk"], told["missing"], told["closes"], told["by_close"]) == ("late", [], None, None)
    assert (told["nights"], told["workers"]) == (None, {"cpu": 1})
    found = api.me.get(address).json
    assert found["audio"] == {"done": 3600.0, "left": 0.0, "unknown": 4}
    assert found["risk"] is None, "no scheduler has looked"
    _scheduler(api).warn_of_deadlines()
    (listed,) = api.me.get("/v1/batches").json["items"]
    assert (listed["risk"], listed["forecast"]["risk"]) == ("late", "late")
    assert listed["forecast"]["worker_seconds"] == told["worker_seconds"]
    cancelled = api.me.post(f"{address}/cancel").json
    assert (cancelled["forecast"], cancelled["risk"]) == (None, None)


def test_a_job_tells_the_risk_of_its_deadline(api: Api) -> None:
    _measured(api)
    job = api.me.submit(deadline=(datetime.now(UTC) + timedelta(hours=1)).isoformat()).json
    assert job["risk"] is None
    _scheduler(api).warn_of_deadlines()
    assert api.me.get(f"/v1/jobs/{job['id']}").json["risk"] == "on_time"
    assert [one["risk"] for one in api.me.get("/v1/jobs?state=queued").json["items"]] == ["on_time"]


# --- Plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_it_cannot_know_and_what_to_do(api: Api) -> None:
    plan = _plan(api, _items(3))
    assert plan["forecast"]["likely"] is None
    (missing,) = plan["forecast"]["missing"]
    assert (missing["why"], missing["engine"], missing["lane"]) == ("not_measured", "rnnoise", "cpu")
    assert "Run one" in missing["hint"]
    assert plan["results"] == {"bytes": None, "jobs": 0}, "nor how long they are"
    empty = _plan(api, [{"input": {"upload": "upl_none"}}])
    assert (empty["jobs"], empty["forecast"], empty["results"]) == (0, None, None)


def test_a_plan_tells_what_it_would_take_and_when_it_would_be_done(api: Api) -> None:
    _measured(api, size=1_200_000)
    deadline = (datetime.now(UTC) + timedelta(minutes=3)).isoformat()
    plan = _plan(api, _items(10), deadline=deadline)
    told = plan["forecast"]
    assert told["worker_seconds"]["likely"] == pytest.approx(600.0), "ten of 600 s, as the others were"
    assert (told["workers"], told["missing"], told["risk"], told["nights"]) == ({"cpu": 1}, [], "late", None)
    assert abs(datetime.fromisoformat(told["likely"]) - datetime.now(UTC) - timedelta(minutes=10)) < timedelta(
        minutes=1
    )
    assert plan["results"] == {"bytes": 10 * 2 * 1_200_000, "jobs": 2}
    # Others have half of the worker.
    batch = api.caller("other").post("/v1/batches", json={**WORK, "items": _items(10)})
    assert batch.status_code == 202
    later = _plan(api, _items(10))["forecast"]
    assert datetime.fromisoformat(later["likely"]) - datetime.fromisoformat(told["likely"]) > timedelta(minutes=8)
    # Of another format nothing was measured.
    opus = {"prompts": ["speech"], "outputs": ["target"], "output": {"format": "opus", "bitrate_kbps": 64}}
    assert _plan(api, _items(10), params=opus)["results"] == {"bytes": 10 * 600 * 8000, "jobs": 0}


def test_a_plan_for_a_window_counts_the_nights(api: Api) -> None:
    _measured(api)
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(minutes=5):%H:%M} UTC"
    plan = _plan(api, _items(60), window=window)["forecast"]
    assert plan["nights"] == 2 and plan["by_close"]["likely"] == pytest.approx(5 / 60, abs=0.02)


def _items(count: int) -> list[dict[str, str]]:
    return [{"input": f"https://media.example/{n}.mp3"} for n in range(count)]


def _plan(api: Api, items: list[Any], **members: Any) -> dict[str, Any]:
    response = api.me.post("/v1/batches?dry_run=true", json={**WORK, "items": items, **members})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json
    return found


def _measured(api: Api, size: int = 1000) -> None:
    """One worker, on which 600 s of audio took 60, and became `size` bytes a stem; twice."""
    with api.database.write() as tx:
        processes.register(tx, "w1", "worker", lanes=["cpu"])
    for _ in range(2):
        api.me.submit()
        with api.database.write() as tx:
            queueing.fill(tx, "cpu", 2, LEASE)
            job = claiming.claim(tx, "w1", ["cpu"], LEASE)
            assert job is not None
            outputs = [
                {"name": name, "role": "stem", "filename": f"{name}.flac", "content_type": "audio/flac", "bytes": size}
                for name in ("speech", "residual")
            ]
            done = {"outputs": outputs, "metrics": {"audio_seconds": 600.0, "seconds": 60.0}}
            finish.succeed(tx, job.lease, done)


def _scheduler(api: Api) -> Scheduler:
    return Scheduler(api.settings, api.database, api.store, api.ringer)  # type: ignore[arg-type]
