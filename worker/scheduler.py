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

from sqlalchemy.exc import SQLAlchemyError

from common import engines, log, settings
from common.db.engine import Database
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs import finish, queueing, sweep
from common.jobs.queueing import Bell
from common.queue import Ringer, open_ringer
from common.settings import Settings
from common.storage import open_store
from common.storage.store import Store
from worker.presence import Presence

_log = log.get(__name__)

PRUNE_SECONDS = 300.0
# No upload takes longer than this; what is older was left by a writer that died.
ABANDONED_SECONDS = 2 * 86400.0
SWEEP_SECONDS = 5.0


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
            Chore("sweep", SWEEP_SECONDS, self.sweep),
            Chore("prune", PRUNE_SECONDS, self.prune),
        ]

    def release(self) -> int:
        """Moves up what each lane has room for."""
        bells: list[Bell] = []
        for lane in Lane:
            with self._database.write() as tx:
                bells += queueing.fill(tx, lane, self._settings.release_ahead, self._settings.alive_seconds)
        self._ringer.ring(bells)
        return len(bells)

    def ring_again(self) -> int:
        with self._database.write() as tx:
            bells = [queueing.bell(job) for job in queueing.unanswered(tx, self._settings.rering_seconds)]
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
        with self._database.read() as tx:
            due = sweep.due_sweeps(tx)
        for item in due:
            if item.prefix.endswith("/"):
                self._store.delete_prefix(item.prefix)
            else:
                self._store.delete(item.prefix)
            with self._database.write() as tx:
                sweep.swept(tx, item.id)
        return len(due)

    def prune(self) -> int:
        s = self._settings
        self._store.sweep(ABANDONED_SECONDS)
        with self._database.write() as tx:
            return sweep.prune(
                tx, retention_seconds=s.retention_days * 86400, idempotency_seconds=s.idempotency_days * 86400
            )


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
    try:
        serve(Scheduler(made, database, open_store(made), open_ringer(made)).chores(), over, made.tick_seconds)
    finally:
        presence.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
