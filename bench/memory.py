"""The worker's memory for a long file against a short one: it must not depend on the length.

A real worker process of its own separates each file with RNNoise. What counts is the peak of the resident memory since
the process began, as the kernel keeps it, of the worker and of the child that decodes for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from bench import place
from bench.figures import Figure, Goal, figure
from bench.peak import peak_mb
from bench.scale import Scale
from common.states import State
from tests.house import House

LIMIT_MB = 600.0


@dataclass
class Peak:
    """Resident memory at its highest, in MB. took: seconds of the job."""

    worker: float = 0.0
    decoder: float = 0.0
    took: float = 0.0


def run(scale: Scale) -> Iterator[Figure]:
    short, long = scale.pick(quick=(4.0, 12.0), normal=(600.0, 3600.0), full=(600.0, 10800.0))
    small, large = separate(short), separate(long)
    name = "memory" if long < 10800 else "memory-3h"
    lengths = f"{long / 60:.3g} min of stereo", f"{short / 60:.3g} min, the same"
    absolute = {
        "worker_short_mb": small.worker,
        "worker_long_mb": large.worker,
        "decoder_short_mb": small.decoder,
        "decoder_long_mb": large.decoder,
        "times_real_time_long": long / large.took,
    }
    yield figure(
        name, f"peak memory of a worker separating {lengths[0]}", lengths[1], [large.worker / small.worker],
        Goal("<=", 1.1), absolute,
    )  # fmt: skip
    yield figure(
        f"{name}-decoder", f"peak memory of its decoder for {lengths[0]}", lengths[1], [large.decoder / small.decoder],
        Goal("<=", 1.1),
    )  # fmt: skip
    yield figure(
        f"{name}-limit", f"peak memory of a worker separating {lengths[0]}", f"{LIMIT_MB:g} MB",
        [large.worker / LIMIT_MB], Goal("<=", 1.0),
    )  # fmt: skip


def separate(seconds: float) -> Peak:
    """Separates a file of that length in a fresh worker."""
    with place.sqlite() as url, place.house(url, retention_days=1) as house:
        source = place.recording(house.settings.home / "episode.flac", seconds)
        job = house.submit("rnnoise", input={"upload": house.upload(source)})
        source.unlink()
        worker = house.process("worker.poll")
        with house.running(worker):
            return _watch(house, worker.pid, job.id)


def _watch(house: House, pid: int, job_id: str) -> Peak:
    peak, worker = Peak(), psutil.Process(pid)
    while not (job := house.job(job_id)).terminal:
        # Twice a second the peaks so far; what a child reaches between the last look and its end is missed.
        for _ in range(4):
            peak.worker = max(peak.worker, peak_mb(worker))
            for child in worker.children():
                if _decodes(child):
                    peak.decoder = max(peak.decoder, peak_mb(child))
            time.sleep(0.1)
    if job.state is not State.SUCCEEDED:
        raise RuntimeError(f"the job is {job.state}: {job.error}")
    peak.worker = max(peak.worker, peak_mb(worker))
    assert job.finished_at and job.started_at
    peak.took = (job.finished_at - job.started_at).total_seconds()
    return peak


def _decodes(process: psutil.Process) -> bool:
    # Between its fork and its exec a child is still a copy of the worker.
    try:
        return "worker.media.sandbox" in process.cmdline()
    except psutil.Error:
        return False
