"""The outbox: what is due and held, what follows from each try, replay, the body, the secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from standardwebhooks import Webhook, WebhookVerificationError

from common.db.engine import Database
from common.db.tables import callback_endpoints, callbacks, keys
from common.jobs import callbacks as outbox
from common.jobs.callbacks import MAX_BODY_BYTES, Callback
from common.jobs.job import Job
from common.states import Reason, State
from tests.jobs import ERROR, LONG_AGO, RECEIVER, brought, new_key, result

SIGNING_KEY = "a signing key of the service"
DAYS = 86400.0


def _put(database: Database, key_id: str, count: int = 1, url: str = RECEIVER) -> list[str]:
    with database.write() as tx:
        return [outbox.put(tx, key_id, url, "test", '{"n":1}') for _ in range(count)]


def _due(database: Database, limit: int = 50, hold: float = 60.0, **more: int) -> list[Callback]:
    with database.write() as tx:
        return outbox.due(tx, limit, hold, **more)


def _record(database: Database, callback: Callback, status: int | None, **more: Any) -> str:
    outcome: dict[str, Any] = {
        "error": None if status else "no route", "duration_ms": 12, "response": "ok", "next_in": 5.0, "gone": False,
        "disable_after_seconds": 5 * DAYS,
    }  # fmt: skip
    with database.write() as tx:
        return outbox.record(tx, callback, status=status, **(outcome | more))


def _state(database: Database, callback_id: str) -> Any:
    with database.read() as tx:
        return tx.execute(select(callbacks).where(callbacks.c.id == callback_id)).one()


def _ring(database: Database, callback_id: str) -> None:
    with database.write() as tx:
        tx.execute(update(callbacks).where(callbacks.c.id == callback_id).values(next_at=tx.now(-1.0)))


# --- Due --------------------------------------------------------------------------------------------------------------


def test_what_is_due_is_held_while_it_is_sent(database: Database) -> None:
    (message,) = _put(database, new_key(database))
    (taken,) = _due(database)
    assert (taken.id, taken.tries, taken.state) == (message, 1, "pending")
    assert _due(database) == []


def test_a_deliverer_that_dies_leaves_its_messages_to_the_next(database: Database) -> None:
    (message,) = _put(database, new_key(database))
    _due(database, hold=-1.0)
    (again,) = _due(database)
    assert (again.id, again.tries) == (message, 2)


def test_at_most_two_of_one_address_and_none_kept_waiting_by_it(database: Database) -> None:
    key_id = new_key(database)
    dead = _put(database, key_id, 30, "https://dead.example")
    alive = _put(database, key_id, 1, "https://alive.example")
    taken = _due(database, limit=4)
    assert len(taken) == 3
    assert sum(callback.id in dead for callback in taken) == 2
    assert alive[0] in {callback.id for callback in taken}


def test_the_longest_waiting_go_first(database: Database) -> None:
    key_id = new_key(database)
    ids = [_put(database, key_id, 1, f"https://r{n}.example")[0] for n in range(6)]
    with database.write() as tx:
        for age, message in enumerate(ids):
            tx.execute(update(callbacks).where(callbacks.c.id == message).values(next_at=tx.now(-10.0 - age)))
    assert {c.id for c in _due(database, limit=2)} == set(ids[-2:])


# --- Outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "more", "state", "waits"),
    [
        (200, {}, "delivered", False),
        (204, {"next_in": None}, "delivered", False),
        (299, {}, "delivered", False),
        (301, {}, "pending", True),
        (500, {}, "pending", True),
        (None, {}, "pending", True),
        (500, {"next_in": None}, "failed", False),
        (None, {"next_in": None}, "failed", False),
        (410, {"gone": True}, "disabled", False),
    ],
)
def test_what_follows_from_a_try(
    database: Database, status: int | None, more: dict[str, Any], state: str, waits: bool
) -> None:
    (message,) = _put(database, new_key(database))
    (taken,) = _due(database)
    assert _record(database, taken, status, **more) == state
    row = _state(database, message)
    assert row.state == state
    assert (row.next_at is not None) == waits
    assert (row.delivered_at is not None) == (state == "delivered")
    with database.read() as tx:
        (tried,) = outbox.tries_of(tx, [message])[message]
    assert (tried["status"], tried["duration_ms"], tried["response"]) == (status, 12, "ok")
    if waits:
        # Two statements tell the time; on a busy machine a while may lie between them.
        assert 5.0 <= (row.next_at - tried["at"]).total_seconds() < 65.0


def test_410_disables_all_that_wait_for_the_address_and_new_ones(database: Database) -> None:
    key_id, other_key = new_key(database), new_key(database)
    _, waiting = _put(database, key_id, 2)
    (elsewhere,) = _put(database, key_id, 1, "https://other.example")
    (others,) = _put(database, other_key)
    taken = _due(database, per_host=1)[0]
    assert _record(database, taken, 410, gone=True) == "disabled"
    assert _state(database, waiting).state == "disabled"
    assert _state(database, elsewhere).state == "pending"
    assert _state(database, others).state == "pending", "another key's callbacks are its own"
    (later,) = _put(database, key_id)
    assert _state(database, later).state == "disabled"


def test_an_address_is_disabled_after_days_of_failure(database: Database) -> None:
    key_id = new_key(database)
    (message,) = _put(database, key_id)
    (taken,) = _due(database)
    assert _record(database, taken, 500) == "pending"

    def failing_for(days: float) -> str:
        with database.write() as tx:
            tx.execute(update(callback_endpoints).values(failing_since=tx.now(-days * DAYS)))
        _ring(database, message)
        (again,) = _due(database)
        return _record(database, again, 500)

    assert failing_for(4.9) == "pending"
    assert failing_for(5.1) == "disabled"
    with database.read() as tx:
        assert "too long" in tx.execute(select(callback_endpoints.c.disabled_because)).scalar_one()


def test_one_success_starts_the_count_of_days_anew(database: Database) -> None:
    key_id = new_key(database)
    bad, good = _put(database, key_id, 2)
    first, second = _due(database)
    _record(database, first, 500)
    with database.write() as tx:
        tx.execute(update(callback_endpoints).values(failing_since=tx.now(-6 * DAYS)))
    _record(database, second, 200)
    assert second.id == good
    _ring(database, bad)
    (again,) = _due(database)
    assert _record(database, again, 500) == "pending"


def test_a_try_that_was_overtaken_decides_nothing(database: Database) -> None:
    """Its hold ran out and another deliverer took the message: that one's word counts."""
    (message,) = _put(database, new_key(database))
    (slow,) = _due(database, hold=-1.0)
    (quick,) = _due(database)
    assert _record(database, slow, 500, next_in=None) == "pending"
    assert _record(database, quick, 200) == "delivered"
    with database.read() as tx:
        assert [tried["status"] for tried in outbox.tries_of(tx, [message])[message]] == [500, 200]


def test_what_arrived_is_delivered_though_the_address_was_disabled_meanwhile(database: Database) -> None:
    one, other = _put(database, new_key(database), 2)
    first, second = _due(database)
    assert _record(database, first, 410, gone=True) == "disabled"
    assert _record(database, second, 200) == "delivered"
    assert {first.id, second.id} == {one, other}


def test_a_failure_after_the_address_was_disabled_stays_disabled(database: Database) -> None:
    _put(database, new_key(database), 2)
    first, second = _due(database)
    _record(database, first, 410, gone=True)
    assert _record(database, second, 500) == "disabled"
    assert _due(database) == []


# --- Replay and log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 500, 410])
def test_replay_sends_the_same_message_again(database: Database, status: int) -> None:
    key_id = new_key(database)
    (message,) = _put(database, key_id)
    (taken,) = _due(database)
    _record(database, taken, status, next_in=None, gone=status == 410)
    with database.write() as tx:
        replayed = outbox.replay(tx, message, key_id)
    assert replayed is not None
    assert (replayed.id, replayed.body, replayed.state, replayed.tries) == (message, taken.body, "pending", 0)
    (again,) = _due(database)
    assert (again.id, again.body) == (message, taken.body)
    assert _record(database, again, 200) == "delivered"
    (later,) = _put(database, key_id)
    assert _state(database, later).state == "pending", "its address is enabled again"


def test_replay_is_for_the_keys_own(database: Database) -> None:
    (message,) = _put(database, new_key(database))
    stranger = new_key(database)
    with database.write() as tx:
        assert outbox.replay(tx, message, stranger) is None
        assert outbox.replay(tx, "msg_none", stranger) is None
        assert outbox.get(tx, message, stranger) is None


def test_the_log_goes_from_new_to_old(database: Database) -> None:
    key_id, stranger = new_key(database), new_key(database)
    job = brought(database, key_id, State.SUCCEEDED)
    _put(database, stranger)
    ids = _put(database, key_id, 3)
    with database.read() as tx:
        whole = outbox.log(tx, key_id, before=None, limit=10)
        assert [c.id for c in whole] == sorted([c.id for c in whole], reverse=True)
        assert {c.id for c in whole} > set(ids)
        assert outbox.log(tx, key_id, before=whole[1].id, limit=1) == [whole[2]]
        assert [c.event for c in outbox.log(tx, key_id, before=None, limit=10, job_id=job.id)] == ["job.succeeded"]
        assert outbox.log(tx, key_id, before=None, limit=10, state="failed") == []


# --- The body ---------------------------------------------------------------------------------------------------------


def test_the_body_tells_of_the_end(database: Database) -> None:
    job = brought(database, new_key(database), State.SUCCEEDED, metadata={"show": "night"}, batch="b1")
    with database.read() as tx:
        (sent,) = outbox.log(tx, job.key_id, before=None, limit=10)
    body = json.loads(sent.body)
    assert (body["type"], sent.event, sent.job_id, sent.url) == ("job.succeeded", "job.succeeded", job.id, RECEIVER)
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    data = body["data"]
    assert (data["id"], data["state"], data["metadata"], data["batch"]) == (
        job.id,
        "succeeded",
        {"show": "night"},
        "b1",
    )
    assert [output["name"] for output in data["outputs"]] == ["speech", "residual"]
    assert "somewhere/" not in sent.body, "storage keys are nobody's business"


TEXT = st.text(st.characters(codec="utf-8"), max_size=512)
NOISE = st.sampled_from(["", "a" * 512, "\x01" * 512, "𝄞" * 512, "\"\\" * 256, " " * 512]) | TEXT  # fmt: skip


@settings(max_examples=40)
@given(
    metadata=st.dictionaries(st.text(max_size=64), NOISE, max_size=32),
    outputs=st.integers(0, 400), error=NOISE, state=st.sampled_from([State.SUCCEEDED, State.FAILED]),
)  # fmt: skip
def test_the_body_stays_below_20_kb(metadata: dict[str, str], outputs: int, error: str, state: State) -> None:
    failed = state is State.FAILED
    job = replace(
        _plain_job(), state=state, request={"metadata": metadata},
        result=None if failed else result(*(f"stem-{n}" for n in range(outputs))),
        error={**ERROR, "message": error * 100} if failed else None,
    )  # fmt: skip
    body = outbox.message(job, datetime.now(UTC))
    assert len(body.encode()) < MAX_BODY_BYTES
    data = json.loads(body)["data"]
    assert (data["id"], data["state"]) == (job.id, state)
    if failed:
        assert data["error"]["code"] == ERROR["code"]
    assert data.get("truncated") or data["metadata"] == metadata


def _plain_job() -> Job:
    return Job(
        id="job_1", key_id="key_1", kind="separation", engine="rnnoise", lane="cpu", batch="b" * 120,
        batch_id=None, risk=None, risk_at=None,
        batch_item=None, item=None, expected=None, length=None, work_seconds=None, priority=0,
        request={}, state=State.SUCCEEDED, reason=Reason.DONE, run_at=LONG_AGO, deadline=None, upstream=None, attempt=1,
        failures=0, crashes=0, losses=0, crashed_at_block=None, worker=None, lease_until=None, cancel_requested=False,
        company=None, progress=None, blocks_done=0, blocks_total=None, result=None, result_attempt=None, error=None,
        fingerprint=None, idempotency_key=None, request_digest="", rung_at=None, created_at=LONG_AGO, started_at=None,
        finished_at=None, updated_at=LONG_AGO, stored_bytes=0, expiry_told_at=None,
    )  # fmt: skip


# --- Secrets ----------------------------------------------------------------------------------------------------------


def _accepts(secret: str, headers: dict[str, str], body: str) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def _signed(secrets: list[str], message_id: str, body: str) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, now, body) for secret in secrets),
    }


def test_a_receiver_verifies_with_its_secret_before_within_and_after_a_rotation(database: Database) -> None:
    key_id = new_key(database)
    _put(database, key_id)
    (message,) = _due(database)

    def headers() -> dict[str, str]:
        with database.read() as tx:
            return _signed(outbox.secrets(tx, SIGNING_KEY, key_id), message.id, message.body)

    old = outbox.secret(SIGNING_KEY, key_id, 1)
    assert _accepts(old, headers(), message.body)
    with database.write() as tx:
        new = outbox.rotate_secret(tx, SIGNING_KEY, key_id, 3600.0)
    assert new != old
    assert _accepts(old, headers(), message.body)
    assert _accepts(new, headers(), message.body)
    with database.write() as tx:
        tx.execute(update(keys).where(keys.c.id == key_id).values(callback_previous_until=tx.now(-1.0)))
    assert not _accepts(old, headers(), message.body)
    assert _accepts(new, headers(), message.body)
    assert not _accepts(new, headers(), message.body + " ")


def test_each_key_version_and_service_has_its_own_secret(database: Database) -> None:
    made = {outbox.secret(s, k, v) for s in ("one", "two") for k in ("key_a", "key_b") for v in (1, 2, 11)}
    assert len(made) == 12
    with database.read() as tx:
        assert outbox.secrets(tx, SIGNING_KEY, "key_none") == []
