"""How much of the time the card computes: with the stages of a job one after the other, overlapped, and across jobs.

A real runner takes real stereo files through fetch, decode, compute, encode and store; the engine sleeps for as long as
a card would compute. What counts is the share of the wall time in which it does:
- in series: the same code with its threads taken away, so that each stage waits for the one before;
- overlapped: from the claim of a job to its end;
- across jobs: from the first block of one job to the first block of the next, so that what comes before the first block
  and after the last of a job counts in full, and nothing counts twice;
- of short jobs, from the claim of the first to the end of the last: one after another, and four at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

from bench import place
from bench.engines import TIMES_REAL_TIME, Card, SharedCard, Span
from bench.figures import Figure, Goal, figure
from bench.scale import Scale
from common.states import State
from tests.engines import ALL
from tests.house import House
from worker.compose import open_runner
from worker.runner import Runner

GOAL = Goal(">=", 0.95)
TOGETHER = 4


@dataclass(frozen=True)
class Ran:
    """One job: from before its claim to after its end, and what was computed between."""

    began: float
    ended: float
    spans: list[Span]

    @property
    def share(self) -> float:
        return sum(span.ended - span.began for span in self.spans) / (self.ended - self.began)

    @property
    def before(self) -> float:
        """Seconds from the claim to the first block."""
        return self.spans[0].began - self.began

    @property
    def after(self) -> float:
        """Seconds from the last block to the end."""
        return self.ended - self.spans[-1].ended


def run(scale: Scale) -> Iterator[Figure]:
    seconds, count = scale.pick(quick=(3.0, 2), normal=(600.0, 4))
    with (
        place.sqlite() as url,
        place.house(url, extra_engines=f"{ALL},bench.engines:CARD,bench.engines:SHARED", log_level="WARNING") as house,
    ):
        source = place.recording(house.settings.home / "episode.flac", seconds)
        upload = house.upload(source)
        runner = open_runner(house.settings)
        runner.start()
        try:
            _jobs(house, runner, upload, 1)  # imports and connections
            with in_series():
                series = _jobs(house, runner, upload, max(1, count // 2))
            overlapped = _jobs(house, runner, upload, count)
        finally:
            runner.close()
        short = place.recording(house.settings.home / "short.flac", scale.pick(quick=1.0, normal=30.0))
        shares = _short(house, house.upload(short), scale.pick(quick=2, normal=8), scale.pick(quick=1, normal=3))
    length = f"{seconds / 60:.3g} min of stereo at {TIMES_REAL_TIME:g} times real time"
    yield figure(
        "busy-series", f"time that the engine computes, stages in series, {length}", "wall time of the job",
        [job.share for job in series],
    )  # fmt: skip
    yield figure(
        "busy-job", f"time that the engine computes, stages overlapped, {length}", "wall time of the job",
        [job.share for job in overlapped], GOAL,
        {"before_first_block_s": statistics.median(job.before for job in overlapped),
         "after_last_block_s": statistics.median(job.after for job in overlapped),
         "minutes_of_sound_from_which_the_goal_is_met": _enough(overlapped)},
    )  # fmt: skip
    yield figure(
        "busy-jobs", f"time that the engine computes, {count} jobs back to back, {length}",
        "wall time from job to job", _across(overlapped), GOAL,
    )  # fmt: skip
    ways = {"alone": "one after another", "together": f"{TOGETHER} at once"}
    for way, words in ways.items():
        yield figure(
            f"busy-short-{way}", f"time that the engine computes, jobs of 30 s, {words}", "wall time of all",
            shares[way],
        )  # fmt: skip


def _short(house: House, upload: str, count: int, repetitions: int) -> dict[str, list[float]]:
    """Shares of the time that the card computes, of short jobs one after another and at once, in turns."""
    shares: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(repetitions):
        for way, together in (("alone", 1), ("together", TOGETHER)):
            runner = open_runner(house.settings.model_copy(update={"jobs_together": together}))
            runner.start()
            try:
                _all(house, runner, upload, 1)  # loads the engine
                began, before = time.monotonic(), SharedCard.seconds
                _all(house, runner, upload, count)
                shares[way].append((SharedCard.seconds - before) / (time.monotonic() - began))
            finally:
                runner.close()
    return shares


def _all(house: House, runner: Runner, upload: str, count: int) -> None:
    ids = [house.submit("bench-shared-card", input={"upload": upload}, cache=False).id for _ in range(count)]
    while runner.run():
        pass
    _succeeded(house, ids)


def _succeeded(house: House, ids: list[str]) -> None:
    for job_id in ids:
        job = house.job(job_id)
        if job.state is not State.SUCCEEDED:
            raise RuntimeError(f"the job is {job.state}: {job.error}")


def _across(ran: list[Ran]) -> list[float]:
    shares = []
    for job, following in pairwise(ran):
        window = following.spans[0].began - job.spans[0].began
        shares.append(sum(span.ended - span.began for span in job.spans) / window)
    return shares


def _enough(ran: list[Ran]) -> float:
    """From which length of a recording on the goal is met: what is lost at a job's edges does not grow with it."""
    lost = statistics.median(job.before + job.after for job in ran)
    return lost * GOAL.value / (1 - GOAL.value) * TIMES_REAL_TIME / 60


def _jobs(house: House, runner: Runner, upload: str, count: int) -> list[Ran]:
    """Runs jobs back to back: all are in the queue before the first begins."""
    ids = [house.submit("bench-card", input={"upload": upload}, cache=False).id for _ in range(count)]
    edges = [time.monotonic()]
    Card.spans.clear()
    for _ in ids:
        if not runner.run():
            raise RuntimeError("there was no job to claim")
        edges.append(time.monotonic())
    _succeeded(house, ids)
    return _split(edges, list(Card.spans))


def _split(edges: list[float], spans: list[Span]) -> list[Ran]:
    firsts = [n for n, span in enumerate(spans) if span.start == 0] + [len(spans)]
    return [
        Ran(edges[n], edges[n + 1], spans[firsts[n] : firsts[n + 1]])
        for n in range(len(firsts) - 1)
    ]  # fmt: skip


@contextmanager
def in_series() -> Iterator[None]:
    """Takes the threads away that let the stages of a job overlap; what they do is done where it is asked for."""
    with (
        mock.patch("worker.separation.pipeline.ahead", _at_once),
        mock.patch("worker.separation.finishing.ThreadPoolExecutor", _NoThreads),
        mock.patch("worker.attempt.Behind", _NotBehind),
    ):
        yield


def _at_once(items: Iterable[Any], depth: int) -> Iterator[Any]:
    yield from items


class _NoThreads:
    """As much of ThreadPoolExecutor as the pipeline uses, on the caller's own thread."""

    def __init__(self, *_: object) -> None: ...

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, **_: object) -> None: ...


class _NotBehind:
    """As much of `overlap.Behind` as the runner uses, on the caller's own thread."""

    def __init__(self, depth: int = 1) -> None: ...

    def __enter__(self) -> _NotBehind:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, call: Callable[..., object], *args: Any) -> None:
        call(*args)

    def close(self) -> None: ...
