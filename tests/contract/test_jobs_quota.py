"""Quotas of audio hours a day and of stored bytes: what waits for them, what is refused, and until when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, update

from common.db import keys, uploads
from common.db.engine import Database, SimulatedClock
from common.db.tables import jobs
from common.errors import NightshiftError
from common.jobs import batches, claiming, finish, queueing, quota, submit
from common.jobs.job import Job
from common.quotas import Quotas
from common.states import State
from tests.batches import created, entries, items, made
from tests.jobs import LEASE, QUOTA, brought, claimed, new_key, request, result, submitted

EVENING = datetime(2030, 5, 6, 22, 30, tzinfo=UTC)
MIDNIGHT = datetime(2030, 5, 7, tzinfo=UTC)


def _refused(call: Callable[[], Any]) -> NightshiftError:
    with pytest.raises(NightshiftError) as caught:
        call()
    assert caught.value.code == "quota_exceeded"
    return caught.value


def _fill(database: Database, audio_hours: float | None = None, ahead: int = 10) -> list[str]:
    with database.write() as tx:
        return [bell.job_id for bell in queueing.fill(tx, "cpu", ahead, LEASE, audio_hours)]


def _heard(database: Database, job_id: str, hours: float) -> Job:
    with database.write() as tx:
        job = claiming.claim(tx, "w1", ["cpu"], LEASE, job_id=job_id)
    assert job is not None
    with database.write() as tx:
        return finish.succeed(tx, job.lease, result(metrics={"audio_seconds": 3600 * hours}))


def _expect(database: Database, job_ids: list[str], hours: float) -> None:
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(expected=3600 * hours))


def _submit(database: Database, key_id: str, quotas: Quotas = QUOTA, **members: Any) -> Job:
    with database.write() as tx:
        return submit.submit(tx, key_id, request(**members), default_quota=quotas).job


# --- Hours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
def test_a_batch_waits_for_the_next_day(database: Database, own: bool) -> None:
    """The hours of jobs that have ended are those found; the one that crosses the line still runs."""
    clock = database.clock = SimulatedClock(EVENING)
    hours = None if own else 2.0
    key_id = new_key(database, **({"max_audio_hours_per_day": 2.0} if own else {}))
    batch = made(database, key_id, 5)
    for _ in range(2):
        (job_id,) = _fill(database, hours, ahead=1)
        _heard(database, job_id, 1.5)
    assert _fill(database, hours) == []
    with database.read() as tx:
        assert quota.held_until(tx, key_id, Quotas(1, 2.0)) == MIDNIGHT
    clock.now = MIDNIGHT - timedelta(seconds=1)
    assert _fill(database, hours) == []
    clock.now = MIDNIGHT
    assert len(_fill(database, hours)) == 3
    with database.read() as tx:
        assert quota.held_until(tx, key_id, Quotas(1, 2.0)) is None
    assert {job.state for job in items(database, batch.id)} == {State.SUCCEEDED, State.QUEUED}


def test_what_is_under_way_counts_as_expected(database: Database) -> None:
    key_id = new_key(database, max_audio_hours_per_day=2.0)
    batch = made(database, key_id, 5)
    _expect(database, [job.id for job in items(database, batch.id)], 0.75)
    released = _fill(database)
    assert len(released) == 3, "2.25 hours: the third one crosses the line"
    assert _fill(database) == []
    with database.write() as tx:
        assert claiming.claim(tx, "w1", ["cpu"], LEASE, job_id=released[0]) is not None
    assert _fill(database) == [], "running or queued is the same"
    with database.write() as tx:
        finish.cancel(tx, released[1])
    assert len(_fill(database)) == 1, "what was cancelled gives its hours back"


def test_batches_of_a_key_share_its_hours(database: Database) -> None:
    key_id = new_key(database, max_audio_hours_per_day=2.0)
    for _ in range(3):
        _expect(database, [job.id for job in items(database, made(database, key_id, 4).id)], 1.0)
    assert len(_fill(database)) == 2


def test_no_other_key_is_held(database: Database) -> None:
    held, free = new_key(database, max_audio_hours_per_day=0.0), new_key(database)
    made(database, held, 3)
    others = {job.id for job in items(database, made(database, free, 3).id)}
    assert set(_fill(database)) == others
    with database.write() as tx:
        keys.change(tx, held, {"max_audio_hours_per_day": None})
    assert len(_fill(database)) == 3


def test_interactive_jobs_are_refused_and_those_of_priority_batch_wait(database: Database) -> None:
    database.clock = SimulatedClock(EVENING)
    key_id = new_key(database, max_audio_hours_per_day=1.0)
    accepted = submitted(database, key_id)
    first = submitted(database, key_id)
    _fill(database)
    _heard(database, first.id, 1.0)
    error = _refused(lambda: _submit(database, key_id))
    assert (error.extra["used"], error.extra["limit"], error.extra["until"]) == (1.0, 1.0, "2030-05-07T00:00:00Z")
    assert error.retryable and error.extra["retry_after"] == 90 * 60 + 1
    waiting = _submit(database, key_id, priority="batch")
    assert _fill(database) == []
    picture = {"kind": "segmentation", "input": None, "inputs": [{"url": "https://media.example/a.png"}]}
    seen = _submit(database, key_id, **picture, params={"mode": "automatic"})
    assert _fill(database) == [seen.id], "pictures have no hours"
    assert accepted.id not in (waiting.id, seen.id), "what was accepted has been released before"


def test_an_accepted_interactive_job_runs(database: Database) -> None:
    key_id = new_key(database, max_audio_hours_per_day=1.0)
    first, second = submitted(database, key_id), submitted(database, key_id)
    assert _fill(database, ahead=1) == [first.id]
    _heard(database, first.id, 3.0)
    assert _fill(database, ahead=1) == [second.id]


def test_a_batch_of_interactive_jobs_waits_too(database: Database) -> None:
    made(database, new_key(database, max_audio_hours_per_day=0.0), 3, job={"priority": "interactive"})
    assert _fill(database) == []


def test_a_retry_of_an_interactive_job_is_refused(database: Database) -> None:
    key_id = new_key(database, max_audio_hours_per_day=1.0)
    failed = brought(database, key_id, State.FAILED)
    batch_job = brought(database, key_id, State.FAILED, priority="batch")
    with database.write() as tx:
        keys.change(tx, key_id, {"max_audio_hours_per_day": 0.0})

    def again(job_id: str) -> None:
        with database.write() as tx:
            submit.resubmit(tx, job_id, default_quota=QUOTA)

    _refused(lambda: again(failed.id))
    again(batch_job.id)


def test_a_key_without_hours_costs_a_release_nothing(database: Database) -> None:
    limited, free = new_key(database, max_audio_hours_per_day=5.0), new_key(database)
    made(database, free, 3)
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *found: sent.append(found[2]))
    _fill(database, ahead=1)
    plain = len(sent)
    assert not any("usage" in statement for statement in sent)
    made(database, limited, 1)
    sent.clear()
    _fill(database, ahead=2)
    assert any("usage" in statement for statement in sent) and plain


# --- Bytes ------------------------------------------------------------------------------------------------------------


def _upload(database: Database, key_id: str, size: int) -> str:
    with database.write() as tx:
        return uploads.create(
            tx, uploads.new_id(), key_id, f"uploads/{key_id}/{size}", filename="a.wav", content_type="audio/wav",
            size=size, sha256=None, ready=True,
        ).id  # fmt: skip


def test_beyond_its_bytes_a_key_submits_nothing_and_loses_nothing(database: Database) -> None:
    key_id = new_key(database, max_bytes=3000)
    running = claimed(database, submitted(database, key_id).id)
    failed = brought(database, key_id, State.FAILED)
    waiting = submitted(database, key_id)
    _upload(database, key_id, 3000)
    error = _refused(lambda: _submit(database, key_id))
    assert (error.extra["quota"], error.extra["used"], error.extra["limit"]) == ("bytes", 3000, 3000)
    assert not error.retryable
    _refused(lambda: _submit(database, key_id, priority="batch"))
    batch = created(database, key_id)

    def take() -> None:
        with database.write() as tx:
            batches.take_in(tx, batch, entries(2), default_quota=QUOTA, lease_seconds=LEASE)

    def again() -> None:
        with database.write() as tx:
            submit.resubmit(tx, failed.id, default_quota=QUOTA)

    _refused(take)
    _refused(again)
    with database.write() as tx:
        assert finish.succeed(tx, running.lease, result()).stored_bytes == 2000
    assert waiting.id in _fill(database)
    with database.read() as tx:
        _refused(lambda: quota.check_bytes(tx, key_id, Quotas(1, max_bytes=5001), more=2))
        quota.check_bytes(tx, key_id, Quotas(1, max_bytes=5001), more=1)
        quota.check_bytes(tx, key_id, Quotas(1), more=10**15)


def test_a_default_holds_where_a_key_has_no_quota_of_its_own(database: Database) -> None:
    key_id, rich = new_key(database), new_key(database, max_bytes=10**9)
    for one in (key_id, rich):
        _upload(database, one, 100)
    _refused(lambda: _submit(database, key_id, Quotas(10, max_bytes=100)))
    _submit(database, rich, Quotas(10, max_bytes=100))
    with database.read() as tx:
        used = quota.used(tx, rich, Quotas(10, max_bytes=100))
    assert (used.unfinished, used.bytes, used.audio_seconds, used.held_until) == (1, 100, 0.0, None)
