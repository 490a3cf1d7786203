"""Batches for tests: made by the verbs themselves, as the intake makes them."""

from __future__ import annotations

from typing import Any

from common.db.engine import Database
from common.jobs import batch_query, batches, claiming, queueing
from common.jobs.batch import Batch
from common.jobs.batches import Entry, NewBatch
from common.jobs.job import Job
from tests.jobs import LEASE, QUOTA, request

ALWAYS = "00:00-24:00 UTC"
NIGHTLY = "22:00-06:00 Europe/Madrid"


def entries(count: int, start: int = 1, name: str = "nightly", **members: Any) -> list[Entry]:
    asked = request(**{"priority": "batch", "callback": None, **members}).model_copy(update={"batch": name})
    return [Entry(n, asked, fields={"title": f"Episode {n}"}) for n in range(start, start + count)]


def created(database: Database, key_id: str, **members: Any) -> Batch:
    """A batch that is to be prepared."""
    with database.write() as tx:
        new = NewBatch(**{"name": "nightly", "source": {}, "template": {}, "digest": "digest", **members})
        return batches.create(tx, key_id, new)[0]


def made(database: Database, key_id: str, count: int = 3, job: dict[str, Any] | None = None, **members: Any) -> Batch:
    """An active batch of `count` jobs; job: members of each one's request."""
    batch = created(database, key_id, **members)
    with database.write() as tx:
        if count:
            batch = batches.take_in(
                tx, batch, entries(count, name=batch.name, **(job or {})), default_quota=QUOTA, lease_seconds=LEASE
            )
        return batches.activate(tx, batch)


def look(database: Database, batch_id: str) -> Batch:
    with database.read() as tx:
        batch = batch_query.get(tx, batch_id)
    assert batch is not None
    return batch


def items(database: Database, batch_id: str) -> list[Job]:
    with database.read() as tx:
        return batch_query.items(tx, batch_id, after=0, limit=10_000)


def start(database: Database, worker: str = "w1") -> Job | None:
    """Releases what may be released, and claims the next job."""
    with database.write() as tx:
        queueing.recall(tx)
        queueing.fill(tx, "cpu", 1, LEASE)
    with database.write() as tx:
        return claiming.claim(tx, worker, ["cpu"], LEASE)
