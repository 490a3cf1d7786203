"""The two sides of `sam-audio`: a file in, its stems as files out, each in a process of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch

from bench.apart import own_peak_mb
from bench.sam_audio.models import Size, load
from bench.sam_audio.plain import Plain
from common.params import SeparationParams
from tests import media
from worker.batches import Batches
from worker.engine import Artifact, Work
from worker.separation.pipeline import SeparationEngine
from worker.separation.sam_audio.longform import LongForm, window_bytes
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import TIERS, Schedule
from worker.separation.sam_audio.separator import SamAudioSeparator

QUALITY = "draft"
PROMPT = "man speaking"


@dataclass(frozen=True)
class Side:
    """seconds: from the file to its stems, the model loaded before.  sampling: of those, in the sampler.
    peak_mb: highest resident memory, weights and libraries included.  loaded_mb: the same before the file was opened.
    """

    seconds: float
    sampling: float
    peak_mb: float
    loaded_mb: float


def plain(path: Path, folder: Path, size: Size, steps: int) -> Side:
    """The published procedure on a mono file at 48 kHz. steps: of the midpoint rule, sixteen as published."""
    procedure = Plain(load(size, folder))
    loaded = own_peak_mb()
    began = time.perf_counter()
    wave, rate = soundfile.read(path, dtype="float32")
    waves = procedure.separate(torch.from_numpy(wave)[None], PROMPT, schedule=Schedule("midpoint", steps))
    for name, stem in zip(("target", "residual"), waves, strict=True):
        soundfile.write(folder / f"plain-{name}.flac", stem.numpy(), rate, subtype="PCM_16")
    return Side(time.perf_counter() - began, procedure.took.sample, own_peak_mb(), loaded)


def plain_sampler(seconds: float, folder: Path, size: Size, steps: int) -> Side:
    """The published procedure without its codec, on a latent of that length."""
    procedure = Plain(load(size, folder))
    loaded = own_peak_mb()
    config = procedure.network.config
    drawn = torch.Generator().manual_seed(0)
    latent = torch.randn(1, config.latent_channels, round(seconds * config.frame_rate), generator=drawn)
    began = time.perf_counter()
    procedure.sample(latent, PROMPT, schedule=Schedule("midpoint", steps))
    took = time.perf_counter() - began
    return Side(took, took, own_peak_mb(), loaded)


def ours(path: Path, folder: Path, size: Size, steps: int, bf16: bool = False) -> Side:
    """The engine as it is shipped, on the same file. bf16: with the format a card has, not that of a CPU."""
    engine, form = built(load(size, folder, dtype=torch.bfloat16 if bf16 else torch.float32))
    loaded = own_peak_mb()
    with steps_of(steps):
        seconds = separate(engine, path, folder / "ours", [PROMPT])
    return Side(seconds, form.seconds, own_peak_mb(), loaded)


def times(paths: Sequence[Path], prompts: Sequence[Sequence[str]], folder: Path, size: Size, steps: int) -> list[float]:
    """Seconds of a job on each file, with its prompts, in turn on one model; after one that is not counted."""
    model = load(size, folder)
    jobs = list(zip(paths, prompts, strict=True))
    with steps_of(steps):
        # An engine of its own for each: it knows what it encoded last, and would take it over from job to job.
        return [separate(built(model)[0], path, folder / "job", asked) for path, asked in (jobs[0], *jobs)][1:]


@contextmanager
def steps_of(count: int) -> Iterator[None]:
    """Inside, the quality that the jobs ask for has that many steps: fewer than a job can ask for."""
    kept = TIERS[QUALITY]
    TIERS[QUALITY] = Schedule("midpoint", count)
    try:
        yield
    finally:
        TIERS[QUALITY] = kept


class TimedForm(LongForm):
    """seconds: spent in the sampler so far."""

    seconds = 0.0

    def separate(self, *args: Any, **kwargs: Any) -> Generator[float, None, torch.Tensor]:
        steps = super().separate(*args, **kwargs)
        while True:
            began = time.perf_counter()
            try:
                done = next(steps)
            except StopIteration as finished:
                return finished.value
            finally:
                self.seconds += time.perf_counter() - began
            yield done


def built(model: SamAudio) -> tuple[SeparationEngine, TimedForm]:
    """The engine around a model on the CPU, windows and batches as its own factory chooses them."""
    form = TimedForm(model, Batches("bench", model.device, window_bytes(model.config, 750)))
    return SeparationEngine(SamAudioSeparator("sam-audio-bench", "1", form)), form


def separate(
    engine: SeparationEngine, path: Path, scratch: Path, prompts: Sequence[str], quality: str = QUALITY
) -> float:
    """Seconds for a job of that engine. Raises where it gives other stems than were asked for."""
    params = SeparationParams.model_validate({"prompts": list(prompts), "quality": quality})
    work = Work("job_bench", params, media.sources(path), scratch)
    began = time.perf_counter()
    stems = [event.name for event in engine.run(work) if isinstance(event, Artifact) and event.role == "stem"]
    took = time.perf_counter() - began
    shutil.rmtree(scratch)
    if len(stems) != 2 * len(prompts):
        raise RuntimeError(f"the job gave {stems}")
    return took
