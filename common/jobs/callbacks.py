"""The outbox of callbacks: rows are written with the state they tell of, sent by `worker.deliver`, kept as a log."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import case, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from ulid import ULID

from common.db.engine import Tx
from common.db.tables import callback_endpoints, callbacks, deliveries, jobs, keys
from common.jobs.job import Brief, Job

MAX_BODY_BYTES = 20_000


@dataclass(frozen=True)
class Callback:
    """A message on its way. id: the webhook-id, the same for every try."""

    id: str
    key_id: str
    job_id: str | None
    batch_id: str | None
    url: str
    host: str
    event: str
    body: str
    state: str
    tries: int
    next_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None


def enqueue(tx: Tx, over: Sequence[Brief]) -> None:
    """Writes the callbacks of jobs that have just ended, where their requests ask for one."""
    tell(tx, [(job, f"job.{job.state}", {}) for job in _whole(tx, over)])


def tell(tx: Tx, news: Iterable[tuple[Job, str, Mapping[str, Any]]]) -> None:
    """Writes messages about jobs, each with its event and what is to be said beside, where their requests ask to be
    told."""
    asked = [one for one in news if one[0].request.get("callback")]
    if asked:
        at = tx.instant()
        _put(
            tx,
            [
                _row(job.key_id, job.request["callback"]["url"], event, message(job, at, event, **more), job_id=job.id)
                for job, event, more in asked
            ],
        )


def _whole(tx: Tx, over: Sequence[Brief]) -> list[Job]:
    """Those known in brief are read whole where somebody is to be told of them."""
    found = [job for job in over if isinstance(job, Job)]
    brief = [job.id for job in over if not isinstance(job, Job)]
    if brief:
        asked = jobs.c.request["callback", "url"].as_string().is_not(None)
        rows = tx.execute(select(jobs).where(tx.listed(jobs.c.id, brief), asked).order_by(jobs.c.id))
        found += [Job.from_row(row) for row in rows]
    return found


def put(
    tx: Tx, key_id: str, url: str, event: str, body: str, job_id: str | None = None, batch_id: str | None = None
) -> str:
    """Writes a message to be sent as soon as may be; disabled where the address is. Returns its id."""
    row = _row(key_id, url, event, body, job_id, batch_id)
    _put(tx, [row])
    return str(row["id"])


def _row(
    key_id: str, url: str, event: str, body: str, job_id: str | None = None, batch_id: str | None = None
) -> dict[str, Any]:
    return {
        "id": f"msg_{ULID()}", "key_id": key_id, "job_id": job_id, "batch_id": batch_id, "url": url, "host": _host(url),
        "event": event, "body": body, "tries": 0,
    }  # fmt: skip


def _put(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    at = tx.instant()
    off = {address for address in {(row["key_id"], row["url"]) for row in rows} if _disabled(tx, *address)}
    for row in rows:
        disabled = (row["key_id"], row["url"]) in off
        row |= {"created_at": at, "state": "disabled" if disabled else "pending", "next_at": None if disabled else at}
    tx.execute(insert(callbacks), rows)


def _disabled(tx: Tx, key_id: str, url: str) -> bool:
    here = (callback_endpoints.c.key_id == key_id, callback_endpoints.c.url == url)
    return tx.execute(select(callback_endpoints.c.disabled_at).where(*here)).scalar() is not None


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def message(job: Job, at: datetime, event: str | None = None, **more: Any) -> str:
    """The body: type, timestamp, data, as Standard Webhooks has it. Never media; over 20 kB outputs are left out.

    event: None: the end it has come to.  more: members of its data.
    """
    event = event or f"job.{job.state}"
    data: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "engine": job.engine,
        "batch": job.batch,
        "state": job.state,
        "reason": job.reason,
        "metadata": job.request.get("metadata") or {},
        "error": dict(job.error) if job.error else None,
        "outputs": _outputs(job.result),
        **more,
    }
    body = _dumps(event, at, data)
    if len(body.encode()) >= MAX_BODY_BYTES:
        body = _dumps(event, at, {**data, "outputs": None, "truncated": True})
    if len(body.encode()) >= MAX_BODY_BYTES:
        error = {"code": (job.error or {}).get("code")} if job.error else None
        body = _dumps(event, at, {**data, "outputs": None, "metadata": {}, "error": error, "truncated": True})
    return body


def _dumps(event: str, at: datetime, data: Mapping[str, Any]) -> str:
    body = {"type": event, "timestamp": at.isoformat().replace("+00:00", "Z"), "data": data}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def instant(at: datetime | None) -> str | None:
    """As messages say when something will be; to the second."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z") if at is not None else None


def _outputs(result: Mapping[str, Any] | None) -> list[dict[str, Any]] | None:
    if result is None:
        return None
    return [{k: output[k] for k in ("name", "role", "content_type", "bytes")} for output in result["outputs"]]


def due(
    tx: Tx, limit: int, hold_seconds: float, *, per_host: int = 2, busy: Mapping[str, int] | None = None
) -> list[Callback]:
    """Messages to send now, held for `hold_seconds`: a deliverer that dies leaves them to the next one.

    At most `per_host` for one host at a time, those included that are `busy` at it already, so that a dead receiver
    does not keep others waiting.
    """
    rank = func.row_number().over(partition_by=callbacks.c.host, order_by=(callbacks.c.next_at, callbacks.c.id))
    ranked = (
        select(callbacks.c.id, callbacks.c.next_at, callbacks.c.host, rank.label("rank"))
        .where(callbacks.c.state == "pending", callbacks.c.next_at <= tx.now())
        .subquery()
    )
    places = (
        case({host: per_host - n for host, n in busy.items()}, value=ranked.c.host, else_=per_host)
        if busy
        else per_host
    )
    picked = select(ranked.c.id).where(ranked.c.rank <= places).order_by(ranked.c.next_at, ranked.c.id).limit(limit)
    ids = [row.id for row in tx.execute(picked)]
    locked = select(callbacks.c.id).where(callbacks.c.id.in_(ids)).with_for_update(skip_locked=True)
    ids = [row.id for row in tx.execute(locked)]
    rows = tx.execute(
        update(callbacks)
        .where(callbacks.c.id.in_(ids), callbacks.c.state == "pending", callbacks.c.next_at <= tx.now())
        .values(next_at=tx.now(hold_seconds), tries=callbacks.c.tries + 1)
        .returning(callbacks)
    )
    return sorted((Callback(**row._mapping) for row in rows), key=lambda c: c.id)


def record(
    tx: Tx,
    callback: Callback,
    *,
    status: int | None,
    error: str | None,
    duration_ms: int,
    response: str | None,
    next_in: float | None,
    gone: bool,
    disable_after_seconds: float,
) -> str:
    """Writes down one try and what follows; returns the message's new state.

    next_in: seconds to the next try, None where there is none.  gone: the receiver asked never to be called again.
    A message that was taken up again meanwhile by another deliverer is left to that one.
    """
    tx.execute(
        insert(deliveries).values(
            callback_id=callback.id,
            at=tx.now(),
            status=status,
            error=error,
            duration_ms=duration_ms,
            response=response,
        )
    )
    delivered = status is not None and 200 <= status < 300
    endpoint_off = _endpoint(tx, callback, delivered, gone, disable_after_seconds)
    if delivered:
        state = "delivered"
    elif endpoint_off:
        state = "disabled"
    else:
        state = "pending" if next_in is not None else "failed"
    # What arrived has arrived, also where the address was disabled meanwhile.
    before = ("pending", "disabled") if delivered else ("pending",)
    tx.execute(
        update(callbacks)
        .where(callbacks.c.id == callback.id, callbacks.c.state.in_(before), callbacks.c.tries == callback.tries)
        .values(
            state=state,
            next_at=tx.now(next_in or 0.0) if state == "pending" else None,
            delivered_at=tx.now() if delivered else None,
        )
    )
    if endpoint_off:
        tx.execute(
            update(callbacks)
            .where(
                callbacks.c.key_id == callback.key_id, callbacks.c.url == callback.url, callbacks.c.state == "pending"
            )
            .values(state="disabled", next_at=None)
        )
    return str(tx.execute(select(callbacks.c.state).where(callbacks.c.id == callback.id)).scalar_one())


def _endpoint(tx: Tx, callback: Callback, delivered: bool, gone: bool, disable_after_seconds: float) -> bool:
    """Keeps the health of an address; True where it is now disabled."""
    here = (callback_endpoints.c.key_id == callback.key_id, callback_endpoints.c.url == callback.url)
    if tx.execute(select(callback_endpoints.c.url).where(*here)).first() is None:
        if delivered:
            return False
        dialect_insert = postgresql.insert if tx.postgresql else sqlite.insert
        tx.execute(
            dialect_insert(callback_endpoints)
            .values(key_id=callback.key_id, url=callback.url)
            .on_conflict_do_nothing(index_elements=["key_id", "url"])
        )
    if delivered:
        tx.execute(update(callback_endpoints).where(*here).values(failing_since=None))
        return False
    tx.execute(
        update(callback_endpoints)
        .where(*here)
        .values(failing_since=func.coalesce(callback_endpoints.c.failing_since, tx.now()))
    )
    too_long = callback_endpoints.c.failing_since < tx.now(-disable_after_seconds)
    row = tx.execute(
        update(callback_endpoints)
        .where(
            *here, callback_endpoints.c.disabled_at.is_(None), too_long if not gone else callback_endpoints.c.url != ""
        )
        .values(
            disabled_at=tx.now(),
            disabled_because="the receiver answered 410 Gone" if gone else "it failed for too long",
        )
        .returning(callback_endpoints.c.url)
    ).first()
    return row is not None


def replay(tx: Tx, callback_id: str, key_id: str) -> Callback | None:
    """Sends a message again, under the same id; enables its address again. None where there is no such message."""
    here = (callbacks.c.id == callback_id, callbacks.c.key_id == key_id)
    url = tx.execute(select(callbacks.c.url).where(*here)).scalar_one_or_none()
    if url is None:
        return None
    # The address before the message, as `record` locks them.
    tx.execute(
        update(callback_endpoints)
        .where(callback_endpoints.c.key_id == key_id, callback_endpoints.c.url == url)
        .values(failing_since=None, disabled_at=None, disabled_because=None)
    )
    row = tx.execute(
        update(callbacks)
        .where(*here)
        .values(
            state="pending", next_at=tx.now(), tries=case((callbacks.c.state == "pending", callbacks.c.tries), else_=0)
        )
        .returning(callbacks)
    ).one_or_none()
    return Callback(**row._mapping) if row is not None else None


def get(tx: Tx, callback_id: str, key_id: str) -> Callback | None:
    """A message of a key; None where there is none."""
    row = tx.execute(select(callbacks).where(callbacks.c.id == callback_id, callbacks.c.key_id == key_id)).one_or_none()
    return Callback(**row._mapping) if row is not None else None


def log(
    tx: Tx, key_id: str, *, before: str | None, limit: int, job_id: str | None = None, state: str | None = None
) -> list[Callback]:
    """A key's messages, newest first, before the id `before`."""
    query = select(callbacks).where(callbacks.c.key_id == key_id)
    if before is not None:
        query = query.where(callbacks.c.id < before)
    if job_id is not None:
        query = query.where(callbacks.c.job_id == job_id)
    if state is not None:
        query = query.where(callbacks.c.state == state)
    return [Callback(**row._mapping) for row in tx.execute(query.order_by(callbacks.c.id.desc()).limit(limit))]


def tries_of(tx: Tx, callback_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Every try of each message, oldest first."""
    found: dict[str, list[dict[str, Any]]] = {callback_id: [] for callback_id in callback_ids}
    query = select(deliveries).where(deliveries.c.callback_id.in_(callback_ids)).order_by(deliveries.c.id)
    for row in tx.execute(query):
        values = dict(row._mapping)
        found[values.pop("callback_id")].append(values)
    return found


# --- Secrets: derived, never stored ----------------------------------------------------------------------------------


def secret(signing_key: str, key_id: str, version: int) -> str:
    """The signing secret of a key's callbacks, in the form receivers expect: `whsec_` + base64 of 32 bytes."""
    raw = hmac.new(signing_key.encode(), f"callback:{key_id}:{version}".encode(), hashlib.sha256).digest()
    return f"whsec_{b64encode(raw).decode()}"


def secrets(tx: Tx, signing_key: str, key_id: str) -> list[str]:
    """The secrets to sign with now, newest first: two while a rotation is under way."""
    valid_previous = keys.c.callback_previous_until > tx.now()
    row = tx.execute(
        select(keys.c.callback_version, valid_previous.label("previous")).where(keys.c.id == key_id)
    ).one_or_none()
    if row is None:
        return []
    versions = [row.callback_version] + ([row.callback_version - 1] if row.previous else [])
    return [secret(signing_key, key_id, version) for version in versions]


def rotate_secret(tx: Tx, signing_key: str, key_id: str, overlap_seconds: float) -> str:
    """A new secret; the old one goes on signing beside it for `overlap_seconds`."""
    version = tx.execute(
        update(keys)
        .where(keys.c.id == key_id)
        .values(callback_version=keys.c.callback_version + 1, callback_previous_until=tx.now(overlap_seconds))
        .returning(keys.c.callback_version)
    ).scalar_one()
    return secret(signing_key, key_id, version)
