"""Uploads: files a caller has sent, or is about to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select, update
from ulid import ULID

from common.db import usage
from common.db.engine import Tx
from common.db.tables import upload_uses, uploads


@dataclass(frozen=True)
class Upload:
    """size: declared bytes.  sha256: hex, as declared or as seen while the bytes passed; None where neither."""

    id: str
    key_id: str
    storage_key: str
    filename: str
    content_type: str
    size: int
    sha256: str | None
    state: str
    created_at: datetime


def new_id() -> str:
    return f"upl_{ULID()}"


def create(
    tx: Tx, upload_id: str, key_id: str, storage_key: str, *, filename: str, content_type: str, size: int,
    sha256: str | None, ready: bool,
) -> Upload:  # fmt: skip
    row = tx.execute(
        insert(uploads)
        .values(
            id=upload_id,
            key_id=key_id,
            storage_key=storage_key,
            filename=filename,
            content_type=content_type,
            size=size,
            sha256=sha256,
            state="ready" if ready else "pending",
            created_at=tx.now(),
        )
        .returning(uploads)
    ).one()
    # From the announcement on: else many at once would pass any quota.
    usage.add(tx, key_id, bytes=size)
    return Upload(**row._mapping)


def get(tx: Tx, upload_id: str, key_id: str) -> Upload | None:
    row = tx.execute(select(uploads).where(uploads.c.id == upload_id, uploads.c.key_id == key_id)).one_or_none()
    return Upload(**row._mapping) if row is not None else None


def ready_names(tx: Tx, key_id: str, upload_ids: Sequence[str]) -> dict[str, str]:
    """File names of those uploads of a key whose bytes are there."""
    rows = tx.execute(
        select(uploads.c.id, uploads.c.filename).where(
            uploads.c.id.in_(upload_ids), uploads.c.key_id == key_id, uploads.c.state == "ready"
        )
    )
    return {row.id: row.filename for row in rows}


def ready(tx: Tx, upload_id: str, size: int, sha256: str | None) -> Upload:
    """Notes that the bytes are there."""
    announced = tx.execute(select(uploads.c.size).where(uploads.c.id == upload_id).with_for_update()).scalar_one()
    row = tx.execute(
        update(uploads)
        .where(uploads.c.id == upload_id)
        .values(state="ready", size=size, sha256=sha256)
        .returning(uploads)
    ).one()
    usage.add(tx, row.key_id, bytes=size - announced)
    return Upload(**row._mapping)


def use(tx: Tx, key_id: str, uses: Sequence[tuple[str, str]]) -> None:
    """Notes which jobs read which uploads of a key, as (job, upload): those are kept as long as the jobs are.

    Uploads that are not there are passed over.
    """
    wanted = sorted({upload_id for _, upload_id in uses})
    # Locked, so that none is pruned between this look and our commit.
    there = select(uploads.c.id).where(uploads.c.id.in_(wanted), uploads.c.key_id == key_id).order_by(uploads.c.id)
    found = set(tx.execute(there.with_for_update(read=True, key_share=True)).scalars()) if wanted else set()
    rows = [{"job_id": job_id, "upload_id": upload_id} for job_id, upload_id in sorted(set(uses)) if upload_id in found]
    if rows:
        tx.execute(insert(upload_uses), rows)


def page(tx: Tx, key_id: str, *, before: str | None, limit: int) -> list[Upload]:
    """A key's uploads, newest first, before the id `before`."""
    query = select(uploads).where(uploads.c.key_id == key_id)
    if before is not None:
        query = query.where(uploads.c.id < before)
    return [Upload(**row._mapping) for row in tx.execute(query.order_by(uploads.c.id.desc()).limit(limit))]
