"""The figures of `sam-audio-prompts`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bench import place
from bench.figures import Figure, Goal, figure
from bench.sam_audio import sides
from bench.sam_audio.cpu import ONCE, at_a_glance, by, quarter, recording
from bench.sam_audio.sides import PROMPT
from bench.scale import Scale
from worker.separation.sam_audio.sampler import REFERENCE, TIERS, Schedule

ENCODE, EVALUATE, DECODE = 0.049, 1.59 / 32, 0.22
"""Arithmetic of the published base, TFLOP per second of sound; one evaluation's, and the decoding of two stems."""

AT_MOST = Goal("<=", 1.9)


def run(scale: Scale) -> Iterator[Figure]:
    with place.folder() as folder, at_a_glance(scale):
        if scale is Scale.QUICK:
            yield from prompts(folder, scale, "0.5s", 0.5, ONCE)
        else:
            yield from prompts(folder, scale, "4s", 4.0, REFERENCE, AT_MOST)
            yield from prompts(folder, scale, "10s", 10.0, REFERENCE, AT_MOST)
            yield from prompts(folder, scale, "30s-draft", 30.0, TIERS["draft"], AT_MOST)
            yield from prompts(folder, scale, "30s", 30.0, REFERENCE, AT_MOST)
            if sides.shipped() is not torch.float32:
                yield from prompts(folder, scale, "30s-float32", 30.0, REFERENCE, dtype=torch.float32)
        yield channels(folder, scale)


def prompts(
    folder: Path,
    scale: Scale,
    name: str,
    seconds: float,
    schedule: Schedule,
    goal: Goal | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Figure]:
    """What two prompts have in common is computed once. dtype: of the layers; None: as it is shipped."""
    one = recording(folder / f"{seconds:g}s.flac", seconds)
    single, double = [PROMPT], [PROMPT, "a dog barks"]
    # What is compared has its measure on both sides of it in time.
    asked = [single, double, single, double, single]
    times = by(scale)(sides.times, [one] * len(asked), asked, folder, quarter(scale), schedule, dtype)
    ratios = [two / beside for at, two in list(enumerate(times))[1::2] for beside in (times[at - 1], times[at + 1])]
    evaluations = schedule.evaluations
    again = EVALUATE * evaluations + DECODE
    computed = str(dtype or sides.shipped()).rpartition(".")[2]
    yield figure(
        f"two-prompts-{name}",
        f"time of a separation by two prompts, {seconds:g} s, {evaluations} evaluations in {computed}",
        "by one", ratios, goal,
        {"one_s": sum(times[::2]) / 3, "two_s": sum(times[1::2]) / 2,
         "by_the_arithmetic_of_base": (ENCODE + 2 * again) / (ENCODE + again)},
    )  # fmt: skip


def channels(folder: Path, scale: Scale) -> Figure:
    """What two equal channels have in common is everything."""
    seconds, schedule = scale.pick(quick=(0.5, ONCE), normal=(4.0, REFERENCE))
    one = recording(folder / "one.flac", seconds)
    equal = recording(folder / "equal.flac", seconds, channels=2)
    files = [one, equal, one]
    first, both, second = by(scale)(sides.times, files, [[PROMPT]] * 3, folder, quarter(scale), schedule)
    return figure(
        "equal-channels", "time of a separation of two equal channels", "of one channel",
        [both / first, both / second], Goal("<=", 1.1), {"one_s": (first + second) / 2, "both_s": both},
    )  # fmt: skip
