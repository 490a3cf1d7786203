"""What time brings: rescue, poison and quarantine, files to delete, retention."""

from __future__ import annotations

from sqlalchemy import select, update

from common.db import processes, uploads
from common.db.engine import Database
from common.db.tables import blocks, callbacks, deliveries, events, jobs, sweeps
from common.db.tables import processes as process_rows
from common.db.tables import uploads as upload_rows
from common.jobs import callbacks as outbox
from common.jobs import claiming, finish, sweep
from common.jobs.job import Job
from common.states import Reason, State
from tests.jobs import (
    LEASE,
    brought,
    checkpointed,
    claimed,
    look,
    lose_lease,
    new_key,
    queue_up,
    snapshot,
    submitted,
)  # fmt: skip

KEEP = {"retention_seconds": 1000.0, "idempotency_seconds": 100.0}


def _die(database: Database, job_id: str, worker: str = "w1", blocks_done: int | None = None) -> Job:
    """The job is claimed and its worker dies on it, after so many blocks; then it is rescued."""
    job = claimed(database, job_id, worker)
    for index in range(blocks_done or 0):
        checkpointed(database, job, index)
    lose_lease(database, job_id)
    with database.write() as tx:
        rescued = sweep.rescue(tx, job_id, max_crashes=3)
    assert rescued is not None
    return rescued


def _register(database: Database, *names: str) -> None:
    with database.write() as tx:
        for name in names:
            processes.register(tx, name, "worker", lanes=["cpu"])


def _age(database: Database, job_id: str, seconds: float) -> None:
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == job_id).values(finished_at=tx.now(-seconds)))


def test_only_leases_that_ran_out_are_found(database: Database) -> None:
    key_id = new_key(database)
    late = brought(database, key_id, State.RUNNING)
    for state in State:
        brought(database, key_id, state)
    lose_lease(database, late.id)
    with database.read() as tx:
        assert sweep.expired_leases(tx) == [late.id]


def test_a_rescued_job_keeps_its_place_and_its_attempt_is_swept(database: Database) -> None:
    job = submitted(database, new_key(database))
    rescued = _die(database, job.id)
    assert (rescued.state, rescued.reason, rescued.run_at) == (State.WAITING, Reason.LEASE_EXPIRED, job.run_at)
    assert (rescued.crashes, rescued.losses, rescued.attempt) == (1, 1, 1)
    with database.read() as tx:
        assert list(tx.execute(select(sweeps.c.prefix)).scalars()) == [f"jobs/{job.id}/1/"]
        assert snapshot(tx).events[job.id][-1]["lost_worker"] == "w1"


def test_each_lost_attempt_is_swept_once(database: Database) -> None:
    job = submitted(database, new_key(database))
    for _ in range(3):
        _die(database, job.id)
    with database.read() as tx:
        assert sorted(tx.execute(select(sweeps.c.prefix)).scalars()) == [f"jobs/{job.id}/{n}/" for n in (1, 2, 3)]


def test_three_deaths_are_poison(database: Database) -> None:
    job = submitted(database, new_key(database))
    assert [_die(database, job.id).state for _ in range(3)] == [State.WAITING, State.WAITING, State.FAILED]
    failed = look(database, job.id)
    assert failed.reason is Reason.CRASHED
    assert failed.error is not None
    assert failed.error["code"] == "worker_crashed"
    assert failed.error["hint"]


def test_two_deaths_on_the_same_block_are_poison(database: Database) -> None:
    job = submitted(database, new_key(database))
    assert _die(database, job.id, blocks_done=2).state is State.WAITING
    assert _die(database, job.id).state is State.FAILED


def test_a_job_that_gets_on_between_deaths_has_three(database: Database) -> None:
    job = submitted(database, new_key(database))
    assert [_die(database, job.id, blocks_done=n).state for n in (1, 2, 3)] == [
        State.WAITING, State.WAITING, State.FAILED,
    ]  # fmt: skip


def test_a_worker_that_dies_on_two_jobs_is_suspected_instead(database: Database) -> None:
    _register(database, "bad", "good")
    key_id = new_key(database)
    first, second, third = (submitted(database, key_id).id for _ in range(3))
    assert _die(database, first, "bad").crashes == 1
    assert _die(database, second, "bad").crashes == 0
    queue_up(database, third)
    with database.write() as tx:
        assert claiming.claim(tx, "bad", ["cpu"], LEASE) is None
        assert claiming.claim(tx, "good", ["cpu"], LEASE) is not None
        log = [row.data["code"] for row in tx.execute(select(events).where(events.c.type == "log"))]
    assert log == ["worker_quarantined"]


def test_of_jobs_that_were_done_at_once_nobody_is_blamed(database: Database) -> None:
    """Not even on the same block; alone, each is judged as ever."""
    _register(database, "w1")
    key_id = new_key(database)
    leader = claimed(database, submitted(database, key_id).id)
    queue_up(database, *(submitted(database, key_id).id for _ in range(2)))
    with database.write() as tx:
        company = [leader, *claiming.join(tx, leader, ["cpu"], LEASE, 5)]
    assert [job.company for job in company[1:]] == [3, 3]
    for job in company:
        checkpointed(database, job, 0)
        lose_lease(database, job.id)
    for job in company:
        with database.write() as tx:
            rescued = sweep.rescue(tx, job.id, max_crashes=3)
        assert rescued is not None and rescued.state is State.WAITING
        assert (rescued.crashes, rescued.losses, rescued.crashed_at_block) == (0, 1, None)
    again = claimed(database, leader.id)
    assert again.company is None
    queue_up(database, *(job.id for job in company[1:]))
    with database.write() as tx:
        assert claiming.join(tx, again, ["cpu"], LEASE, 5) == []
    lose_lease(database, leader.id)
    with database.write() as tx:
        alone = sweep.rescue(tx, leader.id, max_crashes=3)
        assert alone is not None and (alone.crashes, alone.crashed_at_block) == (1, 1)
        (worker,) = processes.list_all(tx, LEASE)
    assert worker.crashed_jobs == (leader.id,) and worker.quarantined_until is None


def test_dying_twice_on_one_job_makes_no_worker_suspect(database: Database) -> None:
    _register(database, "w1")
    job = submitted(database, new_key(database))
    assert [_die(database, job.id).crashes for _ in range(2)] == [1, 2]


def test_two_jobs_that_take_every_worker_down_do_not_go_on_for_ever(database: Database) -> None:
    """Each makes the worker suspect in the other's stead; after ten deaths that is no excuse any more."""
    _register(database, "w1")
    key_id = new_key(database)
    pair = [submitted(database, key_id).id for _ in range(2)]
    deaths = 0
    while any(look(database, job_id).state is not State.FAILED for job_id in pair):
        for job_id in pair:
            if look(database, job_id).state is State.WAITING:
                with database.write() as tx:
                    tx.execute(update(process_rows).values(quarantined_until=None))
                _die(database, job_id)
                deaths += 1
                assert deaths <= 2 * sweep.MAX_LOSSES
    assert all(look(database, job_id).reason is Reason.CRASHED for job_id in pair)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_sweeps_are_due_in_their_time_and_forgotten_when_done(database: Database) -> None:
    with database.write() as tx:
        finish.sweep(tx, "jobs/a/1/", 100.0)
        finish.sweep(tx, "jobs/b/")
        (due,) = sweep.due_sweeps(tx)
        assert due.prefix == "jobs/b/"
        sweep.swept(tx, [due.id])
        sweep.swept(tx, [due.id])
        assert sweep.due_sweeps(tx) == []


def test_a_deleted_job_takes_its_log_and_its_files_along(database: Database) -> None:
    key_id = new_key(database)
    job = claimed(database, submitted(database, key_id).id)
    checkpointed(database, job)
    with database.write() as tx:
        finish.fail(tx, job.lease, {"code": "internal", "message": "x"})
        assert sweep.remove(tx, job.id)
        now = snapshot(tx)
        assert (now.jobs, now.blocks) == ({}, frozenset())
        assert tx.execute(select(events)).all() == tx.execute(select(blocks)).all() == []
        assert f"jobs/{job.id}/" in set(tx.execute(select(sweeps.c.prefix)).scalars())
        assert now.callbacks[job.id] == ["job.failed"]


def test_a_job_that_has_not_ended_is_not_deleted_and_keeps_its_files(database: Database) -> None:
    key_id = new_key(database)
    for state in (State.WAITING, State.QUEUED, State.RUNNING):
        job = brought(database, key_id, state)
        with database.write() as tx:
            assert not sweep.remove(tx, job.id)
            assert tx.execute(select(sweeps)).all() == []
        assert look(database, job.id) == job


# --- Retention --------------------------------------------------------------------------------------------------------


def test_prune_keeps_what_is_young_or_unfinished(database: Database) -> None:
    key_id = new_key(database)
    old = {state: brought(database, key_id, state).id for state in State}
    young = brought(database, key_id, State.SUCCEEDED).id
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id != young).values(created_at=tx.now(-9999.0), run_at=tx.now(-9999.0)))
        tx.execute(
            update(jobs).where(jobs.c.id != young, jobs.c.finished_at.is_not(None)).values(finished_at=tx.now(-9999.0))
        )
    with database.write() as tx:
        assert sweep.prune(tx, **KEEP) == 4
        assert set(snapshot(tx).jobs) == {young, old[State.WAITING], old[State.QUEUED], old[State.RUNNING]}


def test_prune_goes_in_steps_the_oldest_first(database: Database) -> None:
    key_id = new_key(database)
    ids = [brought(database, key_id, State.SUCCEEDED).id for _ in range(5)]
    for age, job_id in enumerate(ids):
        _age(database, job_id, 2000.0 - age)
    for left in ([2, 3, 4], [4], []):
        with database.write() as tx:
            sweep.prune(tx, **KEEP, limit=2)
            assert set(snapshot(tx).jobs) == {ids[n] for n in left}


def test_old_idempotency_keys_are_forgotten(database: Database) -> None:
    key_id = new_key(database)
    ended, waiting = submitted(database, key_id, "ended"), submitted(database, key_id, "waiting")
    with database.write() as tx:
        finish.cancel(tx, ended.id)
        sweep.prune(tx, **KEEP)
    assert look(database, ended.id).idempotency_key == "ended"
    _age(database, ended.id, 200.0)
    with database.write() as tx:
        sweep.prune(tx, **KEEP)
    assert look(database, ended.id).idempotency_key is None
    assert look(database, waiting.id).idempotency_key == "waiting"
    assert submitted(database, key_id, "ended", metadata={"other": "body"}).id != ended.id


def test_uploads_and_told_callbacks_go_too(database: Database) -> None:
    key_id = new_key(database)
    with database.write() as tx:
        for name, age in (("old", 2000.0), ("young", 10.0)):
            made = uploads.create(
                tx, f"upl_{name}", key_id, f"uploads/k/{name}", filename="a.wav", content_type="audio/wav", size=1,
                sha256=None, ready=True,
            )  # fmt: skip
            tx.execute(update(upload_rows).where(upload_rows.c.id == made.id).values(created_at=tx.now(-age)))
        told, pending = (outbox.put(tx, key_id, f"https://{n}.example", "test", "{}") for n in ("a", "b"))
        (one,) = [c for c in outbox.due(tx, 10, 60.0) if c.id == told]
        outbox.record(
            tx, one, status=200, error=None, duration_ms=1, response=None, next_in=None, gone=False,
            disable_after_seconds=1.0,
        )  # fmt: skip
        tx.execute(update(callbacks).values(created_at=tx.now(-2000.0)))
        sweep.prune(tx, **KEEP)
        assert [row.id for row in tx.execute(select(upload_rows))] == ["upl_young"]
        assert [row.prefix for row in tx.execute(select(sweeps))] == ["uploads/k/old"]
        assert [row.id for row in tx.execute(select(callbacks))] == [pending]
        assert tx.execute(select(deliveries)).all() == []


def test_processes_not_seen_for_a_week_are_forgotten(database: Database) -> None:
    _register(database, "old", "young")
    with database.write() as tx:
        tx.execute(
            update(process_rows).where(process_rows.c.name == "old").values(seen_at=tx.now(-8 * 86400.0))
        )  # fmt: skip
        sweep.prune(tx, **KEEP)
        assert [process.name for process in processes.list_all(tx, LEASE)] == ["young"]
