"""What 100,000 items in one manifest cost against 1,000, from taking them in to cancelling them, on both databases.

A process of its own takes a few items in and then the many; what counts is the peak of its resident memory so far, as
the kernel keeps it. `manifest-names` are items whose titles meet in pairs, so that the naming has to tell all of them
apart. Pages are what the API lists. A batch is cancelled while nothing of it runs, as the API cancels it, log and
counts and all; what stands against that is one UPDATE that does no more than set the state of the same rows.
`manifest-output` reads `output.jsonl` from the API, again in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, literal, update

from bench import place
from bench.figures import Figure, Goal, figure
from bench.scale import Scale
from common.batches import control
from common.batches.intake import Intake
from common.db.engine import Database
from common.db.tables import batches as batch_rows
from common.db.tables import events, jobs
from common.jobs import batch_query, steering
from common.jobs.batch import BatchState
from common.params.batch import BatchWork
from common.states import Reason, State
from tests.house import House

WARM = 100
FLAT = Goal("<=", 1.5)
CONSTANT = Goal("<=", 1.1)
CANCEL = Goal("<=", 5.0)
CANCEL_SECONDS = 10.0
PAGE = 50
BY_TITLE = "{title}.{stem}.{ext}"
RESULT = {
    "outputs": [
        {
            "name": name, "role": "stem", "content_type": "audio/flac", "filename": f"{name}.flac", "bytes": 1_000_000,
            "key": f"jobs/somewhere/1/{name}.flac", "samples": 44_100, "sample_rate": 44_100, "channels": 2,
        }
        for name in ("speech", "residual")
    ]
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What a process did with a batch. seconds: of it alone.  peak_mb: of the process so far."""

    batch_id: str
    lines: int
    seconds: float
    peak_mb: float


def run(scale: Scale) -> Iterator[Figure]:
    small, count = scale.pick(quick=(100, 200), normal=(1_000, 100_000))
    for backend in (place.sqlite, place.postgres):
        name = backend.__name__
        with backend() as url, place.house(url, max_waiting_per_key=10 * count) as house:
            few, many, again = take_in(house, (small, count, small))
            yield figure(
                f"manifest-intake-{name}", f"taking an item in, of {count:,}", f"of {small:,}",
                [(many.seconds / count) / (one.seconds / small) for one in (few, again)], FLAT,
                {"seconds": many.seconds, "items_per_second": count / many.seconds},
            )  # fmt: skip
            yield _memory(f"manifest-memory-{name}", f"taking {count:,} items in", f"{small:,}, the same", many, few)
            if backend is place.sqlite:
                fewer, named = take_in(house, (small, count), BY_TITLE)
                what = f"taking {count:,} items in, all names to be told apart"
                yield _memory("manifest-names", what, f"{small:,}, the same", named, fewer)
            yield _pages(name, house, many.batch_id, count, scale)
            yield from _cancel(name, house, many.batch_id, count, scale)
            if backend is place.sqlite:
                yield _output(house, (few.batch_id, many.batch_id), (small, count))


def take_in(house: House, counts: Sequence[int], naming: str | None = None) -> list[Work]:
    """Batches of so many items, taken in one after the other by one process."""
    work = BatchWork.model_validate({"engine": "rnnoise", "params": {"prompts": ["speech"]}, "naming": naming})
    intake = Intake(house.settings, house.database, house.store)
    path = house.settings.home / "manifest.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = []
    for count in (WARM, *counts):
        with path.open("w") as file:
            file.writelines(json.dumps(_item(n)) + "\n" for n in range(count))
        with path.open("rb") as body:
            made.append(intake.make(house.key.id, work, body=body)[0].id)
    # What is compiled and connected once is no part of any item.
    return _process(house, "intake", made)[1:]


def _process(house: House, work: str, batch_ids: Sequence[str], *before: str) -> list[Work]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.manifest_process", work, *before, *batch_ids],
        env={**house.environment, "NIGHTSHIFT_EXTRA_ENGINES": ""},
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    return [Work(batch_id, **of) for batch_id, of in zip(batch_ids, told, strict=True)]


def _item(n: int) -> dict[str, Any]:
    return {
        "input": f"https://media.example/archive/{n}.mp3", "title": f"Episode {n // 2}", "show": "The show",
        "date": "2026-01-02", "metadata": {"season": "3"},
    }  # fmt: skip


def _memory(name: str, what: str, baseline: str, many: Work, few: Work) -> Figure:
    return figure(
        name, f"peak memory of {what}", baseline, [many.peak_mb / few.peak_mb], CONSTANT,
        {"mb": many.peak_mb, "baseline_mb": few.peak_mb},
    )  # fmt: skip


def _pages(name: str, house: House, batch_id: str, count: int, scale: Scale) -> Figure:
    calls, rounds = scale.pick(quick=(3, 2), normal=(60, 5))

    def seconds(after: int) -> float:
        with house.database.read() as tx:
            began = time.perf_counter()
            batch_query.items(tx, batch_id, after=after, limit=PAGE)
            return time.perf_counter() - began

    ratios, first, last = [], 0.0, 0.0
    for _ in range(rounds):
        pairs = [(seconds(0), seconds(count - PAGE)) for _ in range(calls)]
        first, last = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios.append(last / first)
    return figure(
        f"manifest-page-{name}", f"the last {PAGE} of {count:,} items", f"the first {PAGE}", ratios, FLAT,
        {"last_ms": last * 1000, "first_ms": first * 1000},
    )  # fmt: skip


def _cancel(name: str, house: House, batch_id: str, count: int, scale: Scale) -> Iterator[Figure]:
    rounds = scale.pick(quick=1, normal=3)
    database = house.database
    ours, bare = [], []
    for turn in range(2 * rounds):
        # A B, B A, …
        if (turn + turn // 2) % 2:
            bare.append(_bare(database, batch_id))
        else:
            began = time.perf_counter()
            with database.write() as tx:
                steering.cancel(tx, batch_id)
            if control.cancel_all(database, batch_id) != count:
                raise RuntimeError("not all jobs were cancelled")
            ours.append(time.perf_counter() - began)
        if turn < 2 * rounds - 1:
            _restore(house, batch_id)
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    absolute = {"seconds": statistics.median(ours), "baseline_seconds": statistics.median(bare)}
    what = f"cancelling a batch of {count:,} waiting jobs"
    yield figure(f"manifest-cancel-{name}", what, "one bare UPDATE of their rows", ratios, CANCEL, absolute)
    yield figure(
        f"manifest-cancel-limit-{name}", what, f"{CANCEL_SECONDS:g} s", [took / CANCEL_SECONDS for took in ours],
        Goal("<=", 1.0),
    )  # fmt: skip


def _bare(database: Database, batch_id: str) -> float:
    began = time.perf_counter()
    with database.write() as tx:
        tx.execute(
            update(jobs)
            .where(jobs.c.batch_id == batch_id)
            .values(state=State.CANCELLED, reason=Reason.BY_CALLER, finished_at=tx.now(), updated_at=tx.now())
        )
    return time.perf_counter() - began


def _restore(house: House, batch_id: str) -> None:
    """As the jobs were taken in, with the table as autovacuum leaves it in time."""
    with house.database.write() as tx:
        tx.execute(
            update(jobs)
            .where(jobs.c.batch_id == batch_id)
            .values(state=State.WAITING, reason=Reason.SUBMITTED, finished_at=None)
        )
        tx.execute(
            update(batch_rows)
            .where(batch_rows.c.id == batch_id)
            .values(state=BatchState.PAUSED, cancelled=0, finished_at=None)
        )
        tx.execute(delete(events))
    if house.database.url.startswith("sqlite"):
        with house.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        place.run_statement(house.database.url, "VACUUM (ANALYZE) jobs")
        place.run_statement(house.database.url, "VACUUM (ANALYZE) events")


def _output(house: House, batch_ids: Sequence[str], counts: Sequence[int]) -> Figure:
    """What streaming `output.jsonl` takes, once all items have succeeded."""
    with house.database.write() as tx:
        tx.execute(
            update(jobs)
            .where(jobs.c.batch_id.in_(batch_ids))
            .values(
                state=State.SUCCEEDED, attempt=1, result_attempt=1, result=literal(RESULT, jobs.c.result.type),
                finished_at=tx.now(),
            )
        )  # fmt: skip
    few, many = _process(house, "output", batch_ids, house.token)
    if (few.lines, many.lines) != tuple(counts):
        raise RuntimeError(f"{few.lines} and {many.lines} lines in the place of {counts}")
    return figure(
        "manifest-output", f"peak memory of an API that sends output.jsonl of {counts[1]:,} items",
        f"{counts[0]:,}, the same", [many.peak_mb / few.peak_mb], CONSTANT,
        {"mb": many.peak_mb, "baseline_mb": few.peak_mb, "seconds": many.seconds},
    )  # fmt: skip
