"""How soon a job of a killed worker runs again: seconds from kill -9 to the next claim, over the length of the lease.

Real polling workers and a real scheduler on PostgreSQL; every time they go by is the default divided by ten, so the
lease is three seconds. Each round kills the worker that holds a job, at a moment of its own; a second worker is free.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from bench import place
from bench.figures import Figure, Goal, figure
from bench.scale import Scale
from common.jobs import events, finish
from common.states import State
from tests.house import House, wait_for
from tests.servers.processes import ServerProcess

GOAL = Goal("<=", 1.5)
FASTER = 10.0
_TIMES = ("lease", "heartbeat", "cancel_poll", "poll", "tick", "rescue", "rering")
QUICKER = {f"{name}_seconds": place.AS_SHIPPED[f"{name}_seconds"] / FASTER for name in _TIMES}


def run(scale: Scale) -> Iterator[Figure]:
    rounds = scale.pick(quick=1, normal=15)
    with place.postgres() as url, place.house(url, **QUICKER) as house:
        upload = house.upload(place.recording(house.settings.home / "episode.flac", 600.0))
        workers: dict[str, ServerProcess] = {}
        scheduler = house.process("worker.scheduler")
        try:
            with house.running(scheduler):
                _add_worker(house, workers, 0)
                seconds = [_round(house, workers, upload, number) for number in range(1, rounds + 1)]
        finally:
            for worker in workers.values():
                worker.kill()
        lease = house.settings.lease_seconds
    ratios = [took / lease for took in seconds]
    yield figure(
        "recovery", "p50 of kill -9 of a worker until its job is claimed again", "the length of the lease", ratios,
        GOAL, {"lease_s": lease, "p50_s": statistics.median(seconds), "max_s": max(seconds)},
    )  # fmt: skip
    yield figure(
        "recovery-max", f"the longest of {rounds} such recoveries", "the length of the lease", [max(ratios)], GOAL
    )


def _round(house: House, workers: dict[str, ServerProcess], upload: str, number: int) -> float:
    """Kills the worker that holds a job; returns the seconds until another one has claimed it."""
    _add_worker(house, workers, number)
    job = house.submit("slow", input={"upload": upload})
    victim = house.reached(job.id, State.RUNNING).worker
    assert victim is not None
    # Anywhere between two heartbeats, but after the first.
    time.sleep(house.settings.heartbeat_seconds * random.uniform(1, 2))
    workers.pop(victim).kill()
    killed = datetime.now(UTC)
    wait_for(lambda: len(_claims(house, job.id)) == 2, 60, "nobody has claimed the job again")
    with house.database.write() as tx:
        finish.cancel(tx, job.id)
    house.ended(job.id)
    return (_claims(house, job.id)[1] - killed).total_seconds()


def _claims(house: House, job_id: str) -> list[datetime]:
    with house.database.read() as tx:
        return [event.at for event in events.after(tx, job_id) if event.data.get("state") == State.RUNNING]


def _add_worker(house: House, workers: dict[str, ServerProcess], number: int) -> None:
    # A name of its own for each: one that dies on several jobs is suspected, and kept from further ones.
    name = f"cpu{number}@bench"
    worker = workers[name] = house.process("worker.poll", worker_name=name)
    worker.start(lambda: "polling worker is there" in worker.log_tail(200))
