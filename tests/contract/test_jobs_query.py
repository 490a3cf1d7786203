"""Reading jobs: one's own, page by page, and the figures of the queue; the log of a job."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from common.db.engine import Database
from common.db.tables import batches as batch_rows
from common.db.tables import jobs
from common.jobs import events, finish, query, queueing, running, sweep
from common.jobs.query import Filter
from common.states import Reason, State
from tests import batches
from tests.jobs import ERROR, LEASE, brought, claimed, look, new_key, result, submitted


def _pages(database: Database, key_id: str, which: Filter, limit: int) -> list[str]:
    found: list[str] = []
    before: str | None = None
    with database.read() as tx:
        while page := query.page(tx, key_id, which, before=before, limit=limit):
            assert len(page) <= limit
            found += [job.id for job in page]
            before = page[-1].id
    return found


def test_a_job_is_seen_by_its_key_alone(database: Database) -> None:
    mine, theirs = new_key(database), new_key(database)
    job = submitted(database, mine)
    with database.read() as tx:
        assert query.get(tx, job.id, mine) == job
        assert query.get(tx, job.id) == job
        assert query.get(tx, job.id, theirs) is None
        assert query.get(tx, "job_none", mine) is None
    assert _pages(database, theirs, Filter(), 10) == []


def _computed(database: Database, key_id: str, fingerprint: str | None) -> str:
    job = claimed(database, submitted(database, key_id).id)
    database.run(finish.succeed, job.lease, result(), fingerprint)
    return job.id


def test_the_latest_result_decided_by_the_same_is_the_key_s_own(database: Database) -> None:
    mine, theirs = new_key(database), new_key(database)
    for key_id, fingerprint in ((theirs, "same"), (mine, "another"), (mine, None)):
        _computed(database, key_id, fingerprint)
    unfinished = claimed(database, submitted(database, mine).id)
    database.run(finish.fail, unfinished.lease, ERROR)
    with database.read() as tx:
        assert query.latest(tx, mine, "same") is None
    first, second = (_computed(database, mine, "same") for _ in range(2))
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == first).values(finished_at=tx.now(-60.0)))
    with database.write() as tx:
        assert (found := query.latest(tx, mine, "same")) and (found.id, found.fingerprint) == (second, "same")
        assert sweep.remove(tx, second)
        assert (found := query.latest(tx, mine, "same")) and found.id == first
        assert sweep.remove(tx, first)
        assert query.latest(tx, mine, "same") is None


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_pages_hold_each_job_once_newest_first(database: Database, limit: int) -> None:
    key_id = new_key(database)
    ids = [submitted(database, key_id).id for _ in range(7)]
    submitted(database, new_key(database))
    assert _pages(database, key_id, Filter(), limit) == sorted(ids, reverse=True)


def test_a_page_does_not_shift_when_a_job_is_added(database: Database) -> None:
    key_id = new_key(database)
    for _ in range(4):
        submitted(database, key_id)
    with database.read() as tx:
        first = query.page(tx, key_id, Filter(), before=None, limit=2)
    newest = submitted(database, key_id).id
    with database.read() as tx:
        second = query.page(tx, key_id, Filter(), before=first[-1].id, limit=2)
    assert newest not in {job.id for job in [*first, *second]}
    assert len({job.id for job in [*first, *second]}) == 4


def test_filters(database: Database) -> None:
    key_id = new_key(database)
    by_state = {state: brought(database, key_id, state).id for state in State}
    batch = submitted(database, key_id, batch="b1")
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == batch.id).values(created_at=tx.now(3600.0)))
    noon = look(database, batch.id).created_at - timedelta(seconds=60)

    def found(**members: object) -> set[str]:
        return set(_pages(database, key_id, Filter(**members), 50))  # type: ignore[arg-type]

    ended = (State.FAILED, State.CANCELLED)
    assert found(states=ended) == {by_state[state] for state in ended}
    assert found(states=()) == set()
    assert found(batch="b1") == found(created_after=noon) == {batch.id}
    assert found(created_before=noon) == set(by_state.values())
    assert found(kind="separation", engine="rnnoise") == {*by_state.values(), batch.id}
    assert found(kind="tts") == found(engine="other") == found(batch="b") == set()


def test_depth_counts_what_is_unfinished(database: Database) -> None:
    one, other = new_key(database), new_key(database)
    for state in State:
        brought(database, one, state)
    submitted(database, other)
    with database.read() as tx:
        assert query.depth(tx) == {"cpu": {"waiting": 2, "queued": 1, "running": 1, "later": 0}}
        assert query.depth(tx, other) == {"cpu": {"waiting": 1, "queued": 0, "running": 0, "later": 0}}
        assert query.depth(tx, "key_none") == {}


def test_depth_tells_apart_what_no_worker_could_be_for_yet(database: Database) -> None:
    """By day 5,000 episodes wait for their window: no reason to start a worker."""
    key_id = new_key(database)
    nightly = batches.made(database, key_id, 3)
    running = batches.start(database)
    assert running is not None
    undue = submitted(database, key_id)
    submitted(database, key_id, input={"job": undue.id, "output": "speech"})
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == undue.id).values(run_at=tx.now(60.0)))
        queueing.fill(tx, "cpu", 1, LEASE)
        assert query.depth(tx) == {"cpu": {"waiting": 1, "queued": 1, "running": 1, "later": 2}}
        # Its window closes: what runs goes on to its block's end, what is queued will be recalled in a moment.
        tx.execute(update(batch_rows).where(batch_rows.c.id == nightly.id).values(open_until=tx.now(-1.0)))
        assert query.depth(tx) == {"cpu": {"waiting": 0, "queued": 0, "running": 1, "later": 4}}


def test_ahead_counts_those_that_come_before(database: Database) -> None:
    key_id = new_key(database)
    slow = [submitted(database, key_id, priority="batch") for _ in range(3)]
    quick = submitted(database, key_id, priority="interactive")
    submitted(database, new_key(database), priority="interactive")
    with database.write() as tx:
        for number, job in enumerate(slow):
            tx.execute(update(jobs).where(jobs.c.id == job.id).values(run_at=tx.now(-60.0 + number)))
    with database.read() as tx:
        assert [query.ahead(tx, job) for job in slow] == [1, 2, 3]
        assert query.ahead(tx, quick) == 0
        assert query.ahead(tx, slow[2], at_most=2) == 2


def test_the_oldest_that_is_due(database: Database) -> None:
    key_id = new_key(database)
    job = submitted(database, key_id)
    submitted(database, key_id)
    brought(database, key_id, State.SUCCEEDED)
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == job.id).values(run_at=tx.now(-500.0)))
    with database.read() as tx:
        (seconds,) = query.oldest(tx).values()
    assert 500 <= seconds < 560


def test_the_log_of_a_job_in_order_and_from_any_place(database: Database) -> None:
    key_id = new_key(database)
    job = claimed(database, submitted(database, key_id).id)
    brought(database, key_id, State.SUCCEEDED)
    with database.write() as tx:
        events.log(tx, job.id, "warning", "batch_halved", "The batch was halved.", size=4)
        running.give_back(tx, job.lease, Reason.PREEMPTED)
        whole = events.after(tx, job.id)
        assert [event.data.get("state") or event.data["code"] for event in whole] == [
            "waiting", "running", "batch_halved", "waiting",
        ]  # fmt: skip
        assert whole[1].data["worker"] == "w1"
        assert whole[2].data == {
            "level": "warning",
            "code": "batch_halved",
            "message": "The batch was halved.",
            "size": 4,
        }
        assert events.after(tx, job.id, whole[1].id) == whole[2:]
        assert events.after(tx, job.id, limit=2) == whole[:2]
        assert events.after(tx, job.id, whole[-1].id) == []
        assert [event.at for event in whole] == sorted(event.at for event in whole)
