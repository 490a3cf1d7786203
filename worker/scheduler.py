"""The scheduler: releases what is due, rings lost bells again, rescues, expires, and tidies up. Any number may run."""

from __future__ import annotations

import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from common import engines, log, settings
from common.batches.clockwork import batch_of
from common.batches.control import cancel_all
from common.batches.intake import Intake
from common.db import usage
from common.db.engine import Database
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs import batches, deadlines, expiry, finish, queueing, schedules, steering, sweep
from common.jobs.queueing import Bell
from common.queue import Ringer, open_ringer
from common.settings import Settings
from common.storage import open_store
from common.storage.store import Store
from worker.presence import Presence

_log = log.get(__name__)

PRUNE_SECONDS = 300.0
# So long a chore that tidies up goes on before it lets the next one have its turn.
TIDYING_SECONDS = 60.0
SWEEP_SECONDS = 5.0
FOLD_SECONDS = 10.0
DEADLINES_SECONDS = 60.0


@dataclass
class Chore:
    """Something done again and again. One that fails is logged and done again; it stops no other."""

    name: str
    every_seconds: float
    do: Callable[[], object]
    due: float = 0.0

    def run_if_due(self, now: float) -> None:
        if now < self.due:
            return
        # Jitter keeps several schedulers from working in step.
        self.due = now + self.every_seconds * random.uniform(0.8, 1.2)
        try:
            self.do()
        except (SQLAlchemyError, NightshiftError) as error:
            _log.warning("chore failed", chore=self.name, error=f"{type(error).__name__}: {error}")
        except Exception:
            _log.exception("chore failed", chore=self.name)


class Scheduler:
    """The chores, each a few short transactions that may run beside those of another scheduler."""

    def __init__(self, settings: Settings, database: Database, store: Store, ringer: Ringer) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._ringer = ringer

    def chores(self) -> list[Chore]:
        s = self._settings
        return [
            Chore("release", s.tick_seconds, self.release),
            Chore("expire", s.tick_seconds, self.expire),
            Chore("rescue", s.rescue_seconds, self.rescue),
            Chore("ring again", max(1.0, s.rering_seconds / 3), self.ring_again),
            Chore("windows", s.tick_seconds, self.turn_windows),
            Chore("schedules", s.tick_seconds, self.tick_schedules),
            Chore("fold", FOLD_SECONDS, self.fold),
        ]

    def slow_chores(self) -> list[Chore]:
        """What may wait for others' servers, or goes through many jobs; to be done beside the other chores."""
        return [
            Chore("prepare", self._settings.tick_seconds, self.prepare),
            Chore("cancel", self._settings.tick_seconds, self.cancel),
            Chore("warn of deletion", PRUNE_SECONDS, self.warn_of_deletion),
            Chore("warn of deadlines", DEADLINES_SECONDS, self.warn_of_deadlines),
        ]

    def tidying(self) -> list[Chore]:
        """What deletes rows and files, a great many where a large batch is past its keeping; beside all others."""
        return [Chore("sweep", SWEEP_SECONDS, self.sweep), Chore("prune", PRUNE_SECONDS, self.prune)]

    def release(self) -> int:
        """Moves up what each lane has room for."""
        bells: list[Bell] = []
        for lane in Lane:
            with self._database.write() as tx:
                bells += queueing.fill(
                    tx,
                    lane,
                    self._settings.release_ahead,
                    self._settings.alive_seconds,
                    self._settings.max_audio_hours_per_day_per_key,
                )
        self._ringer.ring(bells)
        return len(bells)

    def turn_windows(self) -> int:
        """Opens and closes batches by their windows, and takes back what is queued of those that are closed."""
        with self._database.write() as tx:
            turned = len(steering.turn_windows(tx))
        with self._database.write() as tx:
            return turned + len(queueing.recall(tx))

    def tick_schedules(self) -> int:
        """Makes the batches of schedules that have ticked, one transaction each."""
        with self._database.read() as tx:
            ids = schedules.due(tx)
        for schedule_id in ids:
            with self._database.write() as tx:
                done = schedules.tick(tx, schedule_id, partial(batch_of, tx))
            if done is not None:
                _log.info("schedule ticked", schedule=schedule_id, outcome=done.outcome, batch=done.batch_id)
        return len(ids)

    def prepare(self) -> int:
        """Takes in the items of batches whose intake nobody goes on with."""
        with self._database.read() as tx:
            ids = batches.to_prepare(tx)
        intake = Intake(self._settings, self._database, self._store)
        for batch_id in ids:
            batch = intake.run(batch_id)
            if batch is not None:
                _log.info(
                    "batch prepared", batch=batch_id, state=batch.state, jobs=batch.total, rejected=batch.rejected
                )
        return len(ids)

    def cancel(self) -> int:
        """Goes on with the cancelling of batches."""
        with self._database.read() as tx:
            ids = steering.to_cancel(tx)
        cancelled = 0
        for batch_id in ids:
            cancelled += cancel_all(self._database, batch_id)
        return cancelled

    def warn_of_deadlines(self) -> int:
        """Tells of deadlines that the forecast passes, and of those that it does not pass any more."""
        with self._database.read() as tx:
            found = deadlines.look(tx, self._settings.alive_seconds)
        told = 0
        for one in found:
            with self._database.write() as tx:
                told += deadlines.tell(tx, one)
        return told

    def ring_again(self) -> int:
        with self._database.write() as tx:
            stale = queueing.unanswered(tx, self._settings.rering_seconds, self._settings.alive_seconds)
        bells = [queueing.bell(job) for job in stale]
        self._ringer.ring(bells)
        return len(bells)

    def rescue(self) -> int:
        """Takes jobs back whose lease has run out, one transaction each."""
        with self._database.read() as tx:
            ids = sweep.expired_leases(tx)
        rescued = 0
        for job_id in ids:
            try:
                with self._database.write() as tx:
                    job = sweep.rescue(
                        tx,
                        job_id,
                        max_crashes=self._settings.max_crashes,
                        quarantine_seconds=self._settings.quarantine_seconds,
                    )
            except SQLAlchemyError as error:
                _log.error("could not rescue", job=job_id, error=f"{type(error).__name__}: {error}")
                continue
            if job is not None:
                rescued += 1
                _log.warning("rescued", job=job_id, state=job.state, reason=job.reason, crashes=job.crashes)
        if rescued:
            self.release()
        return rescued

    def expire(self) -> int:
        with self._database.write() as tx:
            return len(finish.expire(tx))

    def sweep(self) -> int:
        """Deletes files nobody needs; a prefix is forgotten only when its objects are gone."""
        ends = time.monotonic() + TIDYING_SECONDS
        swept = 0
        while time.monotonic() < ends:
            with self._database.read() as tx:
                due = sweep.due_sweeps(tx)
            if not due:
                break
            gone: list[int] = []
            try:
                for item in due:
                    if item.prefix.endswith("/"):
                        self._store.delete_prefix(item.prefix)
                    else:
                        self._store.delete(item.prefix)
                    gone.append(item.id)
            finally:
                with self._database.write() as tx:
                    sweep.swept(tx, gone)
            swept += len(gone)
        return swept

    def fold(self) -> int:
        """Keeps the ledger of what keys use short."""
        with self._database.write() as tx:
            return usage.fold(tx)

    def warn_of_deletion(self) -> int:
        """Tells of what will be deleted soon, step by step."""
        keep = self._settings.retention
        if not keep.warning_seconds:
            return 0
        told = 0
        for step in (expiry.tell_jobs, expiry.tell_batch):
            while True:
                with self._database.write() as tx:
                    found = step(tx, keep)
                if not found:
                    break
                told += found
        return told

    def prune(self) -> int:
        """Deletes what is past its keeping, in steps; what is left then waits for the next time."""
        s = self._settings
        self._store.sweep(sweep.ABANDONED_SECONDS)
        ends = time.monotonic() + TIDYING_SECONDS
        pruned = 0
        while True:
            with self._database.write() as tx:
                step = sweep.prune(
                    tx,
                    retention_seconds=s.retention.seconds,
                    idempotency_seconds=s.idempotency_days * 86400,
                    warning_seconds=s.retention.warning_seconds,
                )
            pruned += step
            if not step or time.monotonic() > ends:
                return pruned
            self._database.give_way()


def serve(chores: list[Chore], over: threading.Event, tick_seconds: float) -> None:
    while not over.wait(tick_seconds / 2):
        now = time.monotonic()
        for chore in chores:
            chore.run_if_due(now)


def main() -> int:
    made = settings.load()
    log.setup(made)
    engines.register(made.extra_engines)
    database = Database(made.database)
    name = f"scheduler@{socket.gethostname()}:{random.randrange(10**6)}"
    presence = Presence(database, name, "scheduler", beat_seconds=made.beat_seconds)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    presence.start()
    _log.info("scheduler is there", name=presence.name)
    scheduler = Scheduler(made, database, open_store(made), open_ringer(made))
    for beside in (scheduler.slow_chores(), scheduler.tidying()):
        threading.Thread(target=serve, args=(beside, over, made.tick_seconds), daemon=True).start()
    try:
        serve(scheduler.chores(), over, made.tick_seconds)
    finally:
        presence.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
