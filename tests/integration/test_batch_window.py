"""A running job of a batch, with a real runner, when its window closes: it yields at a block, and goes on later."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import soundfile
from sqlalchemy import update

from common.db.tables import batches as rows
from common.jobs import batch_query, batches, gate
from common.jobs.batch import Batch, BatchState
from common.jobs.batches import Entry, NewBatch
from common.params import parse_request
from common.quotas import Quotas
from common.states import Reason, State
from tests import media
from tests.house import House, wait_for
from worker.compose import open_runner
from worker.poll import serve
from worker.scheduler import Scheduler


def _batch(house: House, *uploads: str) -> Batch:
    asked = [
        parse_request({"engine": "slow", "params": {"prompts": ["speech"]}, "priority": "batch", "batch": "night",
                       "input": {"upload": upload}})
        for upload in uploads
    ]  # fmt: skip
    with house.database.write() as tx:
        batch, _ = batches.create(tx, house.key.id, NewBatch("night", {}, {}, "digest", window="00:00-24:00 UTC"))
        batch = batches.take_in(
            tx, batch, [Entry(n, one) for n, one in enumerate(asked, 1)], default_quota=Quotas(10), lease_seconds=30
        )  # fmt: skip
        return batches.activate(tx, batch)


def test_when_the_window_closes_a_job_yields_at_its_block_and_goes_on_later(
    house: House, scheduler: Scheduler, tmp_path: Path
) -> None:  # fmt: skip
    long = media.write(tmp_path / "long.wav", media.signal(8000, 1, 40.0, "noise"), 8000)
    batch = _batch(house, house.upload(long), house.upload(long))
    with house.database.read() as tx:
        first, second = (job.id for job in batch_query.items(tx, batch.id, after=0, limit=5))
    scheduler.release()
    over = threading.Event()
    runner = open_runner(house.settings)
    runner.start()
    thread = threading.Thread(target=serve, args=(runner, over, 0.05))
    thread.start()
    try:
        wait_for(lambda: house.job(first).blocks_done >= 1)
        with house.database.write() as tx:
            tx.execute(update(rows).values(open_until=tx.now()))  # the end of its hours
        wait_for(lambda: house.job(first).state is State.WAITING)
        yielded = house.job(first)
        assert (yielded.reason, yielded.failures) == (Reason.WINDOW_CLOSED, 0)
        scheduler.turn_windows()
        assert (house.job(second).state, house.job(second).reason) == (State.WAITING, Reason.WINDOW_CLOSED)
        scheduler.release()
        assert house.job(first).state is State.WAITING, "until its hours come again"
        with house.database.write() as tx:
            tx.execute(update(rows).values(open_until=gate.FOREVER))
        wait_for(lambda: scheduler.release() or house.job(first).state is State.RUNNING)
        house.ended(first)
        house.ended(second)
    finally:
        over.set()
        thread.join()
        runner.close()
    done = house.job(first)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 2)
    assert any(entry.get("code") == "resumed" for entry in house.log(first)), "its blocks were kept"
    assert done.result is not None
    (entry,) = [output for output in done.result["outputs"] if output["name"] == "speech"]
    with house.store.open(entry["key"]) as stream:
        stem, _ = soundfile.read(stream, dtype="float32", always_2d=True)
    mix, _ = soundfile.read(long, dtype="float32", always_2d=True)
    np.testing.assert_allclose(stem, mix * 0.5, atol=2 / 32768)
    with house.database.read() as tx:
        ended = batch_query.get(tx, batch.id)
    assert ended is not None
    assert (ended.state, ended.succeeded) == (BatchState.FINISHED, 2)
