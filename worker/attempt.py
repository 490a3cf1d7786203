"""One attempt at one job, top to bottom: fetch, load, compute, store. Read `perform` first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import log
from common.db.engine import Database
from common.engines import EngineSpec, Kind, lookup
from common.jobs import events, running
from common.jobs.job import Job
from common.params import parse_request
from common.settings import Settings
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
from worker.outcome import Outcome, Succeeded, Yielded
from worker.publish import Publisher, StoredBlocks, digest, fingerprint, folder_of
from worker.watch import Watch

_log = log.get(__name__)


@dataclass(frozen=True)
class Means:
    """What attempts are made with."""

    settings: Settings
    database: Database
    store: Store
    card: Card


class Attempt:
    """One attempt at one job."""

    def __init__(
        self,
        means: Means,
        job: Job,
        folder: Path,
        watch: Watch,
        company: Company | None = None,
    ) -> None:
        """folder: its own, for as long as it lasts.  company: the jobs that are done at once with it."""
        self._means = means
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

        means = self._means
        inputs = Inputs(means.settings, means.database, means.store)
        voices = inputs.bring_voices(self._job, self._folder, self._watch.check)
        return inputs.bring(self._job, self._folder, tell, self._watch.check), voices

    def _load(self, spec: EngineSpec) -> Engine:
        def tell(done: int, total: int | None) -> None:
            self._watch.moved({"phase": "load", "done": done, "total": total, "unit": "bytes"})
            self._watch.check()

        self._watch.moved({"phase": "load", "done": 0, "total": 1, "unit": "engine"})
        engine = self._means.card.acquire(spec, tell)
        self._watch.moved()
        self._watch.check()
        return engine

    def _fingerprint(self, engine: Engine, sources: tuple[Source, ...], voices: Mapping[str, Voice]) -> str:
        """Of the blocks."""
        heard = [source.sha256 for source in sources] + [digest(voice) for voice in voices.values()]
        return fingerprint(self._job, engine.version, heard, self._means.settings.block_seconds)

    def _take(self, mark: str | None) -> bool:
        """Whether an earlier job's result does, and is this one's now."""

        def tell(done: int, total: int) -> None:
            self._watch.check()
            self._watch.moved({"phase": "store", "done": done, "total": total, "unit": "results"})

        try:
            taken = cache.Cache(self._means.store, self._means.database, self._job, tell).take(mark)
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
        settings, job = self._means.settings, self._job
        with self._means.database.read() as tx:
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
            blocks=StoredBlocks(self._means.store, found, self._folder),
            voices=voices,
            limits=Limits(settings.max_duration_seconds, settings.max_channels, settings.max_pixels),
            check=self._watch.check,
            block_seconds=settings.block_seconds,
            acquire=lambda name: self._load(lookup(name)),
        )
        store, database = self._means.store, self._means.database
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
        with self._means.database.write() as tx:
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
