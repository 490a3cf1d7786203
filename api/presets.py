"""Presets: named parameters, in versions."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import IntegrityError

from api import schemas
from api.batch_view import preset_view
from api.context import caller, service
from api.operations import Answer, Resource
from api.parsing import invalid
from common.db import presets
from common.db.keys import Scope
from common.engines import Kind, lookup
from common.errors import NightshiftError
from common.params import TO_COME, parse_request
from common.presets import NAME

resource = Resource("presets", "Presets", "Named parameters for jobs and batches")


class PresetRequest(BaseModel):
    """What a request that names the preset need not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field("", max_length=500)
    kind: Kind = Kind.SEPARATION
    engine: str | None = Field(None, max_length=64)
    params: dict[str, Any] = Field(min_length=1, description="Any of the kind's parameters")


@resource.operation(
    "GET",
    "/v1/presets",
    "List presets",
    scope=Scope.READ,
    answers={200: Answer("The newest version of each", schemas.PresetList)},
)
def list_presets() -> Any:
    """The key's own, and those built in."""
    with service().database.read() as tx:
        return schemas.PresetList(items=[preset_view(preset) for preset in presets.listed(tx, caller().id)])


@resource.operation(
    "GET",
    "/v1/presets/{name}",
    "Get a preset",
    scope=Scope.READ,
    answers={200: Answer("The preset", schemas.Preset)},
)
def get_preset(name: str) -> Any:
    """Its newest version; an older one by `name@version`."""
    with service().database.read() as tx:
        return preset_view(_get(tx, name))


@resource.operation(
    "PUT",
    "/v1/presets/{name}",
    "Keep a preset",
    scope=Scope.WRITE,
    body=PresetRequest,
    answers={201: Answer("Its new version", schemas.Preset)},
    errors=("unknown_engine", "engine_unsupported", "state_conflict"),
)
def put_preset(name: str, body: PresetRequest) -> Any:
    """Makes a new version; jobs and batches made before keep theirs. One's own preset goes before one built in."""
    if not re.fullmatch(NAME, name):
        raise NightshiftError(
            "invalid_request", f"{name[:80]!r} is no name for a preset.", hint="Use a-z, 0-9, - and _, at most 64."
        )
    if body.engine is not None:
        lookup(body.engine, body.kind)
    work = body.model_dump(mode="json", exclude={"description"}, exclude_none=True)
    _check(work)
    try:
        with service().database.write() as tx:
            made = presets.put(tx, caller().id, name, body.description, work)
    except IntegrityError as error:
        raise NightshiftError("state_conflict", "Somebody else kept it just now.", retryable=True) from error
    return preset_view(made), 201


@resource.operation(
    "DELETE",
    "/v1/presets/{name}",
    "Give a preset up",
    scope=Scope.WRITE,
    answers={204: Answer("The name is free; jobs that name a version keep it")},
)
def delete_preset(name: str) -> Any:
    """One's own; one built in that it stood before is there again."""
    with service().database.write() as tx:
        if not presets.retire(tx, caller().id, name):
            raise NightshiftError("not_found", "There is no such preset of yours.")
    return None, 204


def _check(work: dict[str, Any]) -> None:
    """Raises `invalid_request`, `engine_unsupported` for parameters that would be wrong in every request."""
    body = {**work, "input": {"url": "https://media.example/"}}
    try:
        asked = parse_request(body)
        if "engine" in work:
            asked.spec()
    except ValidationError as error:
        # What is missing is for the request to say that names the preset; and so may be what does not go with it.
        to_come = TO_COME | {"value_error"}
        wrong = [one for one in error.errors() if one["type"] not in to_come and "params" in one["loc"]]
        if wrong:
            raise invalid(wrong, body) from error


def _get(tx: Any, name: str) -> Any:
    try:
        return presets.get(tx, caller().id, name)
    except NightshiftError as error:
        raise NightshiftError("not_found", error.detail, hint=error.hint) from error
