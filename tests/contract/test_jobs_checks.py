"""The CHECK constraints, each tried both ways: what breaks one is refused by its name, what keeps it passes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Table, insert, update
from sqlalchemy.exc import IntegrityError

from common.cron import Cron, Missed
from common.db import presets as preset_rows
from common.db import processes, uploads, voices
from common.db.engine import Database
from common.db.tables import batches, callbacks, jobs, keys, metadata, presets, schedule_ticks, schedules, transfers
from common.db.tables import processes as process_rows
from common.db.tables import uploads as upload_rows
from common.db.tables import voices as voice_rows
from common.jobs import callbacks as outbox
from common.jobs import schedules as schedule_verbs
from common.jobs.batches import NewBatch
from common.states import State
from tests.jobs import ERROR, brought, new_key, result

NOW = datetime(2030, 1, 1, tzinfo=UTC)
Values = dict[str, Any]
_RUN: Values = {"state": "running", "worker": "w", "lease_until": NOW, "attempt": 1}

# Constraint -> (the job's state before, an update that breaks this constraint alone, one that keeps it).
JOBS: dict[str, list[tuple[State, Values, Values]]] = {
    "state_known": [(State.WAITING, {"state": "lost"}, {"state": "queued"})],
    "running_has_lease": [
        (State.RUNNING, {"lease_until": None}, {"lease_until": NOW}),
        (State.QUEUED, {"lease_until": NOW}, _RUN),
    ],
    "running_has_worker": [
        (State.RUNNING, {"worker": None}, {"worker": "other"}),
        (State.QUEUED, {"worker": "w"}, _RUN),
    ],
    "succeeded_has_attempt": [
        (State.SUCCEEDED, {"result_attempt": None}, {"result_attempt": 1}),
        (State.FAILED, {"result_attempt": 1}, {"state": "succeeded", "result_attempt": 1, "result": result()}),
    ],
    "succeeded_has_result": [
        (State.SUCCEEDED, {"result": None}, {"result": {}}),
        (State.FAILED, {"result": {}}, {"state": "succeeded", "result_attempt": 1, "result": {}}),
    ],
    "result_of_last_attempt": [
        (State.SUCCEEDED, {"attempt": 2}, {"attempt": 2, "result_attempt": 2}),
        (State.SUCCEEDED, {"result_attempt": 2}, {"result_attempt": 1}),
    ],
    "failed_has_error": [(State.FAILED, {"error": None}, {"error": ERROR})],
    "terminal_is_finished": [
        *((state, {"finished_at": None}, {"finished_at": NOW}) for state in State if state in ("cancelled", "expired")),
        (State.WAITING, {"finished_at": NOW}, {"state": "cancelled", "finished_at": NOW}),
    ],
    "upstream_waits": [
        (State.QUEUED, {"upstream": "job_x"}, {"state": "waiting", "upstream": "job_x"}),
        (State.RUNNING, {"upstream": "job_x"}, {"upstream": None}),
    ],
    "item_of_a_batch": [(State.WAITING, {"batch_item": 1}, {"batch_item": None})],
    "speed_positive": [
        (State.SUCCEEDED, {"length": 0.0, "work_seconds": 1.0}, {"length": 9.0, "work_seconds": 1.0}),
        (State.SUCCEEDED, {"length": 9.0, "work_seconds": 0.0}, {"length": 9.0, "work_seconds": None}),
    ],
    "company_of_more": [
        (State.RUNNING, {"company": 1}, {"company": 2}),
        (State.RUNNING, {"company": 0}, {"company": None}),
    ],
    "running_has_attempt": [(State.RUNNING, {"attempt": 0}, {"attempt": 7})],
    "risk_known": [(State.WAITING, {"risk": "unknown", "risk_at": NOW}, {"risk": "late", "risk_at": NOW})],
    "risk_dated": [
        (State.WAITING, {"risk": "late"}, {"risk": "late", "risk_at": NOW}),
        (State.WAITING, {"risk_at": NOW}, {"risk": "on_time", "risk_at": NOW}),
    ],
}

_VOICE: Values = {"recording": "r", "excerpt": "e", "excerpt_start": 1.0, "excerpt_end": 9.0}

_TRANSFER: Values = {
    "batch_id": "bat_1", "item": 1, "bucket": "mine", "state": "pending", "next_at": NOW, "created_at": NOW,
}  # fmt: skip
_DONE: Values = {"state": "done", "next_at": None, "ended_at": NOW, "bytes": 7}

OTHERS: dict[tuple[Table, str], list[tuple[Values, Values]]] = {
    (keys, "weight_positive"): [({"weight": 0.0}, {"weight": 0.01}), ({"weight": -1.0}, {"weight": 9.0})],
    (presets, "version_positive"): [({"version": 0}, {"version": 7})],
    (schedules, "missed_known"): [({"missed": "twice"}, {"missed": "skip"})],
    (schedules, "deadline_after_tick"): [({"deadline_after": 0.0}, {"deadline_after": 1.0})],
    (schedule_ticks, "outcome_known"): [({"outcome": "lost", "batch_id": None}, {"outcome": "by_hand"})],
    (schedule_ticks, "made_has_batch"): [
        ({"batch_id": None}, {"batch_id": None, "outcome": "skipped"}),
        ({"outcome": "refused"}, {"outcome": "refused", "batch_id": None}),
    ],
    (batches, "state_known"): [({"state": "lost"}, {"state": "paused"})],
    (batches, "end_is_dated"): [
        ({"state": "finished"}, {"state": "finished", "finished_at": NOW}),
        ({"finished_at": NOW}, {"state": "cancelled", "finished_at": NOW}),
    ],
    (batches, "open_is_active"): [({"open_until": NOW}, {"open_until": NOW, "state": "active"})],
    (batches, "on_error_known"): [({"on_error": "cry"}, {"on_error": "stop"})],
    (batches, "risk_known"): [({"risk": "unknown", "risk_at": NOW}, {"risk": "at_risk", "risk_at": NOW})],
    (batches, "risk_dated"): [
        ({"risk": "late"}, {"risk": "late", "risk_at": NOW}),
        ({"risk_at": NOW}, {"risk": None, "risk_at": None}),
    ],
    (batches, "weight_positive"): [({"weight": 0.0}, {"weight": 0.01})],
    (batches, "counts_are_counts"): [({"failed": -1, "total": 1}, {"failed": 1, "total": 1})],
    (batches, "ends_within_total"): [({"succeeded": 1, "failed": 1, "total": 1}, {"succeeded": 1, "total": 1})],
    (batches, "failed_has_error"): [
        ({"state": "failed", "finished_at": NOW}, {"state": "failed", "finished_at": NOW, "error": ERROR})
    ],
    (batches, "deliveries_are_counts"): [
        ({"delivering": -1}, {"delivering": 1}),
        ({"delivered": -1}, {"delivered": 1}),
        ({"undelivered": -1}, {"undelivered": 1}),
    ],
    (transfers, "state_known"): [({"state": "lost", "next_at": None, "ended_at": NOW}, {"next_at": NOW})],
    (transfers, "pending_has_next"): [
        ({"next_at": None}, {"next_at": NOW}),
        ({**_DONE, "next_at": NOW}, _DONE),
    ],
    (transfers, "end_is_dated"): [({**_DONE, "ended_at": None}, _DONE), ({"ended_at": NOW}, {"tries": 1})],
    (transfers, "done_has_bytes"): [({**_DONE, "bytes": None}, {**_DONE, "bytes": 0}), ({"bytes": 1}, _DONE)],
    (transfers, "failed_has_error"): [
        ({**_DONE, "state": "failed", "bytes": None}, {**_DONE, "state": "failed", "bytes": None, "error": ERROR})
    ],
    (callbacks, "state_known"): [({"state": "lost", "next_at": None}, {"state": "failed", "next_at": None})],
    (callbacks, "pending_has_next"): [
        ({"next_at": None}, {"next_at": NOW}),
        ({"state": "delivered"}, {"state": "delivered", "next_at": None}),
    ],
    (upload_rows, "state_known"): [({"state": "lost"}, {"state": "ready"})],
    (voice_rows, "state_known"): [({"state": "lost"}, {"name": "Eve"})],
    (voice_rows, "ready_is_whole"): [
        ({"state": "ready"}, {**_VOICE, "state": "ready", "transcript": "Words."}),
        ({**_VOICE, "state": "ready"}, _VOICE),
        ({"state": "ready", "transcript": "Words."}, {"transcript": "Words."}),
    ],
    (voice_rows, "prepared_is_whole"): [({"recording": "r"}, _VOICE), ({**_VOICE, "recording": None}, _VOICE)],
    (voice_rows, "excerpt_has_place"): [
        ({"excerpt_start": 1.0}, _VOICE),
        ({**_VOICE, "excerpt_end": None}, _VOICE),
        ({**_VOICE, "excerpt_start": None}, _VOICE),
    ],
    (voice_rows, "excerpt_not_empty"): [({**_VOICE, "excerpt_end": 1.0}, {**_VOICE, "excerpt_end": 1.1})],
    (process_rows, "role_known"): [({"role": "idler"}, {"role": "deliverer"})],
    (process_rows, "control_known"): [({"control": "stop"}, {"control": "drain"})],
}


def _name(table: Table, short: str) -> str:
    return f"ck_{table.name}_{short}"


def test_every_constraint_is_tried() -> None:
    tried = {_name(jobs, short) for short in JOBS} | {_name(table, short) for table, short in OTHERS}
    assert tried == {
        str(constraint.name)
        for table in metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }


@pytest.mark.parametrize("short", JOBS)
def test_jobs(database: Database, short: str) -> None:
    key_id = new_key(database)
    for state, breaks, keeps in JOBS[short]:
        job = brought(database, key_id, state)
        change = update(jobs).where(jobs.c.id == job.id)
        with pytest.raises(IntegrityError, match=rf"\b{_name(jobs, short)}\b"), database.write() as tx:
            tx.execute(change.values(**breaks))
        with database.write() as tx:
            assert tx.execute(change.values(**keeps)).rowcount == 1


@pytest.mark.parametrize(("table", "short"), OTHERS, ids=lambda part: part if isinstance(part, str) else part.name)
def test_others(database: Database, table: Table, short: str) -> None:
    key_id = new_key(database)
    job = brought(database, key_id, State.WAITING)
    with database.write() as tx:
        outbox.put(tx, key_id, "https://receiver.example", "test", "{}")
        processes.register(tx, "w1", "worker", lanes=["cpu"])
        preset_rows.put(tx, key_id, "quick", "", {})
        made = schedule_verbs.create(tx, key_id, "nightly", Cron("0 1 * * *", "UTC"), Missed.ONCE, {})
        schedule_verbs.run_now(tx, made.id, lambda *_: NewBatch("nightly", {}, {}, "digest"))
        tx.execute(insert(transfers).values(_TRANSFER | {"job_id": job.id}))
        voices.create(tx, "voi_1", key_id, name="Ada", consent={}, job_id="job_1", transcription_id=None)
        uploads.create(
            tx, uploads.new_id(), key_id, "uploads/k/u", filename="a", content_type="audio/wav", size=1, sha256=None,
            ready=False,
        )  # fmt: skip
    for breaks, keeps in OTHERS[table, short]:
        with pytest.raises(IntegrityError, match=rf"\b{_name(table, short)}\b"), database.write() as tx:
            tx.execute(update(table).values(**breaks))
        with database.write() as tx:
            assert tx.execute(update(table).values(**keeps)).rowcount == 1
            tx.connection.rollback()


def test_a_row_inserted_in_a_wrong_state_is_refused(database: Database) -> None:
    job = brought(database, new_key(database), State.WAITING)
    row = {"id": "job_other", "idempotency_key": None}
    with database.read() as tx:
        values = dict(tx.execute(jobs.select().where(jobs.c.id == job.id)).one()._mapping)
    for wrong in ({"state": "running"}, {"state": "succeeded"}, {"state": "failed", "finished_at": NOW}):
        with pytest.raises(IntegrityError, match="ck_jobs_"), database.write() as tx:
            tx.execute(insert(jobs).values(**{**values, **row, **wrong}))
    with database.write() as tx:
        tx.execute(insert(jobs).values(**{**values, **row}))


def test_a_json_null_is_no_value(database: Database) -> None:
    """`error=None` must be SQL's NULL: the JSON value null would satisfy `error IS NOT NULL`."""
    job = brought(database, new_key(database), State.FAILED)
    with database.read() as tx:
        assert tx.execute(jobs.select().where(jobs.c.result.is_(None), jobs.c.id == job.id)).one_or_none() is not None


def test_foreign_keys_hold(database: Database) -> None:
    job = brought(database, new_key(database), State.WAITING)
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == job.id).values(key_id="key_nobody"))
