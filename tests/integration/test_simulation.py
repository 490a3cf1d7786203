"""The simulated week: it holds on both databases, and says so when a rule of the queue is broken."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, true

from bench.nights import __main__ as command
from bench.nights.verdict import Figure
from bench.nights.week import Plan, Week, played
from common.db.engine import Tx
from common.db.tables import jobs
from common.jobs import gate, running, sweep

# Two nights' work. In the first of them the clock is put back.
SMALL = Plan(
    episodes=130, cards=2, speed=3.5, start="2026-10-24T17:00:00+00:00", interactive_per_hour=1.0, kills_per_hour=1.0
)  # fmt: skip
# Enough to break a rule in.
TINY = Plan(episodes=16, cards=2, speed=1.0, interactive_per_hour=4.0, kills_per_hour=0.0, days=1)


def _failed(figures: list[Figure]) -> set[str]:
    return {figure.name for figure in figures if not figure.held}


@pytest.mark.slow
def test_a_small_archive_is_done_in_its_nights(database_url: str) -> None:
    week, figures = played(SMALL, database_url)
    # Of so few jobs no forecast is as good as it is to be of thousands.
    assert _failed(figures) <= {"forecast of night one"}, [str(figure) for figure in figures]
    assert week.finished is not None
    assert week.made is not None
    assert week.told is not None
    assert week.told.forecast.likely is not None
    told, truth = (week.windows.open_seconds(week.made, at) for at in (week.told.forecast.likely, week.finished))
    assert told == pytest.approx(truth, rel=0.3)
    first = next(week.windows.intervals(week.start, week.start + timedelta(days=3)))
    assert first.seconds == 9 * 3600, "the night in which the clock is put back"
    assert week.finished > first.closes, "it takes a second night"
    assert sum(process.deaths for process in week.processes) >= 5
    yields = sum((card.yields for card in week.cards), Counter[str]())
    assert yields["window_closed"] >= 1
    assert yields["preempted"] >= 1


def test_a_gate_that_is_ignored_is_reported(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "is_open", lambda tx: true())
    monkeypatch.setattr(gate, "may_run", lambda tx: true())
    _, figures = played(TINY, sqlite_url)
    assert "outside the window" in _failed(figures)


def test_jobs_that_do_not_yield_at_the_windows_end_are_reported(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = running.orders

    def deaf(*args: Any, **kw: Any) -> Any:
        told = orders(*args, **kw)
        return told if told.yield_for != "window_closed" else running.Orders(held=told.held)

    monkeypatch.setattr(running, "orders", deaf)
    # More than a night's work, of which several cards have jobs of many blocks in hand when it ends.
    _, figures = played(Plan(episodes=100, cards=6, speed=1.0, kills_per_hour=0.0, days=1), sqlite_url)
    assert "outside the window" in _failed(figures)


def test_interactive_jobs_that_must_wait_are_reported(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_outranked", lambda *args: False)
    _, figures = played(TINY, sqlite_url)
    assert _failed(figures) >= {"interactive jobs waited"}


def test_a_lease_that_is_taken_while_its_worker_lives_is_reported(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rescue by a clock that is a day ahead: jobs are taken from cards that compute them, until they are poison."""
    expired, rescue = sweep.expired_leases, sweep.rescue

    class Later:
        def __init__(self, tx: Tx) -> None:
            self._tx = tx

        def now(self, plus: float = 0.0) -> Any:
            return self._tx.now(plus + 86400.0)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tx, name)

    monkeypatch.setattr(sweep, "expired_leases", lambda tx: expired(Later(tx)))  # type: ignore[arg-type]
    monkeypatch.setattr(sweep, "rescue", lambda tx, job_id, **kw: rescue(Later(tx), job_id, **kw))  # type: ignore[arg-type]
    _, figures = played(TINY, sqlite_url)
    assert "finished exactly once" in _failed(figures)


def test_its_last_lines_are_the_verdict(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = [Figure("one", "1", "1", True), Figure("two", "3", "2", False)]
    monkeypatch.setattr(Week, "run", lambda self: None)
    monkeypatch.setattr(Week, "figures", lambda self: figures)
    assert command.main(["--url", sqlite_url, "--episodes", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == ["ok   one: 1 (1)", "FAIL two: 3 (2)", "1 of 2 did not hold"]
    figures.pop()
    assert command.main(["--url", sqlite_url, "--episodes", "1"]) == 0


def test_at_whatever_moment_a_submission_dies_it_is_made_once(sqlite_url: str, tmp_path: Path) -> None:
    deaths = []
    for moment in range(30):
        week = Week(Plan(cards=1), sqlite_url, tmp_path)
        week.front.kill(moment)
        week.front.ask("clip", 60.0)
        week.world.run(lambda: False, week.start + timedelta(hours=1))
        with week.world.database.read() as tx:
            made = tx.execute(select(jobs.c.id).where(jobs.c.key_id == week.newsroom)).scalars().all()
        week.close()
        assert list(week.front.answered.values()) == made
        assert len(made) == 1
        deaths.append(week.front.deaths)
    survived = deaths.index(0)
    assert deaths == [1] * survived + [0] * (30 - survived)
    assert survived > 5, "before each statement, before the commit and after it"
