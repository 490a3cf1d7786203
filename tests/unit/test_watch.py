"""The watch beside a job, where the database is slow, away or says stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from common.db.engine import Database, Tx
from common.errors import NightshiftError
from common.jobs import finish, sweep
from common.jobs.job import Job
from common.states import Reason, State
from tests.house import wait_for
from tests.jobs import claimed, look, lose_lease, new_key, submitted
from worker.outcome import Cancel, Lost, YieldNow
from worker.watch import EXIT_STALLED, Rhythm, Watch

RHYTHM = Rhythm(lease=1.2, heartbeat=0.2, poll=0.05, stall=60, drain=60, alive=30, max_attempts=4)


class Frozen(Database):
    """A database behind a half-open connection: from some moment on, nothing comes back."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.hang = threading.Event()
        self.thaw = threading.Event()

    @contextmanager
    def read(self) -> Iterator[Tx]:
        if self.hang.is_set():
            self.thaw.wait()
        with super().read() as tx:
            yield tx


@pytest.fixture
def job(sqlite_database: Database) -> Job:
    job = submitted(sqlite_database, new_key(sqlite_database))
    return claimed(sqlite_database, job.id, lease_seconds=RHYTHM.lease)


def watch_of(
    database: Database, job: Job, draining: Callable[[], bool] = lambda: False, rhythm: Rhythm = RHYTHM, **more: object
) -> Watch:
    return Watch(database, job, ["cpu"], ["rnnoise"], rhythm, draining, **more)  # type: ignore[arg-type]


def stopped(watch: Watch, seconds: float = 20.0) -> Exception:
    """What `check` raises, sooner or later."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            watch.check()
        except Exception as error:
            return error
        watch.moved()
        time.sleep(0.02)
    raise AssertionError("the watch never stopped the job")


def test_a_lease_is_kept_while_the_job_moves(sqlite_database: Database, job: Job) -> None:
    with watch_of(sqlite_database, job) as watch:
        for _ in range(40):
            watch.moved({"phase": "separate"})
            watch.check()
            time.sleep(0.05)
        assert look(sqlite_database, job.id).progress == {"phase": "separate"}
        with sqlite_database.read() as tx:
            assert look(sqlite_database, job.id).lease_until > tx.instant()


def test_a_worker_cut_off_from_the_database_fences_itself_before_its_lease_ends(sqlite_url: str) -> None:
    database = Frozen(sqlite_url)
    job = submitted(database, new_key(database))
    job = claimed(database, job.id, lease_seconds=RHYTHM.lease)
    begun = time.monotonic()
    with watch_of(database, job) as watch:
        database.hang.set()
        assert isinstance(stopped(watch), Lost)
        # Renewed at most once more before the freeze; what matters is that it stopped by its own clock.
        assert time.monotonic() - begun >= RHYTHM.fence
        database.thaw.set()
    database.dispose()


def test_a_lost_lease_and_a_cancel_stop_the_job(sqlite_database: Database, job: Job) -> None:
    with watch_of(sqlite_database, job) as watch:
        with sqlite_database.write() as tx:
            finish.cancel(tx, job.id)
        assert isinstance(stopped(watch), Cancel)
    other = claimed(sqlite_database, submitted(sqlite_database, job.key_id).id)
    with watch_of(sqlite_database, other) as watch:
        with sqlite_database.write() as tx:
            finish.fail(tx, other.lease, {"code": "internal", "message": ""})
        assert isinstance(stopped(watch), Lost)


def test_a_drain_asks_for_the_blocks_end_first_and_then_insists(sqlite_database: Database, job: Job) -> None:
    rhythm = replace(RHYTHM, drain=0.5)
    with watch_of(sqlite_database, job, lambda: True, rhythm) as watch:
        wait_for(lambda: watch.yield_for is Reason.DRAINED)
        watch.check()
        error = stopped(watch)
        assert isinstance(error, YieldNow) and error.reason is Reason.DRAINED


def test_a_job_that_does_not_move_is_stopped(sqlite_database: Database, job: Job) -> None:
    with watch_of(sqlite_database, job, rhythm=replace(RHYTHM, stall=0.3)) as watch:
        time.sleep(1.0)
        with pytest.raises(NightshiftError) as raised:
            watch.check()
    assert raised.value.code == "engine_stalled"


@pytest.mark.parametrize(
    ("order", "state", "reason"),
    [("stall", State.WAITING, Reason.BACKOFF), ("cancel", State.CANCELLED, Reason.BY_CALLER)],
)
def test_a_job_that_does_not_heed_ends_its_process_and_is_not_lost(
    sqlite_database: Database, job: Job, order: str, state: State, reason: Reason
) -> None:
    ended: list[int] = []
    rhythm = replace(RHYTHM, stall=0.3 if order == "stall" else 60)
    with watch_of(sqlite_database, job, rhythm=rhythm, end_process=ended.append):
        if order == "cancel":
            with sqlite_database.write() as tx:
                finish.cancel(tx, job.id)
        wait_for(lambda: ended)
    assert ended[0] == EXIT_STALLED
    after = look(sqlite_database, job.id)
    assert (after.state, after.reason) == (state, reason)


def test_jobs_that_end_with_its_process_are_tried_again(sqlite_database: Database, job: Job) -> None:
    """They move, and would never be ended for themselves."""
    other = claimed(sqlite_database, submitted(sqlite_database, new_key(sqlite_database)).id)
    ended: list[int] = []
    beside = watch_of(sqlite_database, other)
    with watch_of(
        sqlite_database, job, rhythm=replace(RHYTHM, stall=0.3), end_process=ended.append, beside=lambda: [beside]
    ):
        wait_for(lambda: ended)
    for one in (job, other):
        after = look(sqlite_database, one.id)
        assert (after.state, after.reason, after.failures) == (State.WAITING, Reason.BACKOFF, 1)
        assert after.error is None or after.error["code"] == "engine_stalled"


def test_a_job_that_is_to_end_has_its_lease_until_its_process_is_ended() -> None:
    for lease, heartbeat in ((30.0, 10.0), (3.0, 0.5), (300.0, 10.0)):
        rhythm = replace(RHYTHM, lease=lease, heartbeat=heartbeat)
        assert 0 < rhythm.grace <= 20
        assert heartbeat + rhythm.grace < lease


def test_what_lost_its_lease_elsewhere_may_not_renew(sqlite_database: Database, job: Job) -> None:
    lose_lease(sqlite_database, job.id)
    with sqlite_database.write() as tx:
        assert sweep.rescue(tx, job.id, max_crashes=3) is not None
    with watch_of(sqlite_database, job) as watch:
        assert isinstance(stopped(watch), Lost)
    assert look(sqlite_database, job.id).state is State.WAITING
