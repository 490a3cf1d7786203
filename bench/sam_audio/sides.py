"""The two sides of `sam-audio`: a file in, its stems as files out, each in a process of its own."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import soundfile
import torch

from bench.apart import own_peak_mb
from bench.sam_audio.models import Size, load
from bench.sam_audio.plain import Plain
from common.params import SeparationParams
from tests import media
from worker import device as devices
from worker.batches import Batches
from worker.company import Company
from worker.engine import Artifact, Event, Work, alone
from worker.separation.pipeline import SeparationEngine
from worker.separation.sam_audio.longform import LongForm, window_bytes
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import TIERS, Schedule
from worker.separation.sam_audio.separator import SamAudioSeparator

QUALITY = "draft"
PROMPT = "man speaking"


@dataclass(frozen=True)
class Side:
    """seconds: of processors, from the file to its stems, the model loaded before.  sampling: of those, in the sampler.
    wall: seconds on the clock.  peak_mb: highest resident memory, weights and libraries included.  loaded_mb: the same
    before the file was opened.
    """

    seconds: float
    sampling: float
    wall: float
    peak_mb: float
    loaded_mb: float


def busy() -> float:
    """Processor seconds of all threads of this process, and of its children that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def shipped() -> torch.dtype:
    """The format that the engine chooses on this CPU."""
    return devices.matrix_dtype(torch.device("cpu"))


def plain(path: Path, folder: Path, size: Size, schedule: Schedule) -> Side:
    """The published procedure on a mono file at 48 kHz."""
    procedure = Plain(load(size, folder), busy)
    with _Watch() as watch:
        wave, rate = soundfile.read(path, dtype="float32")
        waves = procedure.separate(torch.from_numpy(wave)[None], PROMPT, schedule=schedule)
        for name, stem in zip(("target", "residual"), waves, strict=True):
            soundfile.write(folder / f"plain-{name}.flac", stem.numpy(), rate, subtype="PCM_16")
    return watch.side(procedure.took.sample)


def plain_sampler(seconds: float, folder: Path, size: Size, schedule: Schedule) -> Side:
    """The published procedure without its codec, on a latent of that length."""
    procedure = Plain(load(size, folder), busy)
    config = procedure.network.config
    drawn = torch.Generator().manual_seed(0)
    latent = torch.randn(1, config.latent_channels, round(seconds * config.frame_rate), generator=drawn)
    with _Watch() as watch:
        procedure.sample(latent, PROMPT, schedule=schedule)
    return watch.side(watch.seconds)


def ours(path: Path, folder: Path, size: Size, schedule: Schedule, dtype: torch.dtype | None = None) -> Side:
    """The engine on the same file. dtype: of the layers; None: as it is shipped."""
    engine, form = built(load(size, folder, dtype=dtype or shipped()))
    with scheduled(schedule), _Watch() as watch:
        separate(engine, path, folder / "ours", [PROMPT])
    return watch.side(form.seconds)


def times(
    paths: Sequence[Path],
    prompts: Sequence[Sequence[str]],
    folder: Path,
    size: Size,
    schedule: Schedule,
    dtype: torch.dtype | None = None,
) -> list[float]:
    """Processor seconds of a job on each file, with its prompts, in turn on one model; the first runs twice. dtype: as
    in `ours`."""
    model = load(size, folder, dtype=dtype or shipped())
    taken = []
    with scheduled(schedule):
        for path, asked in [(paths[0], prompts[0]), *zip(paths, prompts, strict=True)]:
            # An engine of its own: it knows what it encoded last, and would take it over from job to job.
            engine, _ = built(model)
            with _Watch() as watch:
                separate(engine, path, folder / "job", asked)
            taken.append(watch.seconds)
    return taken[1:]


@contextmanager
def scheduled(schedule: Schedule) -> Iterator[None]:
    """Inside, the quality that the jobs ask for has that schedule: a shorter one than a job can ask for."""
    kept = TIERS[QUALITY]
    TIERS[QUALITY] = schedule
    try:
        yield
    finally:
        TIERS[QUALITY] = kept


class _Watch:
    """What passes inside."""

    seconds = wall = 0.0

    def __enter__(self) -> _Watch:
        self._loaded = own_peak_mb()
        self._began = busy(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.wall = busy() - self._began[0], time.perf_counter() - self._began[1]

    def side(self, sampling: float) -> Side:
        return Side(self.seconds, sampling, self.wall, own_peak_mb(), self._loaded)


class TimedForm(LongForm):
    """seconds: of processors, spent in the sampler so far, by all jobs."""

    seconds = 0.0

    def anew(self) -> Self:
        return self

    def separate(self, *args: Any, **kwargs: Any) -> Generator[float, None, torch.Tensor]:
        steps = alone(super().separate(*args, **kwargs))
        while True:
            began = busy()
            try:
                done = next(steps)
            except StopIteration as finished:
                return finished.value
            finally:
                self.seconds += busy() - began
            yield done


def built(model: SamAudio) -> tuple[SeparationEngine, TimedForm]:
    """The engine around a model on the CPU, windows and batches as its own factory chooses them."""
    form = TimedForm(model, Batches("bench", model.device, window_bytes(model.config, 750)))
    return SeparationEngine(SamAudioSeparator("sam-audio-bench", "1", form)), form


def separate(
    engine: SeparationEngine, path: Path, scratch: Path, prompts: Sequence[str], quality: str = QUALITY
) -> None:
    """A job of that engine. Raises where it gives other stems than were asked for."""
    _stems(engine.run(_work(path, scratch, prompts, quality)), scratch, prompts)


def separate_at_once(
    engine: SeparationEngine, paths: Sequence[Path], scratch: Path, prompts: Sequence[str], quality: str = QUALITY
) -> None:
    """A job for each file, all at once, as a worker does them. Raises as `separate` does."""
    company = Company(len(paths))

    def attempt(path: Path) -> None:
        own = scratch / path.name
        try:
            with closing(company.events(engine.steps(_work(path, own, prompts, quality)))) as events:
                _stems(events, own, prompts)
        finally:
            company.leave()

    with ThreadPoolExecutor(len(paths)) as pool:
        attempts = [pool.submit(attempt, path) for path in paths]
        company.compute()
    for one in attempts:
        one.result()


def _work(path: Path, scratch: Path, prompts: Sequence[str], quality: str) -> Work:
    params = SeparationParams.model_validate({"prompts": list(prompts), "quality": quality})
    return Work("job_bench", params, media.sources(path), scratch)


def _stems(events: Iterable[Event], scratch: Path, prompts: Sequence[str]) -> None:
    stems = [event.name for event in events if isinstance(event, Artifact) and event.role == "stem"]
    shutil.rmtree(scratch)
    if len(stems) != 2 * len(prompts):
        raise RuntimeError(f"the job gave {stems}")
