"""From waiting to running: room, fair turns, interactive before batch, bells, claims."""

from __future__ import annotations

import pytest
from sqlalchemy import func, insert, select, update

from common.db import processes
from common.db.engine import Database
from common.db.tables import BATCH, jobs
from common.db.tables import processes as process_rows
from common.jobs import claiming, finish, queueing, running
from common.jobs.job import Job
from common.jobs.queueing import Bell
from common.states import Reason, State
from tests.jobs import LEASE, brought, claimed, look, new_key, queue_up, result, submitted


def _worker(database: Database, name: str, *lanes: str) -> None:
    with database.write() as tx:
        processes.register(tx, name, "worker", lanes=lanes or ["cpu"])


def _fill(database: Database, ahead: int, lane: str = "cpu") -> list[Bell]:
    with database.write() as tx:
        return queueing.fill(tx, lane, ahead, LEASE)


def _claim(database: Database, worker: str = "w1", **more: object) -> Job | None:
    with database.write() as tx:
        return claiming.claim(tx, worker, ["cpu"], LEASE, **more)  # type: ignore[arg-type]


def _crowd(database: Database, key_id: str, count: int, **values: object) -> None:
    """Many waiting jobs at once, as a batch of episodes leaves them."""
    model = submitted(database, key_id, priority="batch")
    with database.write() as tx:
        row = dict(tx.execute(select(jobs).where(jobs.c.id == model.id)).one()._mapping)
        rows = [row | {"id": f"job_{key_id[-8:]}_{n:06}"} | values for n in range(count - 1)]
        tx.execute(insert(jobs), rows)
        if values:
            tx.execute(update(jobs).where(jobs.c.id == model.id).values(**values))


# --- Room -------------------------------------------------------------------------------------------------------------


def test_room_is_for_one_worker_where_none_is_known(database: Database) -> None:
    _crowd(database, new_key(database), 10)
    assert len(_fill(database, 2)) == 2
    assert _fill(database, 2) == []


def test_room_grows_with_the_workers_that_can_take_a_job(database: Database) -> None:
    _crowd(database, new_key(database), 30)
    for name in ("w1", "w2", "paused", "draining", "ill", "lost"):
        _worker(database, name)
    _worker(database, "other lane", "gpu")
    with database.write() as tx:
        processes.register(tx, "scheduler", "scheduler", lanes=["cpu"])
        processes.order(tx, "paused", "pause")
        processes.order(tx, "draining", "drain")
        tx.execute(update(process_rows).where(process_rows.c.name == "lost").values(seen_at=tx.now(-LEASE - 1)))
        tx.execute(update(process_rows).where(process_rows.c.name == "ill").values(quarantined_until=tx.now(60.0)))
    assert len(_fill(database, 3)) == 6


def test_an_end_makes_room(database: Database) -> None:
    _crowd(database, new_key(database), 10)
    _fill(database, 2)
    assert _claim(database) is not None
    assert len(_fill(database, 2)) == 1


def test_each_lane_has_its_own_room(database: Database) -> None:
    key_id = new_key(database)
    _crowd(database, key_id, 5)
    assert _fill(database, 2, lane="gpu") == []
    assert len(_fill(database, 2, lane="cpu")) == 2


def test_what_is_not_due_stays(database: Database) -> None:
    key_id = new_key(database)
    job = submitted(database, key_id)
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == job.id).values(run_at=tx.now(60.0)))
    assert _fill(database, 5) == []


def test_the_oldest_of_a_key_goes_first(database: Database) -> None:
    key_id = new_key(database)
    made = [submitted(database, key_id).id for _ in range(5)]
    with database.write() as tx:
        for age, job_id in enumerate(reversed(made)):
            tx.execute(update(jobs).where(jobs.c.id == job_id).values(run_at=tx.now(-60.0 - age)))
    assert [bell.job_id for bell in _fill(database, 3)] == made[:3]
    assert [claimed.id for claimed in (_claim(database), _claim(database)) if claimed] == made[:2]


def test_a_bell_says_what_a_person_wants_to_see(database: Database) -> None:
    job = submitted(database, new_key(database), priority="batch", batch="episodes")
    assert _fill(database, 2) == [Bell(job.id, "cpu", False, "separation", "rnnoise", "episodes")]


# --- Turns ------------------------------------------------------------------------------------------------------------


def test_behind_5000_jobs_of_one_key_anothers_first_is_next(database: Database) -> None:
    crowd, late = new_key(database), new_key(database)
    _crowd(database, crowd, 5000, priority=BATCH)
    _fill(database, 2)
    job = submitted(database, late, priority="batch")
    assert _claim(database) is not None
    assert [bell.job_id for bell in _fill(database, 2)] == [job.id]


def test_turns_follow_the_weights(database: Database) -> None:
    light, heavy = new_key(database, weight=1.0), new_key(database, weight=3.0)
    for key_id in (light, heavy):
        _crowd(database, key_id, 60)
    with database.write() as tx:
        released = queueing.release(tx, "cpu", BATCH, 40)
    counts = {key_id: sum(job.key_id == key_id for job in released) for key_id in (light, heavy)}
    assert counts == {light: 10, heavy: 30}


def test_running_jobs_count_for_whose_turn_it_is(database: Database) -> None:
    busy, idle = new_key(database), new_key(database)
    for _ in range(3):
        brought(database, busy, State.RUNNING)
    _crowd(database, busy, 9)
    _crowd(database, idle, 9)
    with database.write() as tx:
        assert {job.key_id for job in queueing.release(tx, "cpu", BATCH, 3)} == {idle}


def test_interactive_goes_before_batch(database: Database) -> None:
    crowd, person = new_key(database), new_key(database)
    _crowd(database, crowd, 20)
    quick = submitted(database, person, priority="interactive")
    assert next(bell.job_id for bell in _fill(database, 2)) == quick.id
    assert _claim(database).id == quick.id


def test_interactive_is_not_kept_out_by_a_queue_full_of_batch_jobs(database: Database) -> None:
    """Batch jobs stand in every place of the queue: an interactive one is released all the same, and claimed first."""
    crowd, person = new_key(database), new_key(database)
    _worker(database, "w1")
    _crowd(database, crowd, 20)
    _fill(database, 2)
    running = _claim(database)
    assert running is not None
    _fill(database, 2)
    quick = submitted(database, person, priority="interactive")
    assert [bell.job_id for bell in _fill(database, 2)] == [quick.id]
    assert _fill(database, 2) == []
    assert _claim(database).id == quick.id


def test_interactive_jobs_have_their_own_bound(database: Database) -> None:
    key_id = new_key(database)
    _crowd(database, key_id, 20)
    for _ in range(10):
        submitted(database, key_id, priority="interactive")
    assert len(_fill(database, 2)) == 2
    assert _fill(database, 2) == []


def test_each_step_releases_no_more_than_asked(database: Database) -> None:
    _crowd(database, new_key(database), 5)
    with database.write() as tx:
        assert queueing.release(tx, "cpu", BATCH, 0) == []
        assert len(queueing.release(tx, "cpu", BATCH, 3)) == 3
        assert len(queueing.release(tx, "cpu", BATCH, 30)) == 2
        assert queueing.release(tx, "cpu", BATCH, 30) == []


# --- Bells that were not heard ----------------------------------------------------------------------------------------


def _rung_again(database: Database) -> list[str]:
    with database.write() as tx:
        return [job.id for job in queueing.unanswered(tx, 15.0, LEASE)]


def _long_silent(database: Database, *job_ids: str) -> None:
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(rung_at=tx.now(-20.0)))


def test_a_bell_nobody_answered_is_rung_again_once_a_while(database: Database) -> None:
    key_id = new_key(database)
    for name in ("w1", "w2"):
        _worker(database, name)
    silent, fresh = submitted(database, key_id), submitted(database, key_id)
    queue_up(database, silent.id, fresh.id)
    _long_silent(database, silent.id)
    assert _rung_again(database) == [silent.id]
    assert _rung_again(database) == []
    assert look(database, silent.id).state is State.QUEUED


def test_only_queued_jobs_are_rung_again(database: Database) -> None:
    key_id = new_key(database)
    _worker(database, "free")
    for state in State:
        _long_silent(database, brought(database, key_id, state).id)
    assert [look(database, job_id).state for job_id in _rung_again(database)] == [State.QUEUED]


def test_bells_are_rung_again_in_the_order_of_the_queue(database: Database) -> None:
    key_id = new_key(database)
    _worker(database, "w1")
    slow = submitted(database, key_id, priority="batch")
    quick = submitted(database, key_id, priority="interactive")
    queue_up(database, slow.id, quick.id)
    _long_silent(database, slow.id, quick.id)
    assert _rung_again(database) == [quick.id]
    assert _rung_again(database) == [slow.id]


def test_as_many_are_rung_again_as_workers_of_the_lane_are_free(database: Database) -> None:
    """While all are busy a bell would only be a claim in vain for each of them later."""
    key_id = new_key(database)
    ids = [submitted(database, key_id).id for _ in range(5)]
    queue_up(database, *ids)
    _long_silent(database, *ids)
    assert _rung_again(database) == [], "nobody is there"
    _worker(database, "busy")
    claimed(database, ids[0], "busy")
    _worker(database, "of another lane", "gpu")
    assert _rung_again(database) == [], "everybody is busy"
    for name in ("free", "also free", "paused"):
        _worker(database, name)
    with database.write() as tx:
        processes.order(tx, "paused", "pause")
    assert _rung_again(database) == ids[1:3]
    assert _rung_again(database) == ids[3:]


# --- Claims -----------------------------------------------------------------------------------------------------------


def test_a_claim_gives_a_lease_and_the_next_attempt(database: Database) -> None:
    job = submitted(database, new_key(database))
    queue_up(database, job.id)
    got = _claim(database, "w7")
    assert got is not None
    assert (got.id, got.worker, got.attempt, got.reason) == (job.id, "w7", 1, Reason.CLAIMED)
    assert (got.lease.job_id, got.lease.attempt, got.lease.worker) == (job.id, 1, "w7")
    assert got.lease_until is not None
    assert got.started_at is not None
    assert abs((got.lease_until - got.started_at).total_seconds() - LEASE) < 0.01
    assert _claim(database, "w8") is None


def test_the_first_start_is_kept(database: Database) -> None:
    job = claimed(database, submitted(database, new_key(database)).id)
    with database.write() as tx:
        running.give_back(tx, job.lease, Reason.DRAINED)
    again = claimed(database, job.id)
    assert (again.started_at, again.attempt) == (job.started_at, 2)


@pytest.mark.parametrize(
    ("lanes", "engines", "got"),
    [
        (["gpu"], None, False), ([], None, False), (["gpu", "cpu"], None, True),
        (["cpu"], [], False), (["cpu"], ["sam-audio-base"], False), (["cpu"], ["sam-audio-base", "rnnoise"], True),
    ],
)  # fmt: skip
def test_a_worker_claims_only_what_it_can_run(
    database: Database, lanes: list[str], engines: list[str] | None, got: bool
) -> None:
    job = submitted(database, new_key(database))
    queue_up(database, job.id)
    for job_id in (job.id, None):
        with database.write() as tx:
            found = claiming.claim(tx, "w1", lanes, LEASE, job_id=job_id, engines=engines)
            assert (found is not None) == got
            tx.connection.rollback()


@pytest.mark.parametrize("control", ["pause", "drain", "quarantine"])
def test_a_barred_worker_claims_nothing(database: Database, control: str) -> None:
    job = submitted(database, new_key(database))
    queue_up(database, job.id)
    for name in ("w1", "w2"):
        _worker(database, name)
    with database.write() as tx:
        if control == "quarantine":
            tx.execute(update(process_rows).where(process_rows.c.name == "w1").values(quarantined_until=tx.now(60.0)))
        else:
            processes.order(tx, "w1", control)
    assert _claim(database, "w1", job_id=job.id) is None
    assert _claim(database, "w1") is None
    with database.write() as tx:
        processes.order(tx, "w1", "run")
    assert _claim(database, "w1") is not None


def test_quarantine_ends_by_itself(database: Database) -> None:
    job = submitted(database, new_key(database))
    queue_up(database, job.id)
    _worker(database, "w1")
    with database.write() as tx:
        tx.execute(update(process_rows).values(quarantined_until=tx.now(-1.0)))
    assert _claim(database, "w1") is not None


def test_a_named_claim_takes_that_job_or_none(database: Database) -> None:
    key_id = new_key(database)
    first, second = submitted(database, key_id), submitted(database, key_id)
    queue_up(database, first.id, second.id)
    assert _claim(database, job_id=second.id).id == second.id
    assert _claim(database, job_id=second.id) is None
    assert look(database, first.id).state is State.QUEUED


def test_a_night_of_many_keys_ends_with_every_job_done_once(database: Database) -> None:
    key_ids = [new_key(database) for _ in range(4)]
    for number, key_id in enumerate(key_ids):
        _crowd(database, key_id, 5 * (number + 1))
    done: list[str] = []
    while bells := _fill(database, 3):
        assert len(bells) <= 3
        while job := _claim(database):
            with database.write() as tx:
                finish.succeed(tx, job.lease, result())
            done.append(job.id)
    assert len(done) == len(set(done)) == 50
    with database.read() as tx:
        assert tx.execute(select(func.count()).where(jobs.c.state == State.SUCCEEDED)).scalar_one() == 50
