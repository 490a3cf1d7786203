"""Answering a bell. A worker that may not claim must not swallow what others could answer."""

from __future__ import annotations

import time

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.db import processes
from common.jobs import query, queueing
from worker.runner import Runner

_log = log.get(__name__)

_LOOK_SECONDS = 0.5


def answer(runner: Runner, job_id: str) -> bool:
    """Works on a job of the lane of the one that was rung for, if there is one to be claimed; says whether there was.

    Where this worker is paused, in quarantine or draining it rings again for another one, and stays in this call until
    it may work again: a worker whose only child is busy takes no message, so it is deaf for as long as it is barred.
    """
    if runner.run(job_id):
        return True
    if _barred(runner):
        _ring_on(runner, job_id)
        while True:
            time.sleep(_LOOK_SECONDS)
            if runner.presence.draining or not _barred(runner):
                break
    return False


def _barred(runner: Runner) -> bool:
    if runner.presence.draining:
        return True
    try:
        with runner.database.read() as tx:
            return runner.presence.name not in processes.takers(tx, runner.settings.alive_seconds)
    except SQLAlchemyError:
        # It could not claim either.
        return True


def _ring_on(runner: Runner, job_id: str) -> None:
    try:
        with runner.database.read() as tx:
            job = query.get(tx, job_id)
    except SQLAlchemyError as error:
        _log.warning("a bell is lost; the scheduler will ring again", job=job_id, error=type(error).__name__)
        return
    # Also where this job is claimed already: its bell is then another's, that was passed over for it.
    if job is not None:
        _log.info("this worker takes no jobs now; ringing for another", job=job_id)
        runner.ringer.ring([queueing.bell(job)])
