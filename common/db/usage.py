"""A ledger of what each key uses: bytes in the store, and audio by day. What a key has is the sum of its entries.

An entry is written in the transaction that stores, deletes or computes. Nobody locks or changes one, so two ends of one
key's jobs never wait for each other; the scheduler puts one entry in the place of many, so that a sum stays cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from common.db.engine import Tx
from common.db.tables import usage
from common.quotas import midnight

# As many entries as a key may have for ever: what is of today, and the rest.
_FOLDED = 2
# What is left is folded the next time.
_AT_ONCE = 10_000


def add(tx: Tx, key_id: str, *, bytes: int = 0, audio_seconds: float = 0.0) -> None:
    """Notes that bytes came into the store (or, below 0, went), and that audio was worked on now."""
    milliseconds = round(audio_seconds * 1000)
    if bytes or milliseconds:
        tx.execute(insert(usage).values(key_id=key_id, at=tx.now(), bytes=bytes, audio_ms=milliseconds))


def removed(tx: Tx, sizes: Iterable[tuple[str, int]]) -> None:
    """Notes that bytes went out of the store, each of a key."""
    by_key: dict[str, int] = {}
    for key_id, size in sizes:
        by_key[key_id] = by_key.get(key_id, 0) + size
    for key_id, total in by_key.items():
        add(tx, key_id, bytes=-total)


def stored(tx: Tx, key_id: str) -> int:
    """Bytes that a key has in the store."""
    total = select(func.coalesce(func.sum(usage.c.bytes), 0)).where(usage.c.key_id == key_id)
    return int(tx.execute(total).scalar_one())


def audio_seconds(tx: Tx, key_ids: Iterable[str], now: datetime) -> Mapping[str, float]:
    """Seconds of audio that were worked on for these keys on the day of `now`; keys without any are left out."""
    rows = tx.execute(
        select(usage.c.key_id, func.sum(usage.c.audio_ms).label("total"))
        .where(usage.c.key_id.in_(sorted(key_ids)), usage.c.at >= midnight(now))
        .group_by(usage.c.key_id)
    )
    return {row.key_id: int(row.total) / 1000 for row in rows}


def fold(tx: Tx, limit: int = 100) -> int:
    """Puts one entry in the place of many, for up to `limit` keys; how many entries went. Audio of earlier days is
    forgotten."""
    full = select(usage.c.key_id).group_by(usage.c.key_id).having(func.count() > _FOLDED).limit(limit)
    key_ids = list(tx.execute(full).scalars())
    if not key_ids:
        return 0
    today = midnight(tx.instant())
    locked = select(usage).where(usage.c.key_id.in_(key_ids)).order_by(usage.c.id).limit(_AT_ONCE)
    entries = tx.execute(locked.with_for_update(skip_locked=True)).all()
    sums: dict[tuple[str, bool], list[int]] = {}
    for entry in entries:
        total = sums.setdefault((entry.key_id, entry.at >= today), [0, 0])
        total[0] += entry.bytes
        total[1] += entry.audio_ms
    latest = {(entry.key_id, entry.at >= today): entry.at for entry in sorted(entries, key=lambda entry: entry.at)}
    tx.execute(delete(usage).where(usage.c.id.in_([entry.id for entry in entries])))
    kept = [
        {"key_id": key_id, "at": latest[key_id, is_today], "bytes": total[0], "audio_ms": total[1] if is_today else 0}
        for (key_id, is_today), total in sums.items()
        if total[0] or (is_today and total[1])
    ]
    if kept:
        tx.execute(insert(usage), kept)
    return len(entries) - len(kept)
