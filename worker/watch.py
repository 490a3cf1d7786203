"""Beside a running job: renews its lease, carries orders to it, and ends it when it hangs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import finish, running
from common.jobs.job import Job, LeaseLost
from common.states import Reason
from worker.outcome import Cancel, Lost, Stop, YieldNow

_log = log.get(__name__)

# The exit status of a worker that ended itself because of a hanging engine; its launcher starts another.
EXIT_STALLED = 70


@dataclass(frozen=True)
class Rhythm:
    """The times of a watch in seconds, and the attempts of a job: see the settings of the same names."""

    lease: float
    heartbeat: float
    poll: float
    stall: float
    drain: float
    alive: float
    max_attempts: int

    @property
    def fence(self) -> float:
        """After this long without a renewal the worker must believe its lease gone, whatever the database would say."""
        return self.lease * 5 / 6

    @property
    def grace(self) -> float:
        """How long a job that has been told to stop may take to notice before its process is ended: while its lease,
        which is not renewed any more, still lets that be written down."""
        return min(20.0, (self.lease - self.heartbeat) * 2 / 3)


class Watch:
    """A thread per running job. The job calls `moved` as it goes on, and `check` often: that raises when it must stop.

    A lease is renewed only while the job moves: a heartbeat beside a hanging engine would keep a dead job alive.
    """

    def __init__(
        self,
        database: Database,
        job: Job,
        lanes: Collection[str],
        engines: Collection[str],
        rhythm: Rhythm,
        draining: Callable[[], bool],
        end_process: Callable[[int], None] = os._exit,
        beside: Callable[[], Iterable[Watch]] = tuple,
    ) -> None:
        """beside: the watches of the jobs that end with this process, where it has to be ended."""
        self._database = database
        self._job = job
        self._lanes = lanes
        self._engines = engines
        self._rhythm = rhythm
        self._draining = draining
        self._end_process = end_process
        self._beside = beside
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._progress: Mapping[str, Any] | None = None
        self._dirty = False
        self._moved = self._renewed = time.monotonic()
        self._drain_since: float | None = None
        self._stop: Stop | NightshiftError | None = None
        self._stopped_at = 0.0
        self.yield_for: Reason | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{job.id}", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()

    def moved(self, progress: Mapping[str, Any] | None = None) -> None:
        """The job went on; `progress` is what to tell of it."""
        with self._lock:
            self._moved = time.monotonic()
            if progress is not None:
                self._progress, self._dirty = progress, True

    def check(self) -> None:
        """Raises Cancel, Lost, YieldNow, or `engine_stalled`, when the job must end."""
        stop = self._stop
        if stop is None and time.monotonic() - self._renewed > self._rhythm.fence:
            stop = self._halt(Lost())
        if stop is not None:
            raise stop

    def _halt(self, stop: Stop | NightshiftError) -> Stop | NightshiftError:
        with self._lock:
            if self._stop is None:
                self._stop, self._stopped_at = stop, time.monotonic()
            return self._stop

    def _run(self) -> None:
        with log.bound(job=self._job.id, attempt=self._job.attempt):
            while not self._over.wait(self._rhythm.poll):
                try:
                    self._beat()
                except LeaseLost:
                    self._halt(Lost())
                except SQLAlchemyError as error:
                    _log.warning("the database did not answer the watch", error=type(error).__name__)
                if self._stop is not None and time.monotonic() - self._stopped_at > self._rhythm.grace:
                    self._abandon()

    def _beat(self) -> None:
        now = time.monotonic()
        if self._stop is not None:
            return
        if now - self._moved > self._rhythm.stall:
            self._halt(
                NightshiftError(
                    "engine_stalled",
                    f"No progress for {self._rhythm.stall:g} s.",
                    hint="Retry the job; if it stalls again, look at the worker's log.",
                )
            )
            return
        if now - self._renewed > self._rhythm.fence:
            self._halt(Lost())
            return
        with self._database.read() as tx:
            orders = running.orders(
                tx, self._job.lease, self._job.worker or "", self._lanes, self._rhythm.alive, self._engines
            )
        if not orders.held:
            self._halt(Lost())
        elif orders.cancel:
            self._halt(Cancel())
        else:
            self._yield_for(orders.yield_for, now)
            self._renew(now)

    def _yield_for(self, reason: Reason | None, now: float) -> None:
        if self._draining():
            reason = Reason.DRAINED
        self.yield_for = reason
        if reason is not Reason.DRAINED:
            self._drain_since = None
            return
        self._drain_since = self._drain_since or now
        if now - self._drain_since > self._rhythm.drain:
            self._halt(YieldNow(Reason.DRAINED))

    def _renew(self, now: float) -> None:
        with self._lock:
            dirty, progress = self._dirty, self._progress
            due = now - self._renewed >= min(self._rhythm.heartbeat, 2.0 if dirty else self._rhythm.heartbeat)
            if due:
                self._dirty = False
        if due:
            with self._database.write() as tx:
                running.renew(tx, self._job.lease, self._rhythm.lease, progress if dirty else None)
            # Counted from before the statement: a slow answer must not make the lease look fresher than it is.
            self._renewed = now

    def _abandon(self) -> None:
        """The engine does not come back from where it hangs: say so in the database and end this process."""
        _log.error("the engine does not stop; ending this worker process", stop=repr(self._stop))
        for watch in (self, *self._beside()):
            watch._record_end()
        self._end_process(EXIT_STALLED)

    def _record_end(self) -> None:
        """What this job is told when its process is ended; one that runs beside the job that hangs hangs with it."""
        stop = self._halt(
            NightshiftError("engine_stalled", "Its worker was ended, because a job beside it did not stop.")
        )
        try:
            with self._database.write() as tx:
                match stop:
                    case Cancel():
                        finish.cancelled(tx, self._job.lease)
                    case YieldNow(reason=reason):
                        running.give_back(tx, self._job.lease, reason)
                    case NightshiftError() as error:
                        finish.retry(tx, self._job.lease, error.as_job_error(), 0.0, self._rhythm.max_attempts)
        except (LeaseLost, SQLAlchemyError):
            _log.warning("the job's end could not be recorded; its lease will expire", job=self._job.id)
