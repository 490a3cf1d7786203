"""The figures of `sam-audio-gpu`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import place
from bench.apart import own_peak_mb
from bench.figures import Figure, Goal, figure
from bench.sam_audio import errors
from bench.sam_audio.cpu import at_a_glance, error_figures, recording
from bench.sam_audio.models import SIZES, load
from bench.sam_audio.plain import Plain
from bench.sam_audio.sides import PROMPT, separate, separate_at_once
from bench.scale import Scale
from common.params import SeparationParams
from worker import device as devices
from worker.batches import MOST, Batches
from worker.engine import alone
from worker.separation.pipeline import SeparationEngine
from worker.separation.sam_audio.longform import LongForm
from worker.separation.sam_audio.model import Conditions, SamAudio
from worker.separation.sam_audio.sampler import REFERENCE, TIERS
from worker.separation.sam_audio.separator import SamAudioSeparator
from worker.separation.separator import BlockAudio

RATE = 48_000
IN_A_ROW = 8
"""Evaluations that are timed together, as the sampler makes them: none waits for the one before to be known."""

FASTER = [name for name, schedule in TIERS.items() if schedule != REFERENCE]


def missing(device: str) -> str | None:
    """Why nothing can be measured there."""
    if not torch.cuda.is_available():
        return "torch sees no card (look at `nvidia-smi`; `--device cpu --size tiny` only shows that it works)"
    if (torch.device(device).index or 0) >= torch.cuda.device_count():
        return f"torch sees {torch.cuda.device_count()} cards, and none is {device}"
    return None


class Fixed(Batches):
    """Batches of one size, whatever is free."""

    def __init__(self, device: torch.device, size: int) -> None:
        super().__init__(f"bench-{size}", device, 1)
        self._fixed = size

    @property
    def size(self) -> int:
        return self._fixed


@dataclass(frozen=True)
class Run:
    """seconds: of the second of two runs, so that neither compiling nor tuning counts.  peak_gb: reserved at most."""

    seconds: float
    peak_gb: float


@dataclass(frozen=True)
class Rung:
    """One lever more, in words, and what it led to."""

    name: str
    what: str
    run: Run


class Bench:
    """A device, a size, and how much is measured."""

    def __init__(self, scale: Scale, device: str, size: str, folder: Path) -> None:
        self.device, self.size, self.name, self.folder = torch.device(device), SIZES[size], size, folder
        self.clips = scale.pick(quick=(1.0,), normal=(300.0, 120.0, 60.0, 30.0))
        self.file = scale.pick(quick=2.0, normal=600.0)
        self.pair = scale.pick(quick=(0.5,), normal=(30.0, 300.0))
        self.companies = scale.pick(quick=(2,), normal=(2, 4, 8))
        self.batches = scale.pick(quick=(1, 2), normal=(1, 2, 4, 8, 16, 32, 64))
        self.window, self.overlap = scale.pick(quick=(20, 5), normal=(750, 125))
        self.products = scale.pick(quick=256, normal=8192)
        self.frames = scale.pick(quick=10, normal=250)
        self.warm = scale is not Scale.QUICK
        self.repetitions = scale.pick(quick=2, normal=5)

    def figures(self) -> Iterator[Figure]:
        yield from self.levers()
        yield from self.batch_sizes()
        yield from self.whole_files()
        yield from self.sharing()
        yield from self.company()
        tiers = errors.of_tiers(self.size, self.folder, self.frames, str(self.device))
        formats = errors.of_formats(self.size, self.folder, self.frames, str(self.device))
        yield from error_figures(tiers, formats)

    def levers(self) -> Iterator[Figure]:
        """From the published procedure to everything that speeds it up, one after the other."""
        seconds, published = self._longest()
        clip = self._clip(seconds)
        rungs = [*self._published_in_bf16(clip), *self._own(clip)]
        again = self._published(clip)
        before = {
            "published_s": published.seconds,
            "published_again_s": again.seconds,
            "published_gb": published.peak_gb,
        }
        reference = rungs[-1 - len(FASTER)]
        for rung in rungs:
            ratios = [published.seconds / rung.run.seconds, again.seconds / rung.run.seconds]
            yield figure(
                f"levers-{rung.name}", f"speed of {seconds:g} s with {rung.what}, and all before",
                "the published procedure", ratios, Goal(">=", 5) if rung is reference else None,
                {"s": rung.run.seconds, "peak_gb": rung.run.peak_gb, **before},
            )  # fmt: skip
        yield figure(
            "against-bf16", f"speed of {seconds:g} s with every lever at reference",
            "the published procedure in bfloat16", [rungs[0].run.seconds / reference.run.seconds],
        )  # fmt: skip
        yield figure(
            "times-real-time", f"speed of {seconds:g} s with every lever at reference", "real time",
            [seconds / reference.run.seconds], Goal(">=", 200),
        )  # fmt: skip

    def _published(self, clip: torch.Tensor) -> Run:
        exact = Plain(self._load(torch.float32))
        return self._run(lambda: exact.separate(clip, PROMPT))

    def _published_in_bf16(self, clip: torch.Tensor) -> Iterator[Rung]:
        short = Plain(self._load(torch.bfloat16))
        yield Rung("bf16", "layers in bfloat16", self._run(lambda: short.separate(clip, PROMPT)))
        short.network.transformer.gather_heads()
        yield Rung("heads", "heads together", self._run(lambda: short.separate(clip, PROMPT)))

    def _own(self, clip: torch.Tensor) -> Iterator[Rung]:
        model = self._load(torch.bfloat16)

        def rung(name: str, what: str, batch: int = MOST, quality: str = "reference") -> Rung:
            return Rung(name, what, self._run(lambda: self._block(model, batch, clip, quality)))

        whole = self._run(lambda: model.separate(clip, PROMPT))
        yield Rung("once", "constants made once, weights folded", whole)
        yield rung("windows", "windows of 30 s, codec in pieces", batch=1)
        yield rung("batches", f"up to {MOST} windows at once")
        model.network.audio_codec.cudnn = True
        yield rung("cudnn", "cuDNN for the codec")
        # Without a card there is nothing worth to be compiled for: that the way is open is all there is to be seen.
        model.compile(self.window, "inductor" if self.device.type == "cuda" else "eager")
        yield rung("compile", "the field compiled")
        for name in FASTER:
            yield rung(name, f"{TIERS[name].evaluations} evaluations in the place of 32", quality=name)

    def batch_sizes(self) -> Iterator[Figure]:
        """The sampler at each number of windows, as long as they fit."""
        rate = self.matrix_rate()
        model = self._load(torch.bfloat16)
        for count in self.batches:
            try:
                yield self._batch(model, count, rate)
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
                return

    def _batch(self, model: SamAudio, count: int, rate: float) -> Figure:
        config = model.config
        drawn = torch.Generator(self.device).manual_seed(0)
        state = torch.randn(count, self.window, config.state_channels, generator=drawn, device=self.device)
        conditions = model.conditions(state, model.text([PROMPT] * count))
        operations = evaluation_flops(model, state, conditions)

        def evaluations() -> None:
            for index in range(IN_A_ROW):
                model.evaluate(state, index / IN_A_ROW, conditions)

        runs = [self._run(evaluations) for _ in range(self.repetitions)]
        seconds = [run.seconds / IN_A_ROW for run in runs]
        new = count * (self.window - self.overlap) / config.frame_rate
        middle = statistics.median(seconds)
        return figure(
            f"batch-{count}", f"sampler's speed at reference, {count} windows at once", "real time",
            [new / (REFERENCE.evaluations * each) for each in seconds], None,
            {"evaluation_ms": middle * 1000, "share_of_matrix_rate": operations / middle / rate,
             "matrix_tflops": rate / 1e12, "peak_gb": max(run.peak_gb for run in runs)},
        )  # fmt: skip

    def matrix_rate(self) -> float:
        """Operations per second of a bfloat16 product of large matrices, the best of several."""
        n = self.products
        drawn = torch.Generator(self.device).manual_seed(0)
        a, b = (torch.randn(n, n, generator=drawn, device=self.device).bfloat16() for _ in range(2))
        times = [self._run(lambda: [a @ b for _ in range(10)]).seconds / 10 for _ in range(5)]
        return 2 * n**3 / min(times)

    def whole_files(self) -> Iterator[Figure]:
        """A file through the engine, and the memory that it takes."""
        path = recording(self.folder / "file.flac", self.file)
        for count, limit in ((1, 12), (MOST, 24)):
            model = self._load(torch.bfloat16)
            run = self._job(model, path, [PROMPT], count)
            del model
            what = f"peak memory of {self.name} for {self.file:g} s, up to {count} windows at once"
            yield figure(
                f"memory-batch-{count}", what, f"{limit} GB", [run.peak_gb / limit], Goal("<=", 1),
                {"peak_gb": run.peak_gb, "times_real_time": self.file / run.seconds},
            )  # fmt: skip
        yield figure(
            "engine-times-real-time", f"speed of the engine as shipped, a file of {self.file:g} s at reference",
            "real time", [self.file / run.seconds], Goal(">=", 200), {"s": run.seconds},
        )  # fmt: skip

    def sharing(self) -> Iterator[Figure]:
        """Two prompts against one, two equal channels against one."""
        model = self._load(torch.bfloat16)
        for seconds in self.pair:
            mono = recording(self.folder / f"mono-{seconds:g}.flac", seconds)
            equal = recording(self.folder / f"equal-{seconds:g}.flac", seconds, channels=2)
            jobs = [(mono, [PROMPT]), (mono, [PROMPT, "rain"]), (mono, [PROMPT]), (equal, [PROMPT]), (mono, [PROMPT])]
            first, two, second, both, third = (self._job(model, path, prompts).seconds for path, prompts in jobs)
            yield figure(
                f"two-prompts-{seconds:g}s", f"time of {seconds:g} s by two prompts", "by one",
                [two / first, two / second], Goal("<=", 1.9), {"one_s": (first + second) / 2, "two_s": two},
            )  # fmt: skip
            yield figure(
                f"equal-channels-{seconds:g}s", f"time of {seconds:g} s of two equal channels", "of one channel",
                [both / second, both / third], Goal("<=", 1.1), {"one_s": (second + third) / 2, "both_s": both},
            )  # fmt: skip

    def company(self) -> Iterator[Figure]:
        """Jobs at once, which share their batches, against the same one after another."""
        for count in self.companies:
            paths = [recording(self.folder / f"one-{n}.flac", self.pair[0]) for n in range(count)]
            yield self._company(SeparationEngine(self._separator(self._load(torch.bfloat16), MOST)), paths)

    def _company(self, engine: SeparationEngine, paths: Sequence[Path]) -> Figure:
        scratch = self.folder / "jobs"

        def in_turn() -> None:
            for path in paths:
                separate(engine, path, scratch / path.name, [PROMPT], "reference")

        def at_once() -> None:
            separate_at_once(engine, paths, scratch, [PROMPT], "reference")

        first, together, second = (self._run(work) for work in (in_turn, at_once, in_turn))
        return figure(
            f"company-of-{len(paths)}", f"speed of {len(paths)} jobs of {self.pair[0]:g} s at once",
            "one after another", [first.seconds / together.seconds, second.seconds / together.seconds], None,
            {"in_turn_s": (first.seconds + second.seconds) / 2, "at_once_s": together.seconds,
             "peak_gb": together.peak_gb},
        )  # fmt: skip

    def _longest(self) -> tuple[float, Run]:
        """The longest clip that the published procedure has the memory for, and its run."""
        for seconds in self.clips:
            try:
                return seconds, self._published(self._clip(seconds))
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
        raise place.Missing(f"the published procedure does not fit this card, not even for {self.clips[-1]:g} s")

    def _run(self, work: Callable[[], object]) -> Run:
        on_card = self.device.type == "cuda"
        devices.release(self.device)
        if self.warm:
            work()
        if on_card:
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        work()
        if on_card:
            torch.cuda.synchronize(self.device)
        took = time.perf_counter() - began
        return Run(took, torch.cuda.max_memory_reserved(self.device) / 1e9 if on_card else own_peak_mb() / 1e3)

    def _load(self, dtype: torch.dtype) -> SamAudio:
        devices.release(self.device)
        return load(self.size, self.folder, self.device, dtype, keep=True)

    def _separator(self, model: SamAudio, batch: int) -> SamAudioSeparator:
        """A new one for every job: it knows what it encoded last, and would take it over."""
        form = LongForm(model, Fixed(self.device, batch), window=self.window, overlap=self.overlap)
        return SamAudioSeparator("sam-audio-bench", "1", form)

    def _job(self, model: SamAudio, path: Path, prompts: Sequence[str], batch: int = MOST) -> Run:
        """A file through the engine."""

        def job() -> None:
            separate(SeparationEngine(self._separator(model, batch)), path, self.folder / "job", prompts, "reference")

        return self._run(job)

    def _block(self, model: SamAudio, batch: int, clip: torch.Tensor, quality: str) -> None:
        """A clip as one block."""
        params = SeparationParams.model_validate({"prompts": [PROMPT], "quality": quality})
        block = BlockAudio(0, clip.numpy(), RATE, 0, slice(0, clip.shape[1]))
        for _ in alone(self._separator(model, batch).separate(block, params, lambda: None)):
            pass

    def _clip(self, seconds: float) -> torch.Tensor:
        """[1, N] at 48 kHz."""
        drawn = np.random.default_rng(0).normal(0, 0.1, (1, round(seconds * RATE)))
        return torch.from_numpy(drawn.astype(np.float32))


def evaluation_flops(model: SamAudio, state: torch.Tensor, conditions: Conditions) -> int:
    """Operations of one evaluation, as PyTorch counts them: products of matrices, convolutions, attention."""
    with FlopCounterMode(display=False) as counted:
        model.evaluate(state, 0.3, conditions)
    return counted.get_total_flops()


def run(scale: Scale, device: str, size: str) -> Iterator[Figure]:
    with place.folder() as folder, at_a_glance(scale):
        yield from Bench(scale, device, size, folder).figures()
