"""The ledger of what keys use: always the sum of what is there, however it came and went, folded or not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, union_all

from common.db import keys, uploads, usage, voices
from common.db.engine import Database, SimulatedClock
from common.db.tables import jobs, metadata
from common.db.tables import uploads as upload_rows
from common.db.tables import usage as ledger
from common.db.tables import voices as voice_rows
from common.jobs import bulk, claiming, finish, queueing, submit, sweep
from common.jobs.bulk import Action
from common.jobs.query import Filter
from common.params import Input
from common.params.voice import VoiceParams, VoiceRequest
from tests.job_machine import forget_the_disk
from tests.jobs import ERROR, LEASE, QUOTA, claimed, new_key, request, result, submitted

DAWN = datetime(2030, 1, 1, 22, tzinfo=UTC)
KEEP = 5 * 3600.0


def _from_scratch(database: Database) -> dict[str, int]:
    """Bytes by key, as the rows of what is there have them."""
    there = union_all(
        select(jobs.c.key_id, jobs.c.stored_bytes.label("bytes")),
        select(upload_rows.c.key_id, upload_rows.c.size),
        select(voice_rows.c.key_id, voice_rows.c.stored_bytes),
    ).subquery()
    with database.read() as tx:
        rows = tx.execute(select(there.c.key_id, func.sum(there.c.bytes)).group_by(there.c.key_id))
        return {key_id: int(total) for key_id, total in rows if total}


def _told(database: Database) -> dict[str, int]:
    with database.read() as tx:
        key_ids = list(tx.execute(select(ledger.c.key_id).distinct()).scalars())
        return {key_id: total for key_id in key_ids if (total := usage.stored(tx, key_id))}


class World:
    """Callers, workers and a scheduler that do as they are told, by numbers."""

    def __init__(self, database: Database, clock: SimulatedClock) -> None:
        self.database, self.clock = database, clock
        with database.write() as tx:
            for table in reversed(metadata.sorted_tables):
                tx.execute(delete(table))
            self.key_ids = [keys.create(tx, name, ["write"])[0].id for name in "ab"]
        self.heard: dict[tuple[str, str], float] = {}

    def upload(self, tx: Any, key: str, n: int) -> None:
        uploads.create(
            tx, uploads.new_id(), key, f"uploads/{key}/{n}", filename="a.wav", content_type="audio/wav", size=n,
            sha256=None, ready=n % 2 == 0,
        )  # fmt: skip

    def _one(self, tx: Any, table: Any, key: str, n: int) -> Any:
        rows = tx.execute(select(table).where(table.c.key_id == key).order_by(table.c.id)).all()
        return rows[n % len(rows)] if rows else None

    def arrive(self, tx: Any, key: str, n: int) -> None:
        if (row := self._one(tx, upload_rows, key, n)) is not None:
            uploads.ready(tx, row.id, n + 7, None)

    def remove_upload(self, tx: Any, key: str, n: int) -> None:
        if (row := self._one(tx, upload_rows, key, n)) is not None:
            sweep.remove_upload(tx, row.id, row.storage_key)
            sweep.remove_upload(tx, row.id, row.storage_key)

    def job(self, tx: Any, key: str, n: int) -> None:
        row = self._one(tx, upload_rows, key, n)
        given = {"input": {"upload": row.id}} if row is not None and n % 2 else {}
        submit.submit(tx, key, request(**given), default_quota=QUOTA)

    def voice(self, tx: Any, key: str, n: int) -> None:
        voice_id = voices.new_id()
        asked = VoiceRequest(
            inputs=(Input(url="https://media.example/a.wav"),), params=VoiceParams(voice=voice_id, transcript="So.")
        )
        job = submit.submit(tx, key, asked, default_quota=QUOTA).job
        voices.create(tx, voice_id, key, name="Ada", consent={}, job_id=job.id, transcription_id=None)

    def work(self, tx: Any, key: str, n: int) -> None:
        queueing.fill(tx, "cpu", 5, LEASE)
        job = claiming.claim(tx, "w1", ["cpu"], LEASE)
        if job is None:
            return
        if n % 5 == 0:
            finish.fail(tx, job.lease, ERROR)
            return
        found = result("recording", "excerpt", metrics={"audio_seconds": float(n)})
        for output in found["outputs"]:
            output |= {"bytes": 10 * n, "duration": 9.0, "start": 1.0, "end": 2.0, "transcript": "So.", "exact": True}
        finish.succeed(tx, job.lease, found)
        finish.succeed(tx, job.lease, found)  # its first answer was lost
        day = (job.key_id, self.clock.now.date().isoformat())
        self.heard[day] = self.heard.get(day, 0.0) + n

    def remove(self, tx: Any, key: str, n: int) -> None:
        if (row := self._one(tx, jobs, key, n)) is not None:
            sweep.remove(tx, row.id)

    def remove_all(self, tx: Any, key: str, n: int) -> None:
        bulk.step(tx, key, Action.DELETE, Filter(), before=None, default_quota=QUOTA, limit=1 + n)

    def remove_voice(self, tx: Any, key: str, n: int) -> None:
        if (row := self._one(tx, voice_rows, key, n)) is not None:
            voice = voices.get(tx, row.id, key)
            assert voice is not None
            sweep.remove_voice(tx, voice)

    def later(self, tx: Any, key: str, n: int) -> None:
        self.clock.now += timedelta(minutes=13 * n)

    def prune(self, tx: Any, key: str, n: int) -> None:
        sweep.prune(tx, retention_seconds=KEEP, idempotency_seconds=KEEP, limit=1 + n)

    def fold(self, tx: Any, key: str, n: int) -> None:
        usage.fold(tx)
        most = select(func.count(ledger.c.id)).group_by(ledger.c.key_id)
        assert max(tx.execute(most).scalars(), default=0) <= 2


STEPS = [name for name, member in vars(World).items() if callable(member) and not name.startswith("_")]


def test_the_ledger_is_the_sum_of_what_is_there(database: Database) -> None:
    clock = SimulatedClock(DAWN)
    database.clock = clock
    forget_the_disk(database)
    likely = ["upload", "job", "work", "work", *STEPS]

    @settings(
        max_examples=8,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(
        st.lists(st.tuples(st.sampled_from(likely), st.integers(0, 1), st.integers(0, 30)), min_size=10, max_size=40)
    )
    def check(steps: list[tuple[str, int, int]]) -> None:
        clock.now = DAWN
        world = World(database, clock)
        for name, key, n in steps:
            verb: Callable[..., None] = getattr(world, name)
            with database.write() as tx:
                verb(tx, world.key_ids[key], n)
            assert _told(database) == _from_scratch(database), name
            with database.read() as tx:
                today = usage.audio_seconds(tx, world.key_ids, clock.now)
            day = clock.now.date().isoformat()
            assert {k: v for k, v in today.items() if v} == {
                k: v for (k, on), v in world.heard.items() if v and on == day
            }, "what was deleted gives no hours back"

    check()


def test_pictures_are_not_audio(database: Database) -> None:
    key_id = new_key(database)
    asked = {"kind": "segmentation", "input": None, "inputs": [{"url": "https://media.example/a.png"}]}
    job = claimed(database, submitted(database, key_id, **asked, params={"mode": "automatic"}).id)
    with database.write() as tx:
        assert finish.succeed(tx, job.lease, result(metrics={"images": 3, "seconds": 1.0})).length == 3
        assert usage.audio_seconds(tx, [key_id], tx.instant())[key_id] == 0


def test_what_was_taken_over_from_another_job_is_no_work(database: Database) -> None:
    key_id = new_key(database)
    job = claimed(database, submitted(database, key_id).id)
    taken = {**result("speech", metrics={"audio_seconds": 60.0}), "cached": {"job": "job_1", "finished_at": "2026"}}
    with database.write() as tx:
        assert finish.succeed(tx, job.lease, taken).length == 60.0
        assert usage.audio_seconds(tx, [key_id], tx.instant()).get(key_id, 0.0) == 0


def test_ends_and_folds_at_once_lose_nothing_and_wait_for_nobody(database: Database) -> None:
    """Of one key, from several threads, with two schedulers folding all along."""
    key_id = new_key(database)
    leases = [claimed(database, submitted(database, key_id).id).lease for _ in range(24)]

    def end(lease: Any) -> None:
        database.run(finish.succeed, lease, result("speech", metrics={"audio_seconds": 60.0}))
        if int(lease.job_id[-1], 36) % 2:
            database.run(sweep.remove, lease.job_id)

    def fold(_: int) -> None:
        database.run(usage.fold)

    with ThreadPoolExecutor(8) as pool:
        ends = [pool.submit(end, lease) for lease in leases]
        folds = [pool.submit(fold, n) for n in range(20)]
        for done in (*ends, *folds):
            done.result(60)
    assert _told(database) == _from_scratch(database)
    database.run(usage.fold)
    with database.read() as tx:
        assert usage.audio_seconds(tx, [key_id], tx.instant())[key_id] == 24 * 60.0
        assert tx.execute(select(func.count()).select_from(ledger)).scalar_one() <= 2


@pytest.mark.parametrize("size", [0, 2**40])
def test_an_upload_counts_from_its_announcement(database: Database, size: int) -> None:
    key_id = new_key(database)
    with database.write() as tx:
        made = uploads.create(
            tx, "upl_1", key_id, "uploads/k/1", filename="a", content_type="audio/wav", size=size, sha256=None,
            ready=False,
        )  # fmt: skip
        assert usage.stored(tx, key_id) == size
        uploads.ready(tx, made.id, 17, None)
        assert usage.stored(tx, key_id) == 17
