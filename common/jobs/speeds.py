"""How fast engines are, measured on the jobs that ended last, and what is known of the jobs before they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import func, select

from common.db.engine import Tx
from common.db.tables import jobs
from common.forecast import Speed

# So many tell how fast an engine is; older ones may have had other cards, models or settings.
LATEST = 200
# So many tell how large results are: whole results are read for it.
LATEST_RESULTS = 50
# An attempt that computed less of its job than this tells little of what all of it takes.
_LEAST_SHARE = 0.5

Lane = tuple[str, str]
"""An engine and a lane."""


LENGTHS = ("audio_seconds", "images")
"""Metrics of a result that tell how much there was to do, the first that is told."""


class Done(NamedTuple):
    """A finished job. length: seconds of audio, or images."""

    request: Mapping[str, Any]
    result: Mapping[str, Any]
    length: float


def measured(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns `length` and `work_seconds` of a job, from what its worker says of it.

    An attempt that went on after blocks of an earlier one is taken to the length of the whole. One that took over the
    result of another job has a length, but tells nothing of the time that computing takes. Of several that a worker
    did at once, each took its share of the time.
    """
    metrics = result.get("metrics") or {}
    length = next((told for name in LENGTHS if (told := _positive(metrics.get(name)))), None)
    seconds = _positive(metrics.get("worker_seconds")) or _positive(metrics.get("seconds"))
    share = 1.0
    for whole, resumed in (("blocks", "blocks_resumed"), ("images", "images_resumed")):
        if total := _positive(metrics.get(whole)):
            share -= (_positive(metrics.get(resumed)) or 0.0) / total
            break
    told = length is not None and seconds is not None and share >= _LEAST_SHARE and not result.get("cached")
    return {"length": length, "work_seconds": seconds / share if told and seconds is not None else None}


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def speeds(tx: Tx, lanes: Iterable[Lane]) -> dict[Lane, Speed]:
    """Of those engines and lanes that have finished jobs. A stretch of an index each: a long history costs nothing."""
    found = {}
    for engine, lane in set(lanes):
        latest = (
            select(jobs.c.length, jobs.c.work_seconds)
            .where(jobs.c.lane == lane, jobs.c.engine == engine, jobs.c.work_seconds.is_not(None))
            .order_by(jobs.c.finished_at.desc())
            .limit(LATEST)
        )
        speed = Speed.measured((row.length, row.work_seconds) for row in tx.execute(latest))
        if speed is not None:
            found[engine, lane] = speed
    return found


def finished(tx: Tx, of: Lane) -> list[Done]:
    """The latest jobs of an engine and lane, with their results."""
    engine, lane = of
    latest = (
        select(jobs.c.request, jobs.c.result, jobs.c.length)
        .where(jobs.c.lane == lane, jobs.c.engine == engine, jobs.c.work_seconds.is_not(None))
        .order_by(jobs.c.finished_at.desc())
        .limit(LATEST_RESULTS)
    )
    return [Done(row.request, row.result, row.length) for row in tx.execute(latest) if row.result is not None]


def heard(tx: Tx, batch_id: str) -> tuple[int, float]:
    """How many jobs of a batch tell its typical length, and their mean: the latest that have ended, seconds."""
    ended = (
        select(jobs.c.length)
        .where(
            jobs.c.batch_id == batch_id,
            jobs.c.batch_id.is_not(None),
            jobs.c.state == "succeeded",
            jobs.c.length.is_not(None),
        )
        .order_by(jobs.c.batch_item.desc())
        .limit(LATEST)
        .subquery()
    )
    row = tx.execute(select(func.count().label("n"), func.avg(ended.c.length).label("mean"))).one()
    return int(row.n), float(row.mean or 0.0)
