"""The figures of `sam-audio`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import torch

from bench import place
from bench.apart import apart
from bench.figures import Figure, Goal, figure
from bench.sam_audio import errors, sides
from bench.sam_audio.models import SIZES, Size
from bench.sam_audio.sides import Side
from bench.scale import Scale
from worker.separation.sam_audio.sampler import Schedule

RATE = 48_000

PLAIN_SAMPLER_GB = 14.0
"""What the published procedure's sampler takes at 300 s: three times all frames against all frames, for 16 heads."""

PLAIN = "the published procedure"

ONCE = Schedule("euler", 1)
"""One evaluation, in the place of 32 that cost the same."""


class Procedures:
    """Both sides at the lengths of a scale. wide: with the published codec.  narrow: with one that fits anywhere."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder, self.scale = folder, scale
        self.short, self.middle, self.long = scale.pick(quick=(0.5, 1.0, 2.0), normal=(10.0, 60.0, 300.0))
        self.wide = scale.pick(quick=SIZES["tiny"], normal=Size(2048, 16, 2))
        self.narrow = scale.pick(quick=SIZES["tiny"], normal=Size(2048, 16, 2, codec=16))
        self._by = by(scale)
        # Length in seconds to the published procedure and ours.
        self._wide: dict[float, tuple[Side, Side]] = {}

    def figures(self) -> Iterator[Figure]:
        """What takes minutes: the samplers at the long length, the whole at the short one."""
        yield from self._sampler()
        self._wide[self.short] = self._both(self.short)
        yield from self._compared(self.short)
        yield self._needed()

    def longer(self) -> Iterator[Figure]:
        """What takes the better part of an hour: the whole at the longest that fits, and ours beyond."""
        longest = self._longest()
        self._wide[longest] = self._both(longest)
        yield from self._compared(longest)
        yield self._needed()
        ours, (_, middle) = self._ours(self.long, self.wide), self._wide[longest]
        yield figure(
            "memory-flat", f"peak memory for {self.long:g} s with the published codec", f"for {longest:g} s",
            [ours.peak_mb / middle.peak_mb], Goal("<=", 1.1),
            {"long_mb": ours.peak_mb, "loaded_mb": ours.loaded_mb, "long_s": ours.seconds},
        )  # fmt: skip

    def _both(self, seconds: float) -> tuple[Side, Side]:
        """The published procedure, and ours."""
        plain = self._by(sides.plain, self._recording(seconds), self.folder, self.wide, ONCE)
        return plain, self._ours(seconds, self.wide)

    def _compared(self, seconds: float) -> Iterator[Figure]:
        plain, ours = self._wide[seconds]
        yield figure(
            f"speed-{seconds:g}s", f"speed of a separation of {seconds:g} s, file in, stems out", PLAIN,
            [plain.seconds / ours.seconds], None,
            {"ours_s": ours.seconds, "plain_s": plain.seconds, "ours_sampler_s": ours.sampling,
             "plain_sampler_s": plain.sampling, "ours_wall_s": ours.wall, "plain_wall_s": plain.wall},
        )  # fmt: skip
        yield figure(
            f"memory-{seconds:g}s", f"peak memory of a separation of {seconds:g} s", PLAIN,
            [ours.peak_mb / plain.peak_mb], None,
            {"ours_mb": ours.peak_mb, "plain_mb": plain.peak_mb, "ours_loaded_mb": ours.loaded_mb,
             "plain_loaded_mb": plain.loaded_mb},
        )  # fmt: skip

    def _longest(self) -> float:
        """The longest that the published procedure has the memory for, up to the middle length."""
        plain, _ = self._wide[self.short]
        fitting = (_free_mb() - plain.loaded_mb) // self._a_second()
        return min(self.middle, max(self.short * 2, fitting // 10 * 10))

    def _needed(self) -> Figure:
        a_second, (plain, _) = self._a_second(), self._wide[self.short]
        needed = plain.peak_mb + (self.long - self.short) * a_second
        there = psutil.virtual_memory().total / 1e6
        fits = "fits" if needed < there else "does not fit"
        known = " and ".join(f"{seconds:g}" for seconds in self._wide)
        return figure(
            f"plain-needs-{self.long:g}s",
            f"memory that {PLAIN} would need for {self.long:g} s, by what {known} s took",
            f"all of this machine's: it {fits}", [needed / there], None,
            {"needed_mb": needed, "a_second_mb": a_second, "machine_mb": there},
        )  # fmt: skip

    def _a_second(self) -> float:
        """MB that the published procedure takes for each second of sound."""
        (first, (shortest, _)), *others = sorted(self._wide.items())
        if not others:
            return max(1.0, shortest.peak_mb - shortest.loaded_mb) / first
        last, (longest, _) = others[-1]
        return max(1.0, longest.peak_mb - shortest.peak_mb) / (last - first)

    def _sampler(self) -> Iterator[Figure]:
        if self.scale is not Scale.QUICK and _free_mb() < PLAIN_SAMPLER_GB * 1000:
            raise place.Missing(f"{PLAIN_SAMPLER_GB:g} GB of free memory are needed for {PLAIN}")
        middle = self._ours(self.middle, self.narrow)
        ours = self._ours(self.long, self.narrow)
        plain = self._by(sides.plain_sampler, self.long, self.folder, self.narrow, ONCE)
        exact = self._by(
            sides.ours, self._recording(self.long), self.folder, self.narrow, ONCE, dtype=torch.float32
        )  # fmt: skip
        chosen = str(sides.shipped()).rpartition(".")[2]
        yield figure(
            f"sampler-{self.long:g}s",
            f"speed of the sampler over {self.long:g} s, as it is shipped, in {chosen} on this CPU",
            f"that of {PLAIN}, without codec", [plain.sampling / ours.sampling], Goal(">=", 3),
            {"ours_s": ours.sampling, "plain_s": plain.sampling},
        )  # fmt: skip
        yield figure(
            f"sampler-float32-{self.long:g}s", f"speed of the sampler over {self.long:g} s in float32",
            f"that of {PLAIN}, without codec", [plain.sampling / exact.sampling], None,
            {"ours_s": exact.sampling, "plain_s": plain.sampling},
        )  # fmt: skip
        yield figure(
            f"sampler-memory-{self.long:g}s", f"peak memory for {self.long:g} s, file in, stems out, narrow codec",
            f"{PLAIN}'s sampler alone", [ours.peak_mb / plain.peak_mb], None,
            {"ours_mb": ours.peak_mb, "plain_mb": plain.peak_mb, "ours_loaded_mb": ours.loaded_mb},
        )  # fmt: skip
        yield figure(
            "memory-flat-narrow", f"peak memory for {self.long:g} s, narrow codec", f"for {self.middle:g} s",
            [ours.peak_mb / middle.peak_mb], Goal("<=", 1.1), {"long_mb": ours.peak_mb, "middle_mb": middle.peak_mb},
        )  # fmt: skip

    def _ours(self, seconds: float, size: Size) -> Side:
        return self._by(sides.ours, self._recording(seconds), self.folder, size, ONCE)

    def _recording(self, seconds: float) -> Path:
        return recording(self.folder / f"{seconds:g}s.flac", seconds)


def run(scale: Scale) -> Iterator[Figure]:
    with place.folder() as folder, at_a_glance(scale):
        procedures = Procedures(folder, scale)
        yield from procedures.figures()
        yield from known_errors(folder, scale)
        if scale is not Scale.NORMAL:
            yield from procedures.longer()


def known_errors(folder: Path, scale: Scale) -> Iterator[Figure]:
    frames = scale.pick(quick=20, normal=50)
    tiers = by(scale)(errors.of_tiers, quarter(scale), folder, frames)
    formats = by(scale)(errors.of_formats, quarter(scale), folder, frames)
    yield from error_figures(tiers, formats)


def error_figures(tiers: Mapping[str, float], formats: Mapping[str, float]) -> Iterator[Figure]:
    for name, error in tiers.items():
        yield figure(f"error-{name}", f"error of {name}, generated weights", "what reference ends in", [error])
    for name, error in formats.items():
        kind, _, one = name.partition("-")
        what = "one evaluation" if one else "a separation at reference"
        yield figure(f"error-{name}", f"error of {what} in {kind}, generated weights", "the same in float32", [error])


def quarter(scale: Scale) -> Size:
    """All layers of base, a quarter of all its widths."""
    return scale.pick(quick=SIZES["tiny"], normal=Size(512, 4, 16, codec=4))


def recording(path: Path, seconds: float, channels: int = 1) -> Path:
    """A FLAC at 48 kHz of noise and a tone, all channels equal."""
    if not path.exists():
        at = np.arange(round(seconds * RATE)) / RATE
        sound = 0.2 * np.sin(2 * np.pi * 220 * at) + np.random.default_rng(0).normal(0, 0.05, at.size)
        soundfile.write(path, np.tile(sound[:, None], channels), RATE, subtype="PCM_16")
    return path


@contextmanager
def at_a_glance(scale: Scale) -> Iterator[None]:
    """Tiny sizes on one thread: several that wait for each other take many times longer on a machine that is busy."""
    # Threads that have nothing to do are to sleep, not to spin: processor time is what counts.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    threads = torch.get_num_threads()
    if scale is Scale.QUICK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def by(scale: Scale) -> Callable[..., Any]:
    """How work is run: by itself; at a glance here, since an interpreter takes longer to start than all the rest."""
    return (lambda work, *given, **options: work(*given, **options)) if scale is Scale.QUICK else apart


def _free_mb() -> float:
    return psutil.virtual_memory().available / 1e6
