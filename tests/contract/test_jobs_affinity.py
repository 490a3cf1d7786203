"""Claims of a worker that has engines loaded: it goes on with them, and nobody waits long for that. Bells as hints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from common.db import processes
from common.db.engine import Database, SimulatedClock
from common.db.tables import BATCH, INTERACTIVE, events, jobs
from common.jobs import claiming, finish, queueing, sweep
from common.states import State
from tests.jobs import LEASE, brought, look, new_key, queue_up, result, submitted

PATIENCE = 60.0


def queued(database: Database, engine: str, *, age: float = 0.0, **values: Any) -> str:
    """A job released `age` seconds ago, next after those that are there."""
    job = submitted(database, new_key(database), priority="batch")
    queue_up(database, job.id)
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == job.id).values(engine=engine, updated_at=tx.now(-age), **values))
    return job.id


def claim(database: Database, *resident: str, seconds: float = PATIENCE, **more: Any) -> str | None:
    with database.write() as tx:
        job = claiming.claim(
            tx, "w1", ["cpu"], LEASE, resident=resident, affinity_seconds=seconds, **more
        )  # fmt: skip
    return job and job.id


def test_a_worker_goes_on_with_what_it_has_loaded(database: Database) -> None:
    other, first, second = queued(database, "b"), queued(database, "a"), queued(database, "a")
    assert [claim(database, "a") for _ in range(4)] == [first, second, other, None]


def test_of_several_loaded_engines_the_order_decides(database: Database) -> None:
    ids = [queued(database, engine) for engine in ("c", "b", "a", "b")]
    assert [claim(database, "a", "b") for _ in range(3)] == ids[1:]


def test_what_has_waited_too_long_is_next(database: Database) -> None:
    waiting, loaded = queued(database, "b", age=PATIENCE + 1), queued(database, "a", age=PATIENCE + 50)
    assert [claim(database, "a") for _ in range(2)] == [waiting, loaded]


def test_only_the_first_is_waited_for(database: Database) -> None:
    """A job that stands further back is not next in any case."""
    first, old, loaded = queued(database, "b"), queued(database, "c", age=PATIENCE + 1), queued(database, "a")
    assert [claim(database, "a") for _ in range(3)] == [loaded, first, old]


def test_a_worker_with_nothing_loaded_and_one_told_so_keep_the_order(database: Database) -> None:
    ids = [queued(database, engine) for engine in ("b", "a", "b", "a")]
    assert claim(database) == ids[0]
    assert claim(database, "a", seconds=0.0) == ids[1]
    assert claim(database, "c") == ids[2]


def test_interactive_goes_before_what_is_loaded(database: Database) -> None:
    loaded, urgent = queued(database, "a", priority=BATCH), queued(database, "b", priority=INTERACTIVE)
    assert [claim(database, "a") for _ in range(2)] == [urgent, loaded]


def test_what_this_worker_could_not_run_is_not_waited_for(database: Database) -> None:
    foreign, other, loaded = queued(database, "c", age=PATIENCE + 1), queued(database, "b"), queued(database, "a")
    assert [claim(database, "a", engines=["a", "b"]) for _ in range(3)] == [loaded, other, None]
    assert look(database, foreign).state is State.QUEUED


def test_ringing_again_makes_nobody_younger(database: Database) -> None:
    """What has waited is told by `updated_at`, so nothing may write that of a job that stays in the queue."""
    with database.write() as tx:
        processes.register(tx, "w1", "worker", lanes=["cpu"])
    job_id = queued(database, "b", age=PATIENCE + 1, rung_at=datetime(2001, 1, 1, tzinfo=UTC))
    before = look(database, job_id).updated_at
    with database.write() as tx:
        assert [job.id for job in queueing.unanswered(tx, 15.0, LEASE)] == [job_id]
    assert look(database, job_id).updated_at == before


# --- Company ----------------------------------------------------------------------------------------------------------


def company(database: Database, *, most: int = 9, seconds: float = PATIENCE, **more: Any) -> list[str]:
    """The next job, and those that are to be done at once with it."""
    with database.write() as tx:
        leader = claiming.claim(tx, "w1", ["cpu"], LEASE)
        assert leader is not None
        joined = claiming.join(tx, leader, ["cpu"], LEASE, most, affinity_seconds=seconds, **more)
    for job in (leader, *joined) if joined else ():
        assert (look(database, job.id).company, look(database, job.id).worker) == (len(joined) + 1, "w1")
    return [leader.id, *(job.id for job in joined)]


def test_jobs_of_one_engine_are_claimed_at_once(database: Database) -> None:
    ids = [queued(database, "a") for _ in range(5)]
    assert company(database, most=2) == ids[:3]
    assert company(database) == ids[3:]


def test_company_is_no_less_urgent_of_the_same_lane_short_and_without_blemish(database: Database) -> None:
    leader = queued(database, "a", priority=INTERACTIVE)
    fit = [queued(database, "a", priority=INTERACTIVE, expected=seconds) for seconds in (None, 600.0)]
    unfit = [
        queued(database, "a", priority=BATCH),
        queued(database, "a", priority=INTERACTIVE, lane="gpu"),
        queued(database, "a", priority=INTERACTIVE, expected=601.0),
        queued(database, "a", priority=INTERACTIVE, failures=1),
        queued(database, "a", priority=INTERACTIVE, losses=1),
        queued(database, "b", priority=INTERACTIVE),
    ]
    assert company(database) == [leader, *fit]
    assert {look(database, job_id).state for job_id in unfit} == {State.QUEUED}


def test_a_long_job_is_done_alone(database: Database) -> None:
    ids = [queued(database, "a", expected=3600.0), queued(database, "a")]
    assert [company(database), company(database)] == [ids[:1], ids[1:]]


def test_company_goes_before_another_engines_job_that_has_not_waited_long(database: Database) -> None:
    first, other, second = queued(database, "a"), queued(database, "b"), queued(database, "a")
    assert company(database) == [first, second]
    assert company(database) == [other]


@pytest.mark.parametrize("seconds", [0.0, PATIENCE])
def test_who_is_next_and_has_waited_long_is_passed_over_by_nobody(database: Database, seconds: float) -> None:
    first, other, second = queued(database, "a"), queued(database, "b", age=PATIENCE + 1), queued(database, "a")
    assert company(database, seconds=seconds) == [first]
    assert [company(database), company(database)] == [[other], [second]]


def test_what_arrives_more_urgently_meanwhile_is_taken_along_or_waits_for_its_own_engine(database: Database) -> None:
    leader, urgent = queued(database, "a"), None
    later = queued(database, "a")
    with database.write() as tx:
        job = claiming.claim(tx, "w1", ["cpu"], LEASE)
    assert job is not None and job.id == leader
    urgent = queued(database, "a", priority=INTERACTIVE)
    with database.write() as tx:
        assert [one.id for one in claiming.join(tx, job, ["cpu"], LEASE, 9, affinity_seconds=PATIENCE)] == [urgent]
    queued(database, "b", priority=INTERACTIVE)
    with database.write() as tx:
        assert claiming.join(tx, job, ["cpu"], LEASE, 9, affinity_seconds=PATIENCE) == []
    assert look(database, later).state is State.QUEUED


def test_a_paused_worker_gets_no_company(database: Database) -> None:
    with database.write() as tx:
        processes.register(tx, "w1", "worker", lanes=["cpu"])
    queued(database, "a"), queued(database, "a")
    with database.write() as tx:
        job = claiming.claim(tx, "w1", ["cpu"], LEASE)
        processes.order(tx, "w1", "pause")
        assert job is not None and claiming.join(tx, job, ["cpu"], LEASE, 9) == []


# --- Bells ------------------------------------------------------------------------------------------------------------


def test_the_bell_of_a_job_that_was_preferred_finds_the_one_that_was_not(database: Database) -> None:
    first, loaded = queued(database, "b"), queued(database, "a")
    assert claim(database, "a", rung=first) == loaded
    assert claim(database, "a", rung=loaded) == first
    assert claim(database, "a", rung=first) is None


def test_a_bell_is_for_its_lane_alone(database: Database) -> None:
    here, there = queued(database, "a"), queued(database, "a", lane="gpu")
    with database.write() as tx:
        job = claiming.claim(tx, "w1", ["cpu", "gpu"], LEASE, rung=there)
        assert job is not None and job.id == there
    with database.write() as tx:
        assert claiming.claim(tx, "w1", ["cpu", "gpu"], LEASE, rung=there) is None
    assert look(database, here).state is State.QUEUED


def test_the_bell_of_a_job_that_is_no_more_finds_nothing(database: Database) -> None:
    gone = brought(database, new_key(database), State.CANCELLED)
    left = queued(database, "a")
    with database.write() as tx:
        assert sweep.remove(tx, gone.id)
    assert claim(database, rung=gone.id) is None
    assert claim(database, rung=left) == left


@pytest.mark.parametrize("seconds", [0.0, PATIENCE])
def test_as_many_bells_as_jobs_are_enough_in_any_order(database: Database, seconds: float) -> None:
    ids = [queued(database, engine) for engine in ("a", "b", "a", "c", "b", "a")]
    order = [ids[n] for n in (3, 0, 5, 1, 4, 2)]
    assert {claim(database, "b", seconds=seconds, rung=job_id) for job_id in order} == set(ids)


# --- Nobody starves ---------------------------------------------------------------------------------------------------

ENGINES = ("a", "b")
DAWN = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Arrival:
    """A job released at `at`, with a place of its own in the order: some come late and stand in front."""

    at: float
    engine: str
    run_at: float
    priority: int
    seconds: float


# More than the workers can do, so that a queue forms whose first job could be passed over again and again.
arrivals = st.lists(
    st.builds(
        Arrival,
        at=st.integers(0, 90).map(float),
        engine=st.sampled_from(ENGINES),
        run_at=st.integers(-90, 90).map(float),
        priority=st.sampled_from((BATCH, BATCH, BATCH, INTERACTIVE)),
        seconds=st.integers(5, 40).map(float),
    ),
    min_size=12,
    max_size=24,
)


@pytest.fixture(scope="module")
def simulated(sqlite_template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = tmp_path_factory.mktemp("affinity") / "nightshift.db"
    shutil.copy(sqlite_template, path)
    opened = Database(f"sqlite:///{path}", clock=SimulatedClock(DAWN))
    yield opened
    opened.dispose()


@dataclass
class Day:
    """Workers that each keep the last engine they ran, on jobs that arrive as told; time goes on event by event."""

    database: Database
    arrivals: list[Arrival]
    workers: int
    patience: float
    first_since: dict[int, float] = field(default_factory=dict)
    longest_wait: float = 0.0

    def run(self) -> None:
        clock = self.database.clock
        assert isinstance(clock, SimulatedClock)
        clock.now = DAWN
        with self.database.write() as tx:
            tx.execute(delete(events))
            tx.execute(delete(jobs))
        model = submitted(self.database, new_key(self.database), priority="batch")
        with self.database.write() as tx:
            row = dict(tx.execute(select(jobs)).one()._mapping)
            tx.execute(delete(jobs).where(jobs.c.id == model.id))
        coming = sorted(enumerate(self.arrivals), key=lambda pair: pair[1].at)
        free, busy, waiting, loaded, now = (
            set(range(self.workers)),
            dict[int, float](),
            set[int](),
            dict[int, str](),
            0.0,
        )
        while coming or waiting or busy:
            while coming and coming[0][1].at <= now:
                number, one = coming.pop(0)
                waiting.add(number)
                with self.database.write() as tx:
                    made = {
                        "id": f"job_{number:03}", "state": State.QUEUED, "engine": one.engine,
                        "priority": one.priority, "run_at": DAWN + timedelta(seconds=one.run_at),
                        "updated_at": clock.now, "rung_at": clock.now,
                    }  # fmt: skip
                    tx.execute(insert(jobs), [row | made])
            for worker in [w for w, until in busy.items() if until <= now]:
                del busy[worker]
                free.add(worker)
            self._look(waiting, now)
            while waiting and free:
                worker = min(free)
                number = self._claimed(f"w{worker}", loaded.get(worker), waiting, now)
                waiting.discard(number)
                free.discard(worker)
                loaded[worker] = self.arrivals[number].engine
                busy[worker] = now + self.arrivals[number].seconds
                self._look(waiting, now)
            now = min([one.at for _, one in coming[:1]] + list(busy.values()), default=now)
            clock.now = DAWN + timedelta(seconds=now)

    def _first(self, waiting: set[int]) -> int:
        ordered = [(-self.arrivals[n].priority, self.arrivals[n].run_at, n) for n in waiting]
        return min(ordered)[2]

    def _look(self, waiting: set[int], now: float) -> None:
        """Keeps since when the first of each moment has been the first."""
        first = self._first(waiting) if waiting else None
        self.first_since = {} if first is None else {first: self.first_since.get(first, now)}

    def _claimed(self, worker: str, loaded: str | None, waiting: set[int], now: float) -> int:
        first = self._first(waiting)
        with self.database.write() as tx:
            job = claiming.claim(
                tx, worker, ["cpu"], 1e6, resident=[loaded] if loaded else [], affinity_seconds=self.patience
            )
            assert job is not None
            finish.succeed(tx, job.lease, result())
        got = int(job.id.removeprefix("job_"))
        if got == first:
            self.longest_wait = max(self.longest_wait, now - self.first_since[first])
            return got
        passed, taken = self.arrivals[first], self.arrivals[got]
        assert taken.priority == passed.priority, "a job went before a more urgent one"
        assert taken.engine == loaded != passed.engine, "a job was passed over for nothing"
        assert now - passed.at < self.patience, "a job was passed over for too long"
        better = [
            n for n in waiting if self.arrivals[n].priority == taken.priority and self.arrivals[n].engine == loaded
        ]
        assert got == self._first(set(better)), "of what is loaded, the order decides"
        return got


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(arrivals=arrivals, workers=st.integers(1, 2), patience=st.sampled_from((0.0, 20.0, 60.0)))
def test_nobody_who_is_first_waits_longer_than_the_bound_and_one_job(
    simulated: Database, arrivals: list[Arrival], workers: int, patience: float
) -> None:
    day = Day(simulated, arrivals, workers, patience)
    day.run()
    assert day.longest_wait <= patience + max(one.seconds for one in arrivals)


def test_a_queue_that_never_empties_starves_nobody(simulated: Database) -> None:
    """One job of another engine before a stream of those that are loaded: it is passed over, and then no more."""
    stream = [
        Arrival(at=float(10 * n), engine="a", run_at=float(10 * n), priority=BATCH, seconds=10.0) for n in range(30)
    ]
    day = Day(simulated, [*stream[:2], Arrival(5.0, "b", 5.0, BATCH, 10.0), *stream[2:]], 1, 60.0)
    day.run()
    assert 50.0 <= day.longest_wait <= 70.0
