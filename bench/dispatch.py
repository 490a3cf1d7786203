"""What the database adds to a task: claim and fenced commit of a job, against bare Celery's task that does nothing.

Both run in a real Celery worker with one child on the same Redis, in turns. Throughput is measured on a queue that was
filled beforehand; `dispatch-latency` is a round of its own for every task, from sending it to hearing that it is done.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from sqlalchemy import update

from bench import place
from bench.dispatch_apps import BARE_TASK, DONE, GATE, WORKER, make_bare
from bench.figures import Figure, Goal, figure, in_turns
from bench.pending import REQUEST
from bench.scale import Scale
from common.db import processes
from common.db.tables import jobs
from common.jobs import submit
from common.jobs.queueing import Bell
from common.queue import RUN_TASK, make_celery, message, queue_names
from common.quotas import Quotas
from common.states import Reason, State
from tests.house import House
from tests.servers.processes import ServerProcess

GOAL = Goal(">=", 0.5)
GOAL_LATENCY = Goal("<=", 2.0)
BASELINE = "a task of bare Celery that does nothing"


@dataclass(frozen=True)
class Side:
    """One of the two workers. prepare: ids for so many tasks.  send: puts a task for an id into its queue."""

    broker: redis.Redis
    prepare: Callable[[int], list[str]]
    send: Callable[[str], object]

    def throughput(self, count: int) -> float:
        """Tasks per second, with all of them in the queue."""
        self.broker.delete(DONE, GATE)
        ids = self.prepare(count)
        self.send(GATE)
        for task in ids:
            self.send(task)
        self.broker.set(GATE, "open")
        times = [self._done() for _ in range(count + 1)]
        return count / (times[-1] - times[0])

    def latency(self, count: int) -> float:
        """Median seconds from sending a task to hearing of its end, with an idle worker."""
        self.broker.delete(DONE)
        took = []
        for task in self.prepare(count):
            began = time.perf_counter()
            self.send(task)
            self._done()
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    def _done(self) -> float:
        told = self.broker.blpop([DONE], timeout=60)
        if told is None:
            raise RuntimeError("a task did not end within a minute")
        return float(told[1])


def run(scale: Scale) -> Iterator[Figure]:
    repetitions, count, rounds = scale.pick(quick=(2, 5, 5), normal=(9, 400, 100))
    with ExitStack() as opened:
        server = opened.enter_context(place.redis())
        url = opened.enter_context(place.postgres())
        house = opened.enter_context(place.house(url, broker_url=server.url))
        bare = opened.enter_context(_bare(house))
        fenced = opened.enter_context(_fenced(house))
        for side in (bare, fenced):  # connected and compiled before anything counts
            side.latency(3)
        rates = in_turns(lambda: fenced.throughput(count), lambda: bare.throughput(count), repetitions)
        waits = in_turns(lambda: fenced.latency(rounds), lambda: bare.latency(rounds), repetitions)
    yield figure(
        "dispatch", "claim and fenced commit of a job, jobs per second", f"{BASELINE}, tasks per second",
        [a / b for a, b in rates], GOAL,
        {"per_second": statistics.median(a for a, _ in rates),
         "baseline_per_second": statistics.median(b for _, b in rates)},
    )  # fmt: skip
    yield figure(
        "dispatch-latency", "p50 of a round with claim and fenced commit", f"p50 of a round of {BASELINE}",
        [a / b for a, b in waits], GOAL_LATENCY,
        {"p50_ms": 1000 * statistics.median(a for a, _ in waits),
         "baseline_p50_ms": 1000 * statistics.median(b for _, b in waits)},
    )  # fmt: skip


@contextmanager
def _bare(house: House) -> Iterator[Side]:
    app = make_bare(house.settings)
    with _worker(house, "bare", []), redis.Redis.from_url(house.settings.broker or "") as broker:
        numbers = itertools.count()
        yield Side(
            broker,
            lambda count: [f"task {next(numbers)}" for _ in range(count)],
            lambda task: app.send_task(BARE_TASK, (task,)),
        )


@contextmanager
def _fenced(house: House) -> Iterator[Side]:
    app = make_celery(house.settings, brief=True)
    prefix = house.settings.broker_prefix
    with house.database.write() as tx:
        processes.register(tx, WORKER, "worker", lanes=("cpu",))

    def send(job_id: str) -> None:
        app.send_task(RUN_TASK, **message(Bell(job_id, "cpu", False, "separation", "rnnoise", None), prefix))

    options = ["--without-gossip", "--without-mingle", "--queues", ",".join(queue_names(prefix, ["cpu"]))]
    with _worker(house, "fenced", options), redis.Redis.from_url(house.settings.broker or "") as broker:
        yield Side(broker, lambda count: _queued(house, count), send)


def _queued(house: House, count: int) -> list[str]:
    """Jobs that wait for their claim."""
    with house.database.write() as tx:
        ids = [submit.submit(tx, house.key.id, REQUEST, default_quota=Quotas(10_000_000)).job.id for _ in range(count)]
        tx.execute(update(jobs).where(jobs.c.id.in_(ids)).values(state=State.QUEUED, reason=Reason.RELEASED))
    return ids


@contextmanager
def _worker(house: House, app: str, options: list[str]) -> Iterator[None]:
    argv = [
        sys.executable,
        "-m",
        "celery",
        "--app",
        f"bench.dispatch_worker:{app}",
        "worker",
        "--hostname",
        f"{app}@bench",
    ]
    log = house.settings.home / f"celery-{app}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parent.parent
    worker = ServerProcess([*argv, "--loglevel", "INFO", *options], log, environment=house.environment, folder=root)
    worker.start(lambda: " ready." in worker.log_tail(200))
    try:
        yield
    finally:
        worker.kill()
