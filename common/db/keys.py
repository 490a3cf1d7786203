"""API keys: stored hashed, shown once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, insert, or_, select, update
from ulid import ULID

from common.db.engine import Tx
from common.db.tables import keys
from common.quotas import Quotas


class Scope(StrEnum):
    """read: look at one's own jobs.  write: submit, cancel, delete.  admin: keys, workers, everybody's queue."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Key:
    """Who calls, and what that key may do. The token itself is not kept."""

    id: str
    name: str
    scopes: frozenset[Scope]
    max_waiting: int | None
    max_audio_hours_per_day: float | None
    max_bytes: int | None
    weight: float
    created_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None

    def quotas(self, default: Quotas) -> Quotas:
        """Its own, and the default for what it has none of."""
        return default.but(
            max_waiting=self.max_waiting,
            max_audio_hours_per_day=self.max_audio_hours_per_day,
            max_bytes=self.max_bytes,
        )


def create(
    tx: Tx, name: str, scopes: Collection[Scope], *, max_waiting: int | None = None,
    max_audio_hours_per_day: float | None = None, max_bytes: int | None = None, weight: float = 1.0,
) -> tuple[Key, str]:  # fmt: skip
    """A new key and its token, which is shown this once. The token holds 256 random bits, so a plain SHA-256 of it is
    safe to store and quick to look up."""
    token = f"ns_{secrets.token_urlsafe(32)}"
    row = tx.execute(
        insert(keys)
        .values(
            id=f"key_{ULID()}",
            name=name,
            hash=_hash(token),
            scopes=sorted(scopes),
            max_waiting=max_waiting,
            max_audio_hours_per_day=max_audio_hours_per_day,
            max_bytes=max_bytes,
            weight=weight,
            created_at=tx.now(),
        )
        .returning(keys)
    ).one()
    return _from_row(row), token


def by_token(tx: Tx, token: str) -> Key | None:
    """The key a token stands for; None where it is unknown or revoked."""
    row = tx.execute(select(keys).where(keys.c.hash == _hash(token), keys.c.revoked_at.is_(None))).one_or_none()
    return _from_row(row) if row is not None else None


def used(tx: Tx, key_id: str) -> None:
    """Notes that a key was used, at most once a minute."""
    recent = or_(keys.c.used_at.is_(None), keys.c.used_at < tx.now(-60.0))
    tx.execute(update(keys).where(keys.c.id == key_id, recent).values(used_at=tx.now()))


def list_all(tx: Tx) -> list[Key]:
    return [_from_row(row) for row in tx.execute(select(keys).order_by(keys.c.id))]


def change(tx: Tx, key_id: str, values: Mapping[str, Any]) -> Key | None:
    """Sets a key's quotas and weight, by their names; None where there is no such key."""
    row = tx.execute(update(keys).where(keys.c.id == key_id).values(**values).returning(keys)).one_or_none()
    return _from_row(row) if row is not None else None


def revoke(tx: Tx, key_id: str) -> Key | None:
    """Ends a key; its jobs go on. None where there is no such key."""
    row = tx.execute(
        update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=tx.now()).returning(keys)
    ).one_or_none()
    if row is None:
        row = tx.execute(select(keys).where(keys.c.id == key_id)).one_or_none()
    return _from_row(row) if row is not None else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _from_row(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        max_waiting=row.max_waiting,
        max_audio_hours_per_day=row.max_audio_hours_per_day,
        max_bytes=row.max_bytes,
        weight=row.weight,
        created_at=row.created_at,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
    )
