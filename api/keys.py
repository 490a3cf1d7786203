"""API keys: made and revoked by an admin."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api import schemas
from api.context import caller, service
from api.operations import Answer, Resource
from common.db import keys
from common.db.keys import Key, Scope
from common.errors import NightshiftError
from common.jobs import quota

resource = Resource("keys", "Keys", "Who may do what")


MaxWaiting = Annotated[int | None, Field(ge=1, le=2**31 - 1, description="Quota of unfinished jobs; null: the default")]
MaxAudioHours = Annotated[
    float | None,
    Field(ge=0, le=1e6, allow_inf_nan=False, description="Quota of hours of audio, by UTC's days; null: the default"),
]
MaxBytes = Annotated[int | None, Field(ge=0, le=2**53, description="Quota of bytes in the store; null: the default")]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False, description="Share of the workers")]


class KeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
    scopes: list[Scope] = Field([Scope.READ, Scope.WRITE], min_length=1, max_length=3)
    max_waiting: MaxWaiting = None
    max_audio_hours_per_day: MaxAudioHours = None
    max_bytes: MaxBytes = None
    weight: Weight = 1.0


class KeyChange(BaseModel):
    """What is to change; a quota that is null becomes the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_waiting: MaxWaiting = None
    max_audio_hours_per_day: MaxAudioHours = None
    max_bytes: MaxBytes = None
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _some(self) -> KeyChange:
        if not self.model_fields_set:
            raise ValueError("name at least one thing to change")
        return self


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
            tx,
            body.name,
            frozenset(body.scopes),
            max_waiting=body.max_waiting,
            max_audio_hours_per_day=body.max_audio_hours_per_day,
            max_bytes=body.max_bytes,
            weight=body.weight,
        )
    return schemas.NewKey(**key_view(key).model_dump(), token=token), 201, {"Cache-Control": "no-store"}


@resource.operation(
    "GET", "/v1/keys/me", "Get the key in use", scope=Scope.READ, answers={200: Answer("The key", schemas.OwnKey)}
)
def get_own_key() -> Any:
    """The key that this request was made with, and what it uses of its quotas."""
    key = caller()
    own = key.quotas(service().settings.quotas)
    with service().database.read() as tx:
        used = quota.used(tx, key.id, own)
    return schemas.OwnKey(
        **key_view(key).model_dump(),
        usage=schemas.Usage(
            unfinished=used.unfinished,
            max_waiting=own.max_waiting,
            audio_hours_today=round(used.audio_seconds / 3600, 3),
            max_audio_hours_per_day=own.max_audio_hours_per_day,
            held_until=used.held_until,
            bytes_stored=used.bytes,
            max_bytes=own.max_bytes,
        ),
    )


@resource.operation(
    "PATCH",
    "/v1/keys/{key_id}",
    "Change a key",
    scope=Scope.ADMIN,
    body=KeyChange,
    answers={200: Answer("The key", schemas.Key)},
)
def change_key(key_id: str, body: KeyChange) -> Any:
    """Sets its quotas and its weight; what is not named stays. Jobs that are accepted already go on."""
    with service().database.write() as tx:
        key = keys.change(tx, key_id, body.model_dump(include=body.model_fields_set))
    if key is None:
        raise NightshiftError("not_found", "There is no such key.")
    return key_view(key)


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
        max_audio_hours_per_day=key.max_audio_hours_per_day,
        max_bytes=key.max_bytes,
        weight=key.weight,
        created_at=key.created_at,
        used_at=key.used_at,
        revoked_at=key.revoked_at,
    )
