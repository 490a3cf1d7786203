"""What decides a result, and what a result tells that was taken from another job."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.engines import NAMES_INPUTS, REGISTRY, REPEATABLE, Kind
from common.jobs.job import Job
from worker.cache import fingerprint, taken
from worker.engine import Source


def _source(filename: str) -> Source:
    return Source(Path("input-0"), filename, 10, "0" * 64)


def test_which_engines_give_the_same_again() -> None:
    assert {name for name, spec in REGISTRY.items() if not spec.repeatable} == {"llm", "llm-local", "excerpt"}
    assert NAMES_INPUTS <= REPEATABLE < set(Kind)


@pytest.mark.parametrize("engine", ["llm", "llm-local", "excerpt"])
def test_results_of_these_are_of_their_own_job(engine: str) -> None:
    assert fingerprint(REGISTRY[engine], "blocks", [_source("a.wav")]) is None


def test_an_engine_of_the_operator_s_own_may_say_that_it_draws_lots() -> None:
    assert fingerprint(REGISTRY["rnnoise"], "blocks", [_source("a.wav")]) is not None
    assert fingerprint(replace(REGISTRY["rnnoise"], deterministic=False), "blocks", [_source("a.wav")]) is None


def test_what_decides_the_blocks_decides_the_result() -> None:
    spec = REGISTRY["rnnoise"]
    assert fingerprint(spec, "one", [_source("a.wav")]) == fingerprint(spec, "one", [_source("b.mp3")])
    assert fingerprint(spec, "one", [_source("a.wav")]) != fingerprint(spec, "other", [_source("a.wav")])


def test_masks_tell_the_names_of_their_images() -> None:
    spec = REGISTRY["grabcut"]
    one, other = ([_source("a.png"), _source(name)] for name in ("b.png", "c.png"))
    assert fingerprint(spec, "one", one) == fingerprint(spec, "one", list(one))
    assert fingerprint(spec, "one", one) != fingerprint(spec, "one", other)


def _job(job_id: str, result: dict[str, Any], hour: int) -> Job:
    return cast(
        Job, SimpleNamespace(id=job_id, result=result, finished_at=datetime(2026, 6, 1, hour, tzinfo=UTC))
    )  # fmt: skip


def test_what_was_taken_tells_who_computed_it_and_no_time_that_nobody_spent() -> None:
    warning = {"code": "shortfall", "message": "It ended early."}
    metrics = {"audio_seconds": 60.0, "compute_seconds": 9.0, "seconds": 12.0, "times_real_time": 5.0}
    first = taken(_job("job_1", {"outputs": [], "warnings": [warning], "metrics": metrics, "cached": None}, 1), [])
    assert dict(first.metrics) == {"audio_seconds": 60.0, "cached": True}
    assert list(first.warnings) == [warning]
    assert dict(first.cached) == {"job": "job_1", "finished_at": "2026-06-01T01:00:00+00:00"}
    result = {"outputs": [], "warnings": [], "metrics": dict(first.metrics), "cached": dict(first.cached)}
    second = taken(_job("job_2", result, 2), [])
    assert (second.cached, second.metrics) == (first.cached, first.metrics)
