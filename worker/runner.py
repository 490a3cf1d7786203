"""One job, top to bottom: claim, fetch, compute, store, publish. Read `perform` first."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.db.engine import Database
from common.engines import EngineSpec, Kind, lookup
from common.errors import NightshiftError
from common.jobs import events, finish, queueing, running
from common.jobs.job import Job, LeaseLost
from common.params import parse_request
from common.queue import Ringer
from common.settings import Settings
from common.states import Reason
from common.storage.store import Store
from worker import cache
from worker.card import Card
from worker.company import Company
from worker.engine import (
    Artifact,
    BlockDone,
    Engine,
    Event,
    Limits,
    Metrics,
    Note,
    Progress,
    Sharing,
    Source,
    Voice,
    Work,
)
from worker.inputs import Inputs
from worker.media.overlap import Behind
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
from worker.publish import Publisher, StoredBlocks, digest, fingerprint, folder_of
from worker.watch import Rhythm, Watch

_log = log.get(__name__)

_PATIENCE, _PATIENCE_IN_COMPANY = 0.5, 0.02


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
            queueing.claim,
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
        engine = self.card.loaded(job.engine)
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
                companions = queueing.join(
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
                    return _Attempt(self, job, folder, watch, company).perform()
            finally:
                watches.remove(watch)
        except Exception as error:
            outcome = Lost() if isinstance(error, LeaseLost) else error
            if not isinstance(of_exception(outcome), Cancelled | Yielded | LeaseGone):
                _log.warning("attempt failed", error=f"{type(error).__name__}: {error}", exc_info=True)
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


class _Attempt:
    """One attempt at one job."""

    def __init__(self, runner: Runner, job: Job, folder: Path, watch: Watch, company: Company | None) -> None:
        self._runner = runner
        self._job = job
        self._folder = folder
        self._watch = watch
        self._company = company
        self._started = time.monotonic()
        self._outputs: list[dict[str, Any]] = []
        self._warnings: list[dict[str, str]] = []
        self._metrics: dict[str, Any] = {}
        self._cached: dict[str, str] | None = None

    def perform(self) -> Outcome:
        """The way of a job, as design.md tells it. Raises what ends it early."""
        sources, voices = self._fetch()
        spec = lookup(self._job.engine, Kind(self._job.kind))
        engine = self._load(spec)
        blocks = self._fingerprint(engine, sources, voices)
        mark = cache.fingerprint(spec, blocks, sources)
        if not self._take(mark):
            work, publisher = self._prepare(blocks, sources, voices)
            if (outcome := self._compute(engine, work, publisher)) is not None:
                return outcome
        return Succeeded(self._result(engine, sources), mark)

    def _fetch(self) -> tuple[tuple[Source, ...], dict[str, Voice]]:
        def tell(done: int, total: int | None) -> None:
            self._watch.moved({"phase": "fetch", "done": done, "total": total, "unit": "bytes"})

        runner = self._runner
        inputs = Inputs(runner.settings, runner.database, runner.store)
        voices = inputs.bring_voices(self._job, self._folder, self._watch.check)
        return inputs.bring(self._job, self._folder, tell, self._watch.check), voices

    def _load(self, spec: EngineSpec) -> Engine:
        def tell(done: int, total: int | None) -> None:
            self._watch.moved({"phase": "load", "done": done, "total": total, "unit": "bytes"})
            self._watch.check()

        self._watch.moved({"phase": "load", "done": 0, "total": 1, "unit": "engine"})
        engine = self._runner.card.acquire(spec, tell)
        self._watch.moved()
        self._watch.check()
        return engine

    def _fingerprint(self, engine: Engine, sources: tuple[Source, ...], voices: Mapping[str, Voice]) -> str:
        """Of the blocks."""
        heard = [source.sha256 for source in sources] + [digest(voice) for voice in voices.values()]
        return fingerprint(self._job, engine.version, heard, self._runner.settings.block_seconds)

    def _take(self, mark: str | None) -> bool:
        """Whether an earlier job's result does, and is this one's now."""

        def tell(done: int, total: int) -> None:
            self._watch.check()
            self._watch.moved({"phase": "store", "done": done, "total": total, "unit": "results"})

        try:
            taken = cache.Cache(self._runner.store, self._runner.database, self._job, tell).take(mark)
        except cache.Incomplete as why:
            self._note(Note("info", "cache_incomplete", str(why)))
            return False
        if taken is None:
            return False
        self._outputs.extend(dict(output) for output in taken.outputs)
        self._warnings.extend(dict(warning) for warning in taken.warnings)
        self._metrics.update(taken.metrics)
        self._cached = dict(taken.cached)
        self._note(
            Note("info", "cached", f"The result was taken from {taken.cached['job']}, which had the same to do.")
        )
        return True

    def _prepare(self, mark: str, sources: tuple[Source, ...], voices: Mapping[str, Voice]) -> tuple[Work, Publisher]:
        settings, job = self._runner.settings, self._job
        with self._runner.database.read() as tx:
            found = running.finished_blocks(tx, job.id, mark)
        if found:
            self._note(Note("info", "resumed", f"Going on after {len(found)} finished blocks."))
        scratch = self._folder / "work"
        scratch.mkdir()
        work = Work(
            job_id=job.id,
            params=parse_request(dict(job.request)).params,
            sources=sources,
            scratch=scratch,
            blocks=StoredBlocks(self._runner.store, found, self._folder),
            voices=voices,
            limits=Limits(settings.max_duration_seconds, settings.max_channels, settings.max_pixels),
            check=self._watch.check,
            block_seconds=settings.block_seconds,
            patience=_PATIENCE if self._company is None else _PATIENCE_IN_COMPANY,
            acquire=lambda name: self._load(lookup(name)),
        )
        store, database = self._runner.store, self._runner.database
        return work, Publisher(store, database, job, mark, settings.lease_seconds, self._watch.check, folder_of(job))

    def _compute(self, engine: Engine, work: Work, publisher: Publisher) -> Outcome | None:
        """Runs the engine and stores what it gives, behind it. Returns an outcome where it stops at a block's end."""
        with Behind(depth=4) as behind, contextlib.closing(self._events(engine, work)) as happening:
            for event in happening:
                self._watch.check()
                self._watch.moved()
                match event:
                    case Progress():
                        self._watch.moved(_progress(event))
                    case BlockDone():
                        behind.submit(publisher.block, event)
                        # After the last block another claim would cost more than putting the result together.
                        if self._watch.yield_for is not None and not event.last:
                            break
                    case Artifact():
                        behind.submit(self._keep, publisher, event)
                    case Note():
                        self._note(event)
                    case Metrics(values):
                        self._metrics.update(values)
            else:
                self._watch.moved({"phase": "store", "done": 0, "total": 1, "unit": "results"})
                behind.close()
                return None
            # What is finished is to be in the store before another worker goes on after it.
            behind.close()
        assert self._watch.yield_for is not None
        return Yielded(self._watch.yield_for)

    def _events(self, engine: Engine, work: Work) -> Generator[Event, None, None]:
        """The engine's events as a generator, which can be closed whatever the engine returned."""
        if self._company is not None and isinstance(engine, Sharing):
            yield from self._company.events(engine.steps(work))
        else:
            yield from engine.run(work)

    def _keep(self, publisher: Publisher, artifact: Artifact) -> None:
        self._outputs.append(publisher.artifact(artifact))
        self._watch.moved()

    def _note(self, note: Note) -> None:
        _log.info(note.message, code=note.code)
        if note.level == "warning":
            self._warnings.append({"code": note.code, "message": note.message})
        with self._runner.database.write() as tx:
            events.log(tx, self._job.id, note.level, note.code, note.message)

    def _times(self) -> dict[str, Any]:
        """seconds: since it was claimed.  worker_seconds: of its worker's time, which it shared with others."""
        times: dict[str, Any] = {"seconds": round(time.monotonic() - self._started, 3)}
        if self._company is not None:
            times |= {"worker_seconds": round(self._company.seconds, 3), "jobs_together": self._company.size}
        return times

    def _result(self, engine: Engine, sources: tuple[Source, ...]) -> dict[str, Any]:
        self._watch.check()
        return {
            "outputs": self._outputs,
            "warnings": self._warnings,
            "metrics": {**self._metrics, **self._times()},
            "inputs": [{"filename": s.filename, "bytes": s.size, "sha256": s.sha256} for s in sources],
            "engine": {"name": engine.name, "version": engine.version},
            "cached": self._cached,
        }


def _progress(event: Progress) -> dict[str, Any]:
    return {
        "phase": event.phase,
        "done": event.done,
        "total": event.total,
        "unit": event.unit,
        "block": event.block,
        "blocks": event.blocks,
    }
