"""API keys: made and revoked by an admin."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api import schemas
from api.context import caller, service
from api.operations import Answer, Resource
from common.db import keys
from common.db.keys import Key, Scope
from common.errors import NightshiftError

resource = Resource("keys", "Keys", "Who may do what")


class KeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
    scopes: list[Scope] = Field([Scope.READ, Scope.WRITE], min_length=1, max_length=3)
    max_waiting: int | None = Field(None, ge=1, le=2**31 - 1, description="Quota of unfinished jobs; null: the default")
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False, description="Share of the workers")


@resource.operation(
    "GET", "/v1/keys", "List keys", scope=Scope.ADMIN, answers={200: Answer("The keys", schemas.KeyList)}
)
def list_keys() -> Any:
    """All keys, oldest first, with those that were revoked. Tokens cannot be read again."""
    with service().database.read() as tx:
        found = keys.list_all(tx)
    return schemas.KeyList(items=[key_view(key) for key in found])


@resource.operation(
    "POST",
    "/v1/keys",
    "Make a key",
    scope=Scope.ADMIN,
    body=KeyRequest,
    answers={201: Answer("The key, with its token", schemas.NewKey)},
)
def create_key(body: KeyRequest) -> Any:
    """The token is in this answer and nowhere else."""
    with service().database.write() as tx:
        key, token = keys.create(
            tx, body.name, frozenset(body.scopes), max_waiting=body.max_waiting, weight=body.weight
        )
    return schemas.NewKey(**key_view(key).model_dump(), token=token), 201, {"Cache-Control": "no-store"}


@resource.operation(
    "GET", "/v1/keys/me", "Get the key in use", scope=Scope.READ, answers={200: Answer("The key", schemas.Key)}
)
def get_own_key() -> Any:
    """The key that this request was made with."""
    return key_view(caller())


@resource.operation(
    "DELETE",
    "/v1/keys/{key_id}",
    "Revoke a key",
    scope=Scope.ADMIN,
    answers={200: Answer("The key, revoked", schemas.Key)},
)
def revoke_key(key_id: str) -> Any:
    """Ends a key at once. Its jobs go on, its files stay until they are due."""
    with service().database.write() as tx:
        key = keys.revoke(tx, key_id)
    if key is None:
        raise NightshiftError("not_found", "There is no such key.")
    return key_view(key)


def key_view(key: Key) -> schemas.Key:
    return schemas.Key(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        max_waiting=key.max_waiting,
        weight=key.weight,
        created_at=key.created_at,
        used_at=key.used_at,
        revoked_at=key.revoked_at,
    )
