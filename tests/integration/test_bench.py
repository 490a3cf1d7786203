"""The benchmarks with tiny sizes: each gives its figures. How good these are is no test's matter."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import memory, report
from bench.__main__ import BENCHMARKS, ONLY_WHEN_NAMED, main, measure, parse
from bench.apart import apart
from bench.figures import Figure, Goal, figure, in_turns, table
from bench.place import Missing
from bench.scale import Scale
from tests.servers.availability import unavailable

ERRORS = {
    f"error-{of}"
    for of in ("standard", "draft", "euler-16", "bf16", "bf16-evaluation", "fp16", "fp16-evaluation")
}  # fmt: skip
LEVERS = ("bf16", "heads", "once", "windows", "batches", "cudnn", "compile", "standard", "draft")

FIGURES = {
    "submit": {"submit", "submit-waiting"},
    "dispatch": {"dispatch", "dispatch-latency"},
    "busy": {"busy-series", "busy-job", "busy-jobs", "busy-short-alone", "busy-short-together"},
    "pending": {
        f"pending-{what}-{database}"
        for database in ("postgres", "sqlite")
        for what in ("claim", "release", "list", "list-state", "list-failed", "position", "submit")
    },
    "manifest": {
        "manifest-names", "manifest-output",
        *(
            f"manifest-{what}-{database}"
            for database in ("postgres", "sqlite")
            for what in ("intake", "memory", "page", "cancel", "cancel-limit")
        ),
    },
    "recovery": {"recovery", "recovery-max"},
    "memory": {"memory", "memory-decoder", "memory-limit"},
    "decoding": {"decode-flac", "decode-mp3", "channels"},
    "segmentation": {"segmentation-memory", "segmentation-once", "segmentation-kept", "segmentation-batch"},
    "speech": {"speech-chapter", "speech-loop", "speech-rows-2", "speech-rows-4"},
    "speech-gpu": {"speech-loop", *(f"speech-rows-{rows}" for rows in (2, 4, 8, 16, 32))},
    "sam-audio": {
        "speed-0.5s", "memory-0.5s", "speed-1s", "memory-1s", "plain-needs-2s", "memory-flat", "memory-flat-narrow",
        "sampler-2s", "sampler-memory-2s", "sampler-float32-2s", *ERRORS,
    },
    "sam-audio-prompts": {"two-prompts-0.5s", "equal-channels"},
    "sam-audio-codec": {"codec-encode", "codec-decode", "codec-encode-memory", "codec-decode-memory"},
    "sam-audio-gpu": {
        *(f"levers-{lever}" for lever in LEVERS), "against-bf16", "times-real-time", "batch-1", "batch-2",
        "memory-batch-1", "memory-batch-64", "engine-times-real-time", "two-prompts-0.5s", "equal-channels-0.5s",
        "company-of-2", *ERRORS,
    },
}  # fmt: skip

# What shows, without its machine, that a benchmark works.
WHERE = {name: {"device": "cpu", "size": "tiny"} for name in ONLY_WHEN_NAMED}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_gives_its_figures(name: str) -> None:
    try:
        figures = list(measure(name, Scale.QUICK, **WHERE.get(name, {})))
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


def test_what_needs_a_card_runs_only_when_named_and_is_recorded_from_a_card_only() -> None:
    assert set(parse([]).names) == set(BENCHMARKS) - ONLY_WHEN_NAMED
    assert parse(["sam-audio-gpu"]).device == "cuda"
    for pretending in (["--device", "cpu"], ["--size", "tiny"]):
        with pytest.raises(SystemExit):
            parse(["sam-audio-gpu", "--record", *pretending])


def test_without_a_card_nothing_is_measured_and_the_status_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert main(["sam-audio-gpu"]) == 1
    said = capsys.readouterr().out
    assert "cannot be measured here: torch sees no card" in said and "figure" not in said


def test_what_was_measured_before_a_failure_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")

    def failing(scale: Scale) -> Iterator[Figure]:
        yield figure("memory", "ours", "theirs", [0.5])
        raise RuntimeError("the machine went away")

    monkeypatch.setattr(memory, "run", failing)
    with pytest.raises(RuntimeError, match="went away"):
        main(["memory", "--record"])
    assert json.loads((tmp_path / "results.json").read_text())["memory"]["memory"]["ratio"] == 0.5


def test_work_apart_has_a_process_of_its_own() -> None:
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        apart(divmod, 1, 0)
