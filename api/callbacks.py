"""Callbacks: the log of what was sent, sending again, testing an address, and the secrets that sign."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api import schemas
from api.context import caller, service
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from common.db.engine import Tx
from common.db.keys import Scope
from common.errors import NightshiftError
from common.jobs import callbacks
from common.jobs.callbacks import Callback

resource = Resource("callbacks", "Callbacks", "Signed messages after Standard Webhooks, sent when a job ends")


class CallbackQuery(PageQuery):
    job: str | None = Field(None, max_length=64, description="Only those of this job")
    state: Literal["pending", "delivered", "failed", "disabled"] | None = None


class CallbackTest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(max_length=2048, pattern=r"^https?://[^/\s]+", description="Gets a signed POST")


class Rotation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap_seconds: int = Field(86400, ge=0, le=30 * 86400, description="How long the old secret signs beside the new")


@resource.operation(
    "GET",
    "/v1/callbacks",
    "List callbacks",
    scope=Scope.READ,
    query=CallbackQuery,
    answers={200: Answer("A page of callbacks", schemas.CallbackPage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_callbacks(query: CallbackQuery) -> Any:
    """What was sent or is to be sent for the key's jobs, newest first, with every try."""
    before = query.before("callbacks")
    with service().database.read() as tx:
        found = callbacks.log(
            tx, caller().id, before=before, limit=query.limit + 1, job_id=query.job, state=query.state
        )
        items, cursor, link = cut("callbacks", query, found)
        views = _views(tx, items)
    return schemas.CallbackPage(items=views, next=cursor), 200, link


@resource.operation(
    "GET",
    "/v1/callbacks/secret",
    "Get the signing secrets",
    scope=Scope.WRITE,
    answers={200: Answer("The secrets", schemas.Secrets)},
)
def get_callback_secret() -> Any:
    """Receivers verify signatures with these, by any Standard Webhooks library."""
    with service().database.read() as tx:
        found = callbacks.secrets(tx, service().signing_key, caller().id)
    return schemas.Secrets(secrets=found), 200, {"Cache-Control": "no-store"}


@resource.operation(
    "POST",
    "/v1/callbacks/secret/rotate",
    "Rotate the signing secret",
    scope=Scope.WRITE,
    body=Rotation,
    answers={200: Answer("The secrets, the new one first", schemas.Secrets)},
)
def rotate_callback_secret(body: Rotation) -> Any:
    """A new secret. Until the overlap ends, messages carry a signature by each."""
    with service().database.write() as tx:
        callbacks.rotate_secret(tx, service().signing_key, caller().id, body.overlap_seconds)
        found = callbacks.secrets(tx, service().signing_key, caller().id)
    return schemas.Secrets(secrets=found), 200, {"Cache-Control": "no-store"}


@resource.operation(
    "POST",
    "/v1/callbacks/test",
    "Send a test callback",
    scope=Scope.WRITE,
    body=CallbackTest,
    answers={202: Answer("It is on its way", schemas.CallbackLog, headers={"Location": "Its log"})},
    errors=("url_forbidden",),
)
def test_callback(body: CallbackTest) -> Any:
    """Sends a `test` event the way that callbacks of jobs are sent; its log shows how the receiver answered."""
    service().guard.check_url(body.url, "/url")
    with service().database.write() as tx:
        at = tx.instant().isoformat().replace("+00:00", "Z")
        message = {"type": "test", "timestamp": at, "data": {"message": "Callbacks from Nightshift arrive here."}}
        callback_id = callbacks.put(tx, caller().id, body.url, "test", json.dumps(message, separators=(",", ":")))
        view = _views(tx, [_find(tx, callback_id)])[0]
    return view, 202, {"Location": f"/v1/callbacks/{callback_id}"}


@resource.operation(
    "GET",
    "/v1/callbacks/{callback_id}",
    "Get a callback",
    scope=Scope.READ,
    answers={200: Answer("The callback", schemas.CallbackLog)},
)
def get_callback(callback_id: str) -> Any:
    """A callback with every try."""
    with service().database.read() as tx:
        return _views(tx, [_find(tx, callback_id)])[0]


@resource.operation(
    "POST",
    "/v1/callbacks/{callback_id}/replay",
    "Send a callback again",
    scope=Scope.WRITE,
    answers={202: Answer("It is on its way", schemas.CallbackLog)},
)
def replay_callback(callback_id: str) -> Any:
    """Under the same id, with the same body. An address that was disabled is enabled again."""
    with service().database.write() as tx:
        found = callbacks.replay(tx, callback_id, caller().id)
        if found is None:
            raise NightshiftError("not_found", "There is no such callback.")
        return _views(tx, [found])[0], 202


def _find(tx: Tx, callback_id: str) -> Callback:
    found = callbacks.get(tx, callback_id, caller().id)
    if found is None:
        raise NightshiftError("not_found", "There is no such callback.")
    return found


def _views(tx: Tx, found: list[Callback]) -> list[schemas.CallbackLog]:
    tries = callbacks.tries_of(tx, [callback.id for callback in found])
    return [
        schemas.CallbackLog(
            id=callback.id,
            event=callback.event,
            job=callback.job_id,
            url=callback.url,
            state=callback.state,
            next_at=callback.next_at,
            created_at=callback.created_at,
            delivered_at=callback.delivered_at,
            tries=[schemas.Try(**{name: one[name] for name in schemas.Try.model_fields}) for one in tries[callback.id]],
        )
        for callback in found
    ]
