"""What is to hold of the week, read from the database's own record of it and from what the cards computed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import select

from bench.nights.house import Rates, Span
from common.db.engine import Tx
from common.db.tables import callbacks, events, jobs
from common.states import TERMINAL, State
from common.windows import Windows

BUSY = 0.95
FORECAST = 0.10


@dataclass(frozen=True)
class Figure:
    """One line of the verdict."""

    name: str
    value: str
    goal: str
    held: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.held else 'FAIL'} {self.name}: {self.value} ({self.goal})"


@dataclass(frozen=True)
class Life:
    """A job as its events tell it. told: each state with its instant."""

    id: str
    batch_id: str | None
    state: str
    created: datetime
    told: tuple[tuple[str, datetime], ...]

    @property
    def starts(self) -> list[datetime]:
        return [at for state, at in self.told if state == State.RUNNING]


def lives(tx: Tx) -> list[Life]:
    told: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
    states = select(events.c.job_id, events.c.at, events.c.data).where(events.c.type == "state")
    for row in tx.execute(states.order_by(events.c.id)):
        told[row.job_id].append((row.data["state"], row.at))
    found = tx.execute(select(jobs.c.id, jobs.c.batch_id, jobs.c.state, jobs.c.created_at))
    return [Life(row.id, row.batch_id, row.state, row.created_at, tuple(told[row.id])) for row in found]


def once(found: Sequence[Life], submitted: int, interactive: int, counted: int) -> Figure:
    """counted: succeeded jobs, as the batch says."""
    wrong = Counter[str]()
    for life in found:
        states = [state for state, _ in life.told]
        if states.count(State.SUCCEEDED) != 1 or states[-1] != State.SUCCEEDED or life.state != State.SUCCEEDED:
            wrong["not finished once"] += 1
        if any(state in TERMINAL for state in states[:-1]):
            wrong["went on after its end"] += 1
        if any(a == b == State.RUNNING for a, b in pairwise(states)):
            wrong["claimed twice at once"] += 1
    there = Counter(life.batch_id is not None for life in found)
    if (there[True], there[False]) != (submitted, interactive):
        wrong[f"{there[True]} and {there[False]} jobs"] += 1
    if counted != submitted:
        wrong[f"the batch counts {counted}"] += 1
    value = f"{sum(life.state == State.SUCCEEDED for life in found):,} jobs" + "".join(
        f", {n} {what}" for what, n in wrong.items()
    )
    return Figure(
        "finished exactly once", value, f"all {submitted:,} episodes and {interactive} interactive", not wrong
    )


def overlaps(spans: Iterable[Span]) -> Figure:
    """No job on two cards at once, and no block kept twice."""
    by_job: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_job[span.job_id].append(span)
    in_order = [sorted(own, key=lambda span: span.began) for own in by_job.values()]
    twice = sum(later.began < earlier.ended for own in in_order for earlier, later in pairwise(own))
    kept = Counter((span.job_id, span.index) for own in by_job.values() for span in own if span.kept)
    again = sum(n - 1 for n in kept.values())
    return Figure("on two cards at once", f"{twice} jobs, {again} blocks kept twice", "none", not twice and not again)


def inside(found: Sequence[Life], spans: Sequence[Span], windows: Windows, rates: Rates) -> Figure:
    """Claims of the batch's jobs outside the window, and the furthest that any of their blocks went beyond it."""
    claims = sum(not windows.is_open(at) for life in found if life.batch_id for at in life.starts)
    beyond = max((_beyond(span.ended, windows) for span in spans if span.in_batch), default=0.0)
    limit = rates.block_seconds / rates.speed + rates.load_seconds
    return Figure(
        "outside the window",
        f"{claims} claims, blocks until {beyond:.1f} s after it closed",
        f"no claim, at most {limit:g} s",
        not claims and beyond <= limit,
    )


def _beyond(at: datetime, windows: Windows) -> float:
    if windows.is_open(at):
        return 0.0
    begin = at - timedelta(days=8)
    closed = [interval.closes for interval in windows.intervals(begin, at)]
    return (at - closed[-1]).total_seconds() if closed else float("inf")


def busy(spans: Sequence[Span], found: Sequence[Life], windows: Windows, cards: int) -> Figure:
    """What was computed to some end, against the cards' time in the window until nothing waited any more."""
    own = [life for life in found if life.batch_id]
    begin = min(life.created for life in own)
    last = max((life.starts[-1] for life in own if life.starts), default=begin)
    computed = 0.0
    nights = list(windows.intervals(begin, last))
    for span in spans:
        if span.kept:
            computed += sum(
                max(0.0, (min(span.ended, night.closes) - max(span.began, night.opens)).total_seconds())
                for night in nights
            )
    room = cards * sum(night.seconds for night in nights)
    share = computed / room if room else 0.0
    value = f"{share:.1%} of {room / 3600:.0f} hours of {cards} cards in {len(nights)} nights"
    return Figure("cards busy", value, f">= {BUSY:.0%} while work was left", share >= BUSY)


def forecast(windows: Windows, made: datetime, likely: datetime | None, range_: str, ended: datetime | None) -> Figure:
    """Off by how much, in open hours from when it was made."""
    goal = f"within {FORECAST:.0%}"
    if likely is None or ended is None:
        return Figure("forecast of night one", "there is none, or no end", goal, False)
    told, truth = windows.open_seconds(made, likely), windows.open_seconds(made, ended)
    off = abs(told - truth) / truth
    value = f"off by {off:.1%}: {told / 3600:.1f} h of the window {range_}, truly {truth / 3600:.1f} h"
    return Figure("forecast of night one", value, goal, off <= FORECAST)


def prompt(found: Sequence[Life], disturbed: set[str], rates: Rates, late: float) -> Figure:
    """How long interactive jobs waited. disturbed: in whose wait a process died; those may wait `late` seconds more."""
    waits: dict[bool, list[float]] = {True: [], False: []}
    for life in found:
        if life.batch_id is None:
            wait = (life.starts[0] - life.created).total_seconds() if life.starts else float("inf")
            waits[life.id in disturbed].append(wait)
    limit = rates.block_seconds / rates.speed + rates.load_seconds
    longest, worst = max(waits[False], default=0.0), max(waits[True], default=0.0)
    return Figure(
        "interactive jobs waited",
        f"at most {longest:.1f} s; {worst:.1f} s where a process died meanwhile ({len(waits[True])} of them)",
        f"{limit:g} s; {limit + late:g} s",
        longest <= limit and worst <= limit + late,
    )


def told(tx: Tx, received: Mapping[str, int], interactive: int, deaths: int) -> Figure:
    """Every message arrived; one whose deliverer died between sending and writing it down arrived twice."""
    rows: list[Any] = tx.execute(select(callbacks.c.id, callbacks.c.event, callbacks.c.state)).all()
    by_event = Counter(row.event for row in rows)
    missing = sum(row.state != "delivered" or not received.get(row.id) for row in rows)
    again = sum(received.values()) - len(received)
    held = not missing and again <= deaths and by_event["batch.finished"] == 1
    held = held and by_event["job.succeeded"] == interactive
    return Figure("callbacks", f"{len(rows)} messages, {missing} not delivered, {again} sent twice", "all, once", held)
