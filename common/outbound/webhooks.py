"""Callbacks out, after Standard Webhooks (https://www.standardwebhooks.com): secrets, signatures, one try."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from common.errors import NightshiftError
from common.outbound.backoff import Outcome, judge, retry_after
from common.outbound.deadline import Deadline, DeadlinePassed
from common.outbound.guard import Guard
from common.outbound.transport import FAILURES, exchange

SECRET_BYTES = 32
KEPT_BYTES = 1000


@dataclass(frozen=True)
class Delivery:
    """One try of a callback. status: the HTTP status, None without an answer; then `error` says why.

    retry_after: seconds the receiver asked for.  duration: seconds the try took.  response: first 1,000 bytes, as text.
    """

    status: int | None
    error: str | None
    retry_after: float | None
    duration: float
    response: str = ""

    @property
    def outcome(self) -> Outcome:
        return judge(self.status)


def new_secret() -> str:
    """A fresh signing secret, in the form that every Standard Webhooks library takes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(signing: str | Sequence[str], message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers of a signed message.

    signing: the secret, or the secrets while one replaces another: the message then carries a signature by each.
    message_id: the same at every try.  timestamp: of this try, with its zone.  body: UTF-8.
    Raises ValueError without a secret, for an id with a dot or without characters, or a timestamp without zone.
    """
    known = [signing] if isinstance(signing, str) else list(signing)
    if not known:
        raise ValueError("a message needs at least one secret")
    if not message_id or "." in message_id:
        raise ValueError("a message id is not empty and has no dot: the signed text is split at dots")
    if timestamp.tzinfo is None:
        raise ValueError("a timestamp needs its zone")
    # The library takes any timestamp for UTC.
    moment = timestamp.astimezone(UTC)
    text = body.decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, moment, text) for secret in known),
    }


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout: float, allow_hosts: Iterable[str] = ()
) -> Delivery:
    """One try: posts `body` (JSON) with `headers`, within `timeout` seconds in all. Never raises for the other side.

    Redirects are not followed: the address that was registered is the one that is told. What the receiver answers
    beyond the first KEPT_BYTES is not read.
    """
    start = time.monotonic()
    try:
        guard, deadline = Guard(allow_hosts), Deadline(timeout)
        with exchange(
            "POST",
            guard.check_url(url),
            guard=guard,
            deadline=deadline,
            headers={"Content-Type": "application/json", **headers},
            body=body,
            silence_seconds=timeout,
        ) as response:
            text = _beginning(response)
            wait = retry_after(response.headers.get("retry-after"))
            return Delivery(response.status_code, None, wait, time.monotonic() - start, text)
    except NightshiftError as error:
        failure = f"{error.code}: {error.detail}"
    except DeadlinePassed:
        failure = f"no answer within {timeout:g} s"
    except FAILURES as error:
        failure = str(error) or "the connection broke"
    return Delivery(None, failure, None, time.monotonic() - start)


def _beginning(response: httpx.Response) -> str:
    """The start of the answer, for the log. A body that breaks or drips changes nothing: the status has decided."""
    kept = b""
    try:
        for chunk in response.iter_raw():
            kept += chunk[: KEPT_BYTES - len(kept)]
            if len(kept) >= KEPT_BYTES:
                break
    except (DeadlinePassed, *FAILURES):
        pass
    # PostgreSQL's text holds no NUL.
    return kept.decode(errors="replace").replace("\0", "�")
