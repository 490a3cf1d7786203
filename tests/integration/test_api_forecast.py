"""The forecast of a batch as the API shows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.db import processes
from common.db.engine import Database
from common.jobs import finish, queueing
from common.settings import Settings
from tests.api import Api
from tests.jobs import LEASE, result

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
            job = queueing.claim(tx, "w1", ["cpu"], LEASE)
            assert job is not None
            metrics = {"audio_seconds": 600.0, "seconds": 60.0}
            finish.succeed(tx, job.lease, result(metrics=metrics))
    told = api.me.get(address).json["forecast"]
    assert told["worker_seconds"]["likely"] == pytest.approx(240.0)
    instants = [datetime.fromisoformat(told[name]) for name in ("earliest", "likely", "latest")]
    assert instants == sorted(instants)
    assert abs(instants[1] - datetime.now(UTC) - timedelta(minutes=4)) < timedelta(minutes=1)
    assert (told["risk"], told["missing"], told["closes"], told["by_close"]) == ("late", [], None, None)
    assert api.me.get("/v1/batches").json["items"][0]["forecast"] is None
    assert api.me.post(f"{address}/cancel").json["forecast"] is None
