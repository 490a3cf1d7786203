"""Who calls, and whether that key may do this."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import request

from api.context import service
from common.db import keys
from common.db.keys import Key, Scope
from common.errors import NightshiftError

_HINT = "Send the header `Authorization: Bearer ns_…`; `nightshift key create` makes a key."


def authenticate() -> Key:
    """The key in the Authorization header. Raises `unauthenticated`, in the same words for unknown and revoked ones."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NightshiftError("unauthenticated", "The request has no bearer key.", hint=_HINT)
    database = service().database
    with database.read() as tx:
        key = keys.by_token(tx, token.strip())
    if key is None:
        raise NightshiftError("unauthenticated", "The key is unknown or was revoked.", hint=_HINT)
    # The database decides by its own clock whether to write; this spares it a write on every request.
    if key.used_at is None or datetime.now(UTC) - key.used_at > timedelta(minutes=1):
        with database.write() as tx:
            keys.used(tx, key.id)
    return key


def may(key: Key, scope: Scope) -> bool:
    """admin implies read and write; neither of these implies the other: a key may drop jobs off and see none."""
    return scope in key.scopes or Scope.ADMIN in key.scopes


def require(key: Key, scope: Scope) -> None:
    """Raises `forbidden`."""
    if not may(key, scope):
        raise NightshiftError(
            "forbidden",
            f"This needs the scope {scope}; the key has {', '.join(sorted(key.scopes)) or 'none'}.",
            hint="Use a key with that scope, or ask the operator for one.",
        )
