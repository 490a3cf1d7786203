"""The benchmarks with tiny sizes: each gives its figures. How good these are is no test's matter."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import BENCHMARKS, measure, parse
from bench.figures import Figure, Goal, figure, in_turns, table
from bench.place import Missing
from bench.scale import Scale
from tests.servers.availability import unavailable

FIGURES = {
    "submit": {"submit", "submit-waiting"},
    "dispatch": {"dispatch", "dispatch-latency"},
    "busy": {"busy-series", "busy-job", "busy-jobs"},
    "pending": {
        f"pending-{what}-{database}"
        for database in ("postgres", "sqlite")
        for what in ("claim", "release", "list", "list-state", "list-failed", "position", "submit")
    },
    "recovery": {"recovery", "recovery-max"},
    "memory": {"memory", "memory-decoder", "memory-limit"},
    "decoding": {"decode-flac", "decode-mp3", "channels"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_gives_its_figures(name: str) -> None:
    try:
        figures = measure(name, Scale.QUICK)
    except Missing as why:
        unavailable(name, str(why))
    assert {each.name for each in figures} == FIGURES[name]
    for each in figures:
        assert math.isfinite(each.ratio) and each.ratio > 0, each
        assert each.low <= each.ratio <= each.high, each
        assert all(math.isfinite(value) and value >= 0 for value in each.absolute.values()), each


def test_a_figure_is_the_median_of_its_repetitions() -> None:
    made = figure("speed", "ours", "theirs", [0.9, 0.5, 0.7], Goal(">=", 0.7))
    assert (made.ratio, made.low, made.high, made.repetitions, made.met) == (0.7, 0.5, 0.9, 3, True)
    assert figure("cost", "ours", "theirs", [1.6], Goal("<=", 1.5)).met is False
    assert figure("known", "ours", "theirs", [1.6]).met is None
    assert [row[4] for row in table([made, figure("cost", "ours", "theirs", [1.6], Goal("<=", 1.5))])] == ["yes", "NO"]


def test_both_sides_are_measured_in_turns() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    assert in_turns(lambda: side("a"), lambda: side("b"), 3) == [(1, 2), (4, 3), (5, 6)]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_what_is_recorded_stays_until_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    under = report.conditions()

    def recorded(name: str, ratio: float) -> Figure:
        return figure(name, "ours", "theirs", [ratio], Goal("<=", 1.0))

    report.record("memory", [recorded("memory", 0.5), recorded("memory-3h", 0.6)], under)
    report.record("memory", [recorded("memory", 1.25)], under)
    kept = json.loads((tmp_path / "results.json").read_text())["memory"]
    assert {name: each["ratio"] for name, each in kept.items()} == {"memory": 1.25, "memory-3h": 0.6}
    page = (tmp_path / "README.md").read_text()
    assert "| memory | 1.25 | 1.25 – 1.25 (1) | ≤ 1 | **no** | ours, against theirs |" in page
    assert "| memory-3h | 0.6 |" in page


def test_a_quick_run_is_never_recorded() -> None:
    with pytest.raises(SystemExit):
        parse(["--quick", "--record"])
    with pytest.raises(SystemExit):
        parse(["nonsense"])
    assert parse(["memory", "--full", "--record"]).names == ["memory"]
