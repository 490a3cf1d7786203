"""Before anything is deleted its owner is told, once, and has time; what is still needed stays."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from common.db import uploads
from common.db.engine import Database
from common.db.tables import batches as batch_rows
from common.db.tables import callbacks, events, jobs, sweeps
from common.db.tables import uploads as upload_rows
from common.jobs import expiry, finish, steering, submit, sweep
from common.jobs.batch import Batch, BatchState
from common.retention import Retention
from common.states import State
from tests.batches import entries, items, look, made, start
from tests.jobs import ERROR, QUOTA, RECEIVER, brought, new_key, result, submitted

KEEP = Retention(1000.0, 300.0)


def _prune(database: Database, warning_seconds: float = KEEP.warning_seconds) -> None:
    with database.write() as tx:
        sweep.prune(
            tx, retention_seconds=KEEP.seconds, idempotency_seconds=1e6, warning_seconds=warning_seconds
        )  # fmt: skip


def _age(database: Database, table: Any, seconds: float, **also: float) -> None:
    """As if everything of a table had ended so long ago. also: more instants, by column."""
    with database.write() as tx:
        values = {name: tx.now(-ago) for name, ago in {"finished_at": seconds, **also}.items()}
        for name, value in values.items():
            tx.execute(update(table).where(table.c[name].is_not(None)).values({name: value}))


def _tell(database: Database, keep: Retention = KEEP, limit: int = 500) -> int:
    steps = 0
    for step in (expiry.tell_jobs, expiry.tell_batch):
        while database.run(step, keep, limit):
            steps += 1
    return steps


def _told(database: Database) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as tx:
        rows = tx.execute(
            select(callbacks.c.event, callbacks.c.body).where(callbacks.c.event.like("%.expiring")).order_by("id")
        )
        return [(row.event, json.loads(row.body)) for row in rows]


def _there(database: Database, table: Any = jobs) -> set[str]:
    with database.read() as tx:
        return set(tx.execute(select(table.c.id)).scalars())


def _over(database: Database, key_id: str, count: int = 2, **members: Any) -> Batch:
    batch = made(database, key_id, count, **members)
    for _ in range(count):
        job = start(database)
        assert job is not None
        with database.write() as tx:
            finish.succeed(tx, job.lease, result())
    assert look(database, batch.id).state is BatchState.FINISHED
    return look(database, batch.id)


# --- Jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_is_told_of_and_deleted_when_that_was_long_enough_ago(database: Database) -> None:
    job = brought(database, new_key(database), State.SUCCEEDED)
    _age(database, jobs, 600.0)
    assert _tell(database) == 0, "there is time"
    _age(database, jobs, 800.0)
    assert _tell(database) == 1
    assert _tell(database) == 0, "told once"
    ((event, body),) = _told(database)
    assert (event, body["type"], body["data"]["id"]) == ("job.expiring", "job.expiring", job.id)
    assert body["data"]["expires_at"] > body["timestamp"]
    with database.read() as tx:
        (line,) = tx.execute(select(events.c.data).where(events.c.type == "log")).scalars()
    assert (line["level"], line["code"]) == ("warning", "expiring") and body["data"]["expires_at"] in line["message"]
    _age(database, jobs, 1100.0, expiry_told_at=200.0)
    _prune(database)
    assert _there(database) == {job.id}
    _age(database, jobs, 1100.0, expiry_told_at=301.0)
    _prune(database)
    assert _there(database) == set()


def test_what_was_not_told_waits_for_the_warning(database: Database) -> None:
    """No scheduler ran for months."""
    told = brought(database, new_key(database), State.FAILED)
    silent = submitted(database, new_key(database), callback=None)
    with database.write() as tx:
        finish.cancel(tx, silent.id)
    _age(database, jobs, 1e6)
    _prune(database)
    assert _there(database) == {told.id, silent.id}
    _tell(database)
    assert [body["data"]["id"] for _, body in _told(database)] == [told.id], "who asked for no call gets none"
    _prune(database)
    assert _there(database) == {told.id, silent.id}
    _age(database, jobs, 1e6, expiry_told_at=301.0)
    _prune(database)
    assert _there(database) == set()


def test_without_a_warning_nobody_is_waited_for(database: Database) -> None:
    for told in (True, False):
        brought(database, new_key(database), State.SUCCEEDED)
        _age(database, jobs, 1100.0)
        if told:
            _tell(database)
    _prune(database, warning_seconds=0.0)
    assert _there(database) == set()


def test_a_job_that_runs_again_is_told_of_again(database: Database) -> None:
    job = brought(database, new_key(database), State.FAILED)
    _age(database, jobs, 800.0)
    _tell(database)
    with database.write() as tx:
        assert submit.resubmit(tx, job.id, default_quota=QUOTA).expiry_told_at is None
        finish.cancel(tx, job.id)
    _age(database, jobs, 800.0)
    assert _tell(database) == 1
    assert len(_told(database)) == 2


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_goes_as_one_thing(database: Database) -> None:
    """Nothing of it is deleted before it is over, whenever its jobs have ended; its owner is told once, for all."""
    key_id = new_key(database)
    batch = made(database, key_id, 3, callback={"url": RECEIVER})
    job = start(database)
    assert job is not None
    with database.write() as tx:
        finish.fail(tx, job.lease, ERROR)
    _age(database, jobs, 1e6)
    _tell(database)
    _prune(database)
    assert len(_there(database)) == 3 and not _told(database)
    with database.write() as tx:
        steering.cancel(tx, batch.id)
        steering.cancel_some(tx, batch.id)
    _age(database, jobs, 1e6)
    _prune(database)
    assert len(_there(database)) == 3, "it ended just now"
    _age(database, batch_rows, 800.0)
    _tell(database)
    ((event, body),) = _told(database)
    assert (event, body["data"]["id"], body["data"]["state"]) == ("batch.expiring", batch.id, "cancelled")
    assert body["data"]["expires_at"] > body["timestamp"]
    _age(database, batch_rows, 1100.0, expiry_told_at=200.0)
    _prune(database)
    assert len(_there(database)) == 3
    _age(database, batch_rows, 1100.0, expiry_told_at=301.0)
    _prune(database)
    assert _there(database) == _there(database, batch_rows) == set()
    with database.read() as tx:
        assert f"batches/{batch.id}/" in set(tx.execute(select(sweeps.c.prefix)).scalars())


def test_jobs_with_callbacks_of_their_own_are_told_in_steps(database: Database) -> None:
    batch = _over(
        database, new_key(database), 5, job={"callback": {"url": RECEIVER}}, callback={"url": RECEIVER},
        template={"work": {"callback": {"url": RECEIVER}}},
    )  # fmt: skip
    _age(database, batch_rows, 800.0)
    assert [database.run(expiry.tell_batch, KEEP, 2) for _ in range(4)] == [True, True, True, False]
    told = _told(database)
    assert [event for event, _ in told].count("batch.expiring") == 1
    own = [body["data"]["id"] for event, body in told if event == "job.expiring"]
    assert sorted(own) == sorted(job.id for job in items(database, batch.id))
    assert look(database, batch.id).expiry_told_at is not None


def test_a_batch_that_goes_on_is_told_of_again(database: Database) -> None:
    key_id = new_key(database)
    batch = made(database, key_id, 1, callback={"url": RECEIVER})
    job = start(database)
    assert job is not None
    with database.write() as tx:
        finish.fail(tx, job.lease, ERROR)
    _age(database, batch_rows, 1100.0)
    _tell(database)
    with database.write() as tx:
        steering.retry_some(tx, batch.id, default_quota=QUOTA)
    assert look(database, batch.id).expiry_told_at is None
    _age(database, jobs, 1e6)
    _prune(database, warning_seconds=0.0)
    assert _there(database) == {job.id}
    with database.write() as tx:
        finish.cancel(tx, job.id)
    _age(database, batch_rows, 800.0)
    _tell(database)
    assert len(_told(database)) == 2


def test_prune_goes_through_a_batch_in_steps(database: Database) -> None:
    batch = _over(database, new_key(database), 5)
    _age(database, batch_rows, 1100.0)
    for left, there in ((3, 1), (1, 1), (0, 0)):
        with database.write() as tx:
            sweep.prune(tx, retention_seconds=KEEP.seconds, idempotency_seconds=1e6, limit=2)
        assert (len(_there(database)), len(_there(database, batch_rows))) == (left, there), batch.id


@pytest.mark.parametrize("what", ["jobs", "batch"])
def test_any_number_of_schedulers_tell_once(database: Database, what: str) -> None:
    key_id = new_key(database)
    if what == "jobs":
        for _ in range(6):
            brought(database, key_id, State.SUCCEEDED)
        _age(database, jobs, 800.0)
    else:
        more = {"callback": {"url": RECEIVER}}
        _over(database, key_id, 6, job=more, **more, template={"work": more})
        _age(database, batch_rows, 800.0)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(_tell, database, KEEP, 2) for _ in range(4)]:
            done.result(60)
    told = [(event, body["data"]["id"]) for event, body in _told(database)]
    assert len(told) == len(set(told)) == (6 if what == "jobs" else 7)


# --- Uploads ----------------------------------------------------------------------------------------------------------


def _upload(database: Database, key_id: str, age: float, *, ready: bool = True) -> str:
    upload_id = uploads.new_id()
    with database.write() as tx:
        uploads.create(
            tx, upload_id, key_id, f"uploads/{key_id}/{upload_id}", filename="a.wav", content_type="audio/wav", size=9,
            sha256=None, ready=ready,
        )  # fmt: skip
        tx.execute(update(upload_rows).where(upload_rows.c.id == upload_id).values(created_at=tx.now(-age)))
    return upload_id


def test_an_upload_stays_as_long_as_a_job_that_reads_it(database: Database) -> None:
    """A batch may wait for weeks, and what failed may be retried as long as it is there."""
    key_id = new_key(database)
    read, twice, unread = (_upload(database, key_id, 5000.0) for _ in range(3))
    job = submitted(database, key_id, input={"upload": read})
    two = {"kind": "segmentation", "input": None, "inputs": [{"upload": twice}, {"upload": twice}]}
    submitted(database, key_id, **two, params={"mode": "automatic"})
    batch = made(database, key_id, 2, job={"input": {"upload": read}})
    _prune(database)
    assert _there(database, upload_rows) == {read, twice} and unread
    with database.write() as tx:
        finish.cancel(tx, job.id)
        sweep.remove(tx, job.id)
    _prune(database)
    assert _there(database, upload_rows) == {read, twice}, "the batch reads it too"
    with database.write() as tx:
        steering.cancel(tx, batch.id)
        steering.cancel_some(tx, batch.id)
    _prune(database)
    assert _there(database, upload_rows) == {read, twice}, "it may be retried"
    _age(database, batch_rows, 1100.0)
    _prune(database, warning_seconds=0.0)
    assert _there(database, upload_rows) == {twice}


def test_nobody_keeps_anothers_upload_by_naming_it(database: Database) -> None:
    upload_id = _upload(database, new_key(database), 5000.0)
    submitted(database, new_key(database), input={"upload": upload_id})
    _prune(database)
    assert _there(database, upload_rows) == set()


def test_an_announced_upload_whose_bytes_never_came_goes_sooner(database: Database) -> None:
    key_id = new_key(database)
    old = _upload(database, key_id, sweep.ABANDONED_SECONDS + 10.0, ready=False)
    young, ready = _upload(database, key_id, 10.0, ready=False), _upload(database, key_id, 1e6)
    with database.write() as tx:
        sweep.prune(tx, retention_seconds=1e7, idempotency_seconds=1e7)
    assert _there(database, upload_rows) == {young, ready} and old


def test_a_job_that_comes_for_an_upload_while_it_is_pruned(postgres_database: Database) -> None:
    """Either the job finds it gone, or the upload stays."""
    database = postgres_database
    key_id = new_key(database)
    ids = [_upload(database, key_id, 5000.0) for _ in range(12)]

    def come(upload_id: str) -> bool:
        with database.write() as tx:
            submit.submit(tx, key_id, entries(1, input={"upload": upload_id})[0].request, default_quota=QUOTA)
            return uploads.get(tx, upload_id, key_id) is not None

    with ThreadPoolExecutor(6) as pool:
        pruned = [pool.submit(_prune, database) for _ in range(3)]
        found = dict(zip(ids, pool.map(come, ids), strict=True))
        for done in pruned:
            done.result(60)
    there = _there(database, upload_rows)
    assert {upload_id for upload_id, seen in found.items() if seen} <= there
