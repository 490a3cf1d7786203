"""The outbox of results on their way into buckets, on both databases: written, held, counted and told."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select, update

from common.batches.control import retry_failed
from common.db.engine import Database
from common.db.tables import batches as batch_rows
from common.db.tables import callbacks, jobs
from common.db.tables import transfers as rows
from common.jobs import figures, finish, sweep, transfers
from common.jobs.batch import Batch
from common.jobs.job import Job
from common.jobs.transfers import Transfer
from tests import batches
from tests.jobs import ERROR, LONG_AGO, QUOTA, RECEIVER, claimed, new_key, result

DELIVER = {"to": "s3://mine/stems/", "overwrite": False, "pictures": False}


@pytest.fixture
def key_id(database: Database) -> str:
    return new_key(database)


def delivering(database: Database, key_id: str, count: int = 3, **members: Any) -> Batch:
    return batches.made(database, key_id, count, deliver=DELIVER, callback={"url": RECEIVER}, **members)


def succeed(database: Database, *found: Job) -> None:
    for job in found:
        lease = claimed(database, job.id).lease
        with database.write() as tx:
            finish.succeed(tx, lease, result())


def take(database: Database, limit: int = 10, hold: float = 60.0, **more: Any) -> list[Transfer]:
    with database.write() as tx:
        return transfers.due(tx, limit, hold, **{"per_bucket": 10, **more})


def end(database: Database, transfer: Transfer, *, done: bool = True) -> bool:
    with database.write() as tx:
        return transfers.done(tx, transfer, 7) if done else transfers.failed(tx, transfer, ERROR, None)


def standing(database: Database) -> figures.Deliveries:
    with database.read() as tx:
        return figures.deliveries(tx, 3600.0)


def told(database: Database) -> list[str]:
    with database.read() as tx:
        return list(tx.execute(select(callbacks.c.event).order_by(callbacks.c.created_at, callbacks.c.id)).scalars())


def counts(database: Database, batch: Batch) -> tuple[int, int, int]:
    now = batches.look(database, batch.id)
    return now.delivering, now.delivered, now.undelivered


def test_what_succeeds_is_to_be_delivered_and_nothing_else(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id)
    first, second, third = batches.items(database, batch.id)
    succeed(database, first, second)
    with database.write() as tx:
        finish.cancel(tx, third.id)
    plain = batches.made(database, key_id, 1)
    succeed(database, *batches.items(database, plain.id))
    assert counts(database, batch) == (2, 0, 0)
    taken = take(database)
    assert {one.job_id for one in taken} == {first.id, second.id}
    assert {(one.bucket, one.tries, one.state) for one in taken} == {("mine", 1, "pending")}
    assert batches.look(database, plain.id).delivery is None


def test_a_result_published_twice_is_delivered_once(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 1)
    lease = claimed(database, batches.items(database, batch.id)[0].id).lease
    for _ in range(2):
        with database.write() as tx:
            finish.succeed(tx, lease, result())
    assert counts(database, batch) == (1, 0, 0)


def test_it_is_told_once_when_all_is_over(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 2)
    first, second = batches.items(database, batch.id)
    succeed(database, first)
    (early,) = take(database)
    assert end(database, early)
    assert told(database) == [], "the other job has not ended"
    succeed(database, second)
    assert told(database) == ["batch.finished"]
    (late,) = take(database)
    assert end(database, late)
    assert not end(database, late), "it has ended"
    assert told(database) == ["batch.finished", "batch.delivered"]
    assert counts(database, batch) == (0, 2, 0)
    with database.read() as tx:
        assert transfers.of(tx, [first.id])[first.id].bytes == 7


def test_a_batch_whose_last_job_fails_is_told_at_its_end(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 2)
    first, second = batches.items(database, batch.id)
    succeed(database, first)
    assert end(database, *take(database), done=False)
    lease = claimed(database, second.id).lease
    with database.write() as tx:
        finish.fail(tx, lease, ERROR)
    assert told(database) == ["batch.finished_with_errors", "batch.delivered_with_errors"]
    assert counts(database, batch) == (0, 0, 1)


def test_a_failed_try_waits_and_is_tried_again(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 1)
    succeed(database, *batches.items(database, batch.id))
    (first,) = take(database)
    assert standing(database) == figures.Deliveries(pending=1, retrying=0, failed=0)
    with database.write() as tx:
        assert transfers.failed(tx, first, ERROR, 60.0)
    assert standing(database) == figures.Deliveries(pending=1, retrying=1, failed=0)
    assert take(database) == []
    with database.write() as tx:
        tx.execute(update(rows).values(next_at=tx.now(-1.0)))
    (again,) = take(database)
    assert (again.tries, again.error) == (2, ERROR)
    assert counts(database, batch) == (1, 0, 0)
    assert told(database) == ["batch.finished"]
    assert end(database, again, done=False)
    assert standing(database) == figures.Deliveries(pending=0, retrying=0, failed=1)
    with database.write() as tx:
        transfers.retry_some(tx, batch.id)
    assert standing(database) == figures.Deliveries(pending=1, retrying=0, failed=0)
    assert end(database, *take(database), done=False)
    with database.write() as tx:
        tx.execute(update(rows).values(ended_at=LONG_AGO))
    assert standing(database) == figures.Deliveries(pending=0, retrying=0, failed=0), "told long ago"


def test_what_a_deliverer_died_on_goes_to_the_next_and_the_dead_ones_word_counts_no_more(
    database: Database, key_id: str
) -> None:
    batch = delivering(database, key_id, 1)
    succeed(database, *batches.items(database, batch.id))
    (dead,) = take(database, hold=-1.0)
    (alive,) = take(database)
    assert take(database) == []
    assert not end(database, dead)
    assert not end(database, dead, done=False)
    with database.write() as tx:
        transfers.hold(tx, [dead], -1.0)
    assert take(database) == [], "only its own deliverer speaks for it"
    with database.write() as tx:
        transfers.hold(tx, [alive], -1.0)
    assert len(take(database)) == 1
    assert counts(database, batch) == (1, 0, 0)


def test_one_bucket_leaves_room_for_others(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 6)
    succeed(database, *batches.items(database, batch.id))
    with database.write() as tx:
        ids = sorted(tx.execute(select(rows.c.job_id)).scalars())
        for bucket, some in (("aside", ids[:1]), ("other", ids[1:2])):
            tx.execute(update(rows).where(rows.c.job_id.in_(some)).values(bucket=bucket))
    taken = take(database, 4, per_bucket=3, busy={"mine": 1})
    assert Counter(one.bucket for one in taken) == {"aside": 1, "mine": 2, "other": 1}
    assert take(database, 4, per_bucket=3, busy={"mine": 3}) == []


def test_two_deliverers_take_each_once(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 12)
    succeed(database, *batches.items(database, batch.id))
    found: list[Transfer] = []

    def run() -> None:
        while taken := take(database, 2):
            found.extend(taken)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found += take(database, 20)
    assert sorted(one.job_id for one in found) == sorted(job.id for job in batches.items(database, batch.id))


def test_failed_ones_are_tried_again_by_the_owner(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 3)
    succeed(database, *batches.items(database, batch.id))
    taken = take(database)
    for transfer in taken:
        end(database, transfer, done=transfer is taken[0])
    assert counts(database, batch) == (0, 1, 2)
    with database.read() as tx:
        found = transfers.undelivered(tx, batch.id, after=0, limit=1)
        found += transfers.undelivered(tx, batch.id, after=found[-1][1].item, limit=9)
    assert [job.batch_item for job, _ in found] == sorted(one.item for one in taken[1:])
    done = retry_failed(database, batch.id, QUOTA)
    assert (done.again, done.deliveries) == (0, 2)
    assert counts(database, batch) == (2, 1, 0)
    for transfer in take(database):
        assert transfer.tries == 1
        end(database, transfer)
    assert counts(database, batch) == (0, 3, 0)
    assert told(database) == ["batch.finished", "batch.delivered_with_errors", "batch.delivered"]


def test_retrying_goes_on_from_where_it_was(database: Database, key_id: str) -> None:
    """One that fails again at once is not met again."""
    batch = delivering(database, key_id, 3)
    succeed(database, *batches.items(database, batch.id))
    for transfer in take(database):
        end(database, transfer, done=False)
    with database.write() as tx:
        step = transfers.retry_some(tx, batch.id, limit=2)
    for transfer in take(database):
        end(database, transfer, done=False)
    with database.write() as tx:
        assert step.last is not None
        rest = transfers.retry_some(tx, batch.id, after=step.last, limit=2)
    assert (step.again, rest.again, rest.last) == (2, 1, None)


@pytest.mark.parametrize("state", ["pending", "done", "failed"])
def test_results_are_kept_while_they_are_to_be_delivered(database: Database, key_id: str, state: str) -> None:
    batch = delivering(database, key_id, 1)
    (job,) = batches.items(database, batch.id)
    succeed(database, job)
    if state != "pending":
        end(database, *take(database), done=state == "done")
    with database.write() as tx:
        tx.execute(update(jobs).values(finished_at=LONG_AGO))
        tx.execute(update(batch_rows).values(finished_at=LONG_AGO))
    with database.write() as tx:
        sweep.prune(tx, retention_seconds=60.0, idempotency_seconds=60.0)
    assert len(batches.items(database, batch.id)) == (1 if state == "pending" else 0)


def test_a_deleted_job_is_not_waited_for(database: Database, key_id: str) -> None:
    batch = delivering(database, key_id, 2)
    first, second = batches.items(database, batch.id)
    succeed(database, first, second)
    taken = {one.job_id: one for one in take(database)}
    end(database, taken[first.id])
    with database.write() as tx:
        assert sweep.remove(tx, second.id)
    assert counts(database, batch) == (0, 1, 1)
    assert told(database) == ["batch.finished", "batch.delivered_with_errors"]
    assert not end(database, taken[second.id])
    with database.write() as tx:
        assert sweep.remove(tx, first.id)
    assert counts(database, batch) == (0, 1, 1)
