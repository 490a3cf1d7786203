"""The two Celery applications that `dispatch` compares, each with one task; neither does any work.

`bare`: Celery as it comes, with one process. `fenced`: the service's own configuration, and a task that claims the job
it is rung for and commits its end under the lease. Both say in a list of the broker that they are done.
"""

from __future__ import annotations

import time
from typing import Any

import redis
from celery import signals

from bench.dispatch_apps import BARE_TASK, DONE, GATE, WORKER, make_bare
from common.db.engine import Database
from common.jobs import claiming, finish
from common.queue import RUN_TASK, make_celery
from common.settings import Settings, load

RESULT: dict[str, Any] = {"outputs": [], "warnings": [], "metrics": {}}


class _Child:
    """What a child process holds open."""

    database: Database
    settings: Settings
    broker: redis.Redis


_child = _Child()


@signals.worker_process_init.connect(weak=False)
def _open(**_: Any) -> None:
    _child.settings = load()
    _child.broker = redis.Redis.from_url(_child.settings.broker or "")
    _child.database = Database(_child.settings.database)


bare = make_bare(load())
fenced = make_celery(load())


def _wait_at_gate() -> bool:
    """Holds the worker until everything is in the queue, so that only its own work is measured."""
    while not _child.broker.exists(GATE):
        time.sleep(0.001)
    return True


@bare.task(name=BARE_TASK)
def run_bare(job_id: str) -> None:
    if job_id == GATE:
        _wait_at_gate()
    _child.broker.rpush(DONE, f"{time.monotonic()}")


@fenced.task(name=RUN_TASK)
def run_fenced(job_id: str) -> None:
    if job_id == GATE:
        _wait_at_gate()
    else:
        lease = _child.settings.lease_seconds
        job = _child.database.run(claiming.claim, WORKER, ("cpu",), lease, job_id=job_id, engines=("rnnoise",))
        if job is None:
            raise RuntimeError(f"{job_id} was not to be claimed")
        _child.database.run(finish.succeed, job.lease, RESULT)
    _child.broker.rpush(DONE, f"{time.monotonic()}")
