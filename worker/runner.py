"""Jobs from their claim to their end: which to take, alone or in company, and what an attempt's outcome means."""

from __future__ import annotations

import contextlib
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import claiming, finish, queueing, running
from common.jobs.job import Job, LeaseLost
from common.queue import Ringer
from common.settings import Settings
from common.states import Reason
from common.storage.store import Store
from worker.attempt import Attempt, Means
from worker.card import Card
from worker.company import Company
from worker.engine import Sharing
from worker.outcome import (
    Cancelled,
    Failed,
    LeaseGone,
    Lost,
    Outcome,
    Retry,
    Succeeded,
    Yielded,
    backoff,
    of_exception,
)
from worker.presence import Presence
from worker.watch import Rhythm, Watch

_log = log.get(__name__)


@dataclass
class Runner:
    """Runs jobs one after the other on one card. It does not know what rang."""

    settings: Settings
    database: Database
    store: Store
    ringer: Ringer
    card: Card
    presence: Presence
    random: Random = field(default_factory=Random)

    def start(self) -> None:
        """Tidies up after a predecessor that died, and says that this worker is there."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self.presence.start()

    def close(self) -> None:
        self.presence.stop()
        self.card.free()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, job_id: str | None = None) -> bool:
        """Claims the next job, of the lane of the one a bell named, and works on it. False where none was there."""
        if self.presence.draining:
            return False
        job = self.database.run(
            claiming.claim,
            self.presence.name,
            self.presence.lanes,
            self.settings.lease_seconds,
            rung=job_id,
            engines=self.presence.engines,
            resident=self.card.resident,
            affinity_seconds=self.settings.affinity_seconds,
        )
        if job is None:
            return False
        if companions := self._companions(job):
            self._together([job, *companions])
        else:
            self._work_on(job)
        self._fill()
        return True

    def _companions(self, job: Job) -> list[Job]:
        """Claims what gains from being done at once with a job that was claimed. The first job of an engine is done
        alone: what it takes to load one is no company's business."""
        engine: object = self.card.loaded(job.engine)
        most = self.settings.jobs_together - 1
        if most < 1 or not isinstance(engine, Sharing) or not engine.shares:
            return []
        s = self.settings
        try:
            with self.database.write() as tx:
                # The queue holds fewer than may be done at once.
                bells = queueing.fill(
                    tx, job.lane, max(s.release_ahead, most), s.alive_seconds, s.max_audio_hours_per_day_per_key
                )
                companions = claiming.join(
                    tx,
                    job,
                    self.presence.lanes,
                    s.lease_seconds,
                    most,
                    engines=self.presence.engines,
                    affinity_seconds=s.affinity_seconds,
                )
        except SQLAlchemyError:
            _log.warning("could not look for company", job=job.id)
            return []
        taken = {companion.id for companion in companions}
        self.ringer.ring([bell for bell in bells if bell.job_id not in taken])
        return companions

    def _together(self, company: list[Job]) -> None:
        """Works on several jobs at once: each in a thread of its own, their computing in this one."""
        together = Company(len(company))
        watches: list[Watch] = []

        def attempt(job: Job) -> None:
            try:
                self._work_on(job, together, watches)
            finally:
                together.leave()

        threads = [threading.Thread(target=attempt, args=(job,), name=f"job-{job.id}") for job in company]
        for thread in threads:
            thread.start()
        try:
            together.compute()
        finally:
            for thread in threads:
                thread.join()

    def _work_on(self, job: Job, company: Company | None = None, watches: list[Watch] | None = None) -> None:
        with log.bound(job=job.id, attempt=job.attempt):
            _log.info("claimed", kind=job.kind, engine=job.engine, together=company.size if company else 1)
            outcome = self._attempt(job, company, [] if watches is None else watches)
            self._record(job, outcome)

    def _attempt(self, job: Job, company: Company | None, watches: list[Watch]) -> Outcome:
        """watches: of the jobs of its company, to be known to each other."""
        folder = self._scratch / f"{job.id}-{job.attempt}"
        folder.mkdir()
        try:
            here = self.presence
            watch = Watch(
                self.database,
                job,
                here.lanes,
                here.engines,
                self._rhythm,
                lambda: here.draining,
                beside=lambda: [other for other in watches if other is not watch],
            )
            watches.append(watch)
            try:
                with watch:
                    return Attempt(self._means, job, folder, watch, company).perform()
            finally:
                watches.remove(watch)
        except Exception as error:
            outcome = Lost() if isinstance(error, LeaseLost) else error
            if not isinstance(of_exception(outcome), Cancelled | Yielded | LeaseGone):
                # An error with a code says what was wrong; of any other, the place is what helps.
                unknown = not isinstance(error, NightshiftError)
                _log.warning("attempt failed", error=f"{type(error).__name__}: {error}", exc_info=unknown)
            if isinstance(error, NightshiftError) and error.code == "gpu_oom" and self.card.keep_only(job.engine):
                # It may fit where the other models are gone.
                return Retry(error.as_job_error())
            return of_exception(outcome)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _record(self, job: Job, outcome: Outcome) -> None:
        """Writes the outcome under this attempt's lease; where that is gone, somebody else has decided already."""
        try:
            match outcome:
                case Succeeded(result, mark):
                    ended = self.database.run(finish.succeed, job.lease, result, mark)
                case Failed(error):
                    ended = self.database.run(finish.fail, job.lease, error)
                case Retry(error):
                    delay = backoff(job.failures, self.settings.retry_base_seconds, self.random)
                    ended = self.database.run(finish.retry, job.lease, error, delay, self.settings.max_attempts)
                case Yielded(reason):
                    ended = self.database.run(running.give_back, job.lease, reason)
                case Cancelled():
                    ended = self.database.run(finish.cancelled, job.lease)
                case LeaseGone():
                    _log.warning("the lease is gone; this attempt is dropped")
                    return
            _log.info("ended", state=ended.state, reason=ended.reason)
        except LeaseLost:
            self._record_refused(job, outcome)

    def _record_refused(self, job: Job, outcome: Outcome) -> None:
        """A cancel may have come between the last look and the outcome; then the job is to be cancelled."""
        with contextlib.suppress(LeaseLost):
            if not isinstance(outcome, Cancelled):
                self.database.run(finish.cancelled, job.lease)
                _log.info("ended", state="cancelled", reason=Reason.BY_CALLER)
                return
        _log.warning("the lease is gone; the outcome is dropped", outcome=type(outcome).__name__)

    def _fill(self) -> None:
        """Room has appeared: what waits may move up without waiting for the scheduler's tick."""
        try:
            bells = []
            for lane in self.presence.lanes:
                with self.database.write() as tx:
                    bells += queueing.fill(
                        tx,
                        lane,
                        self.settings.release_ahead,
                        self.settings.alive_seconds,
                        self.settings.max_audio_hours_per_day_per_key,
                    )
            self.ringer.ring(bells)
        except SQLAlchemyError:
            _log.warning("could not move up what waits; the scheduler will")

    @property
    def _means(self) -> Means:
        return Means(self.settings, self.database, self.store, self.card)

    @property
    def _scratch(self) -> Path:
        return self.settings.scratch / self.presence.name

    @property
    def _rhythm(self) -> Rhythm:
        s = self.settings
        return Rhythm(
            lease=s.lease_seconds,
            heartbeat=s.heartbeat_seconds,
            poll=s.cancel_poll_seconds,
            stall=s.stall_seconds,
            drain=s.drain_seconds,
            alive=s.alive_seconds,
            max_attempts=s.max_attempts,
        )
