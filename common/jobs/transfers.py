"""The outbox of results on their way into buckets of their owners: a row a job, carried by `worker.transfer`.

Rows are locked in one order: a job's, its batch's, its transfer's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from common.db.engine import Tx
from common.db.tables import batches, jobs, transfers
from common.jobs import tally
from common.jobs.batch import Batch
from common.jobs.job import Brief, Job
from common.states import State

CHUNK = 500


@dataclass(frozen=True)
class Transfer:
    """The delivery of a job's results. bytes: of all that lies in the bucket, once it is done."""

    job_id: str
    batch_id: str
    item: int
    bucket: str
    state: str
    tries: int
    next_at: datetime | None
    bytes: int | None
    error: Mapping[str, Any] | None
    created_at: datetime
    ended_at: datetime | None


def enqueue(tx: Tx, job: Brief) -> None:
    """Writes down that the results of a job are to be delivered, where it has some and its batch asks for it."""
    if job.batch_id is None or job.state is not State.SUCCEEDED:
        return
    deliver = tx.execute(
        update(batches)
        .where(batches.c.id == job.batch_id, batches.c.deliver.is_not(None))
        .values(delivering=batches.c.delivering + 1)
        .returning(batches.c.deliver)
    ).scalar_one_or_none()
    if deliver is not None:
        bucket = deliver["to"].removeprefix("s3://").partition("/")[0]
        tx.execute(
            insert(transfers).values(
                job_id=job.id, batch_id=job.batch_id, item=job.batch_item, bucket=bucket, state="pending",
                next_at=tx.now(), created_at=tx.now(),
            )
        )  # fmt: skip


def due(
    tx: Tx, limit: int, hold_seconds: float, *, per_bucket: int, busy: Mapping[str, int] | None = None
) -> list[Transfer]:
    """Transfers to try now, held for `hold_seconds`: a deliverer that dies leaves them to the next one.

    At most `per_bucket` for one bucket at a time, those included that are `busy` at it already, so that one that is
    slow keeps no other waiting. The cost does not grow with what waits.
    """
    found: list[str] = []
    for bucket in _buckets(tx):
        places = min(per_bucket - (busy or {}).get(bucket, 0), limit - len(found))
        if places > 0:
            query = (
                select(transfers.c.job_id)
                .where(transfers.c.bucket == bucket, _due(tx))
                .order_by(transfers.c.next_at, transfers.c.job_id)
                .limit(places)
                .with_for_update(skip_locked=True)
            )
            found += tx.execute(query).scalars()
    if not found:
        return []
    rows = tx.execute(
        update(transfers)
        .where(transfers.c.job_id.in_(found), _due(tx))
        .values(next_at=tx.now(hold_seconds), tries=transfers.c.tries + 1)
        .returning(transfers)
    )
    return sorted(map(_read, rows), key=lambda transfer: transfer.job_id)


def _due(tx: Tx) -> ColumnElement[bool]:
    return and_(transfers.c.state == "pending", transfers.c.next_at <= tx.now())


def _buckets(tx: Tx) -> Iterator[str]:
    """Those that something is to be brought to: a step along the index each."""
    last = ""
    while True:
        after = select(func.min(transfers.c.bucket)).where(transfers.c.state == "pending", transfers.c.bucket > last)
        found = tx.execute(after).scalar_one()
        if found is None:
            return
        yield found
        last = found


def hold(tx: Tx, carried: Collection[Transfer], hold_seconds: float) -> None:
    """Says that these are still being carried."""
    for transfer in sorted(carried, key=lambda one: one.job_id):
        tx.execute(update(transfers).where(_held(transfer)).values(next_at=tx.now(hold_seconds)))


def _held(transfer: Transfer) -> ColumnElement[bool]:
    """One that was taken up again meanwhile by another deliverer is left to that one."""
    return and_(
        transfers.c.job_id == transfer.job_id,
        transfers.c.state == "pending",
        transfers.c.tries == transfer.tries,
    )


def done(tx: Tx, transfer: Transfer, size: int) -> bool:
    """pending -> done: everything lies where it belongs. False where another deliverer has it."""
    return _end(tx, transfer, "done", {"bytes": size, "error": None})


def failed(tx: Tx, transfer: Transfer, error: Mapping[str, Any], next_in: float | None) -> bool:
    """Writes down a try that failed, the next one in `next_in` seconds; None: pending -> failed."""
    if next_in is None:
        return _end(tx, transfer, "failed", {"error": dict(error)})
    again = {"error": dict(error), "next_at": tx.now(next_in)}
    return bool(tx.execute(update(transfers).where(_held(transfer)).values(**again)).rowcount)


def _end(tx: Tx, transfer: Transfer, state: str, values: Mapping[str, Any]) -> bool:
    tx.execute(select(batches.c.id).where(batches.c.id == transfer.batch_id).with_for_update())
    ended = update(transfers).where(_held(transfer)).values(state=state, next_at=None, ended_at=tx.now(), **values)
    if not tx.execute(ended).rowcount:
        return False
    batch = _count(tx, transfer.batch_id, delivering=-1, **{"delivered" if state == "done" else "undelivered": 1})
    tally.delivered(tx, batch)
    return True


def _count(tx: Tx, batch_id: str, **moved: int) -> Batch:
    row = tx.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values(**{name: batches.c[name] + n for name, n in moved.items()}, updated_at=tx.now())
        .returning(batches)
    ).one()
    return Batch.from_row(row)


@dataclass(frozen=True)
class Retried:
    """again: how many are tried again.  last: pass as `after` for the next ones; None where these were the last."""

    again: int
    last: int | None


def retry_some(tx: Tx, batch_id: str, *, after: int = 0, limit: int = CHUNK) -> Retried:
    """failed -> pending: up to `limit` of a batch, after the item `after`."""
    tx.execute(select(batches.c.id).where(batches.c.id == batch_id).with_for_update())
    found = failures(tx, batch_id, after=after, limit=limit)
    if not found:
        return Retried(0, None)
    again = tx.execute(
        update(transfers)
        .where(transfers.c.job_id.in_([one.job_id for one in found]), transfers.c.state == "failed")
        .values(state="pending", next_at=tx.now(), tries=0, error=None, ended_at=None)
    ).rowcount
    _count(tx, batch_id, delivering=again, undelivered=-again)
    return Retried(again, found[-1].item if len(found) == limit else None)


def drop(tx: Tx, job_ids: Collection[str]) -> None:
    """Forgets the transfers of jobs that are about to be deleted; those that were pending count as failed."""
    pending = and_(tx.listed(transfers.c.job_id, job_ids), transfers.c.state == "pending")
    found = tx.execute(select(transfers.c.job_id, transfers.c.batch_id).where(pending)).all()
    if not found:
        return
    for table, ids in ((jobs, {row.job_id for row in found}), (batches, {row.batch_id for row in found})):
        tx.execute(select(table.c.id).where(tx.listed(table.c.id, ids)).order_by(table.c.id).with_for_update())
    gone = Counter(tx.execute(delete(transfers).where(pending).returning(transfers.c.batch_id)).scalars())
    for batch_id, n in sorted(gone.items()):
        tally.delivered(tx, _count(tx, batch_id, delivering=-n, undelivered=n))


def of(tx: Tx, job_ids: Sequence[str]) -> dict[str, Transfer]:
    """The transfers of these jobs, by job."""
    if not job_ids:
        return {}
    return {row.job_id: _read(row) for row in tx.execute(select(transfers).where(transfers.c.job_id.in_(job_ids)))}


def failures(tx: Tx, batch_id: str, *, after: int, limit: int) -> list[Transfer]:
    """A batch's transfers that failed, in the order of its items, after the item `after`."""
    query = (
        select(transfers)
        .where(transfers.c.batch_id == batch_id, transfers.c.state == "failed", transfers.c.item > after)
        .order_by(transfers.c.item)
        .limit(limit)
    )
    return [_read(row) for row in tx.execute(query)]


def undelivered(tx: Tx, batch_id: str, *, after: int, limit: int) -> list[tuple[Job, Transfer]]:
    """The same with their jobs."""
    failed = failures(tx, batch_id, after=after, limit=limit)
    rows = tx.execute(select(jobs).where(jobs.c.id.in_([one.job_id for one in failed])))
    known = {row.id: Job.from_row(row) for row in rows}
    return [(known[one.job_id], one) for one in failed]


def _read(row: Row[Any]) -> Transfer:
    return Transfer(**row._mapping)
