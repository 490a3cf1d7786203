"""Writes results down: `results.json` for programs, `README.md` for people. Each benchmark's latest run is kept."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pynvml

from bench.figures import Figure
from worker import cards

RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).with_name("README.md")

INTRODUCTION = """\
# What the service costs and holds

`make bench` measures everything on this page and writes it down here and in `results.json`; `python -m bench NAME …`
measures some of it (`--record` to keep it), `--full` takes longer sound for `memory` and `sam-audio`, and `--quick`
only shows that everything works. `sam-audio-gpu` needs a card and is measured only when it is named. PostgreSQL's
server programs and `redis-server` must be installed; the servers are the benchmark's own. `sam-audio` and what begins
with it need `.[models]`.

Times say more about the machine than about the service, so every figure is a ratio: one thing against its baseline,
both measured in the same run, in turns (A B, B A, …). It is the median of the repetitions' ratios; the spread is the
least and the largest of them, with their number. `results.json` has the times behind them, for orientation.
"""


def conditions(note: str = "") -> dict[str, Any]:
    """The machine in words and how busy it is before the benchmark; nothing that names it. note: what else to know."""
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[1]
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}" + "".join(f", {card.name}" for card in cards.find(pynvml).cards),
        "load_before": round(load, 1),
        "note": note,
    }


def record(name: str, figures: Sequence[Figure], under: Mapping[str, Any]) -> None:
    """Puts a benchmark's figures in the place of its earlier ones of the same names."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = results.setdefault(name, {})
    for figure in figures:
        kept[figure.name] = {**figure.as_dict(), **under}
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    README.write_text(page(results))


def module(name: str) -> str:
    """Where a benchmark lies."""
    return f"bench.{name.replace('-', '_')}"


def page(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    parts = [INTRODUCTION]
    for name, figures in results.items():
        parts.append(_section(name, list(figures.values())))
    return "\n".join(parts)


def _section(name: str, figures: Sequence[Mapping[str, Any]]) -> str:
    # Read, not imported: a benchmark may need what is not installed, or fail.
    found = importlib.util.find_spec(module(name))
    said = (ast.get_docstring(ast.parse(Path(found.origin).read_text())) or "") if found and found.origin else ""
    lines = [
        f"## {name}",
        "",
        said,
        "",
        "| figure | ratio | spread (n) | goal | met | what |",
        "|---|---|---|---|---|---|",
    ]
    for each in figures:
        met = {None: "", True: "yes", False: "**no**"}[each["met"]]
        spread = f"{each['low']:.3g} – {each['high']:.3g} ({each['repetitions']})"
        goal = (each["goal"] or "").replace("<=", "≤").replace(">=", "≥")
        lines.append(
            f"| {each['name']} | {each['ratio']:.3g} | {spread} | {goal} | {met} "
            f"| {each['what']}, against {each['baseline']} |"
        )
    under = {
        f"{each['machine']}; {each['measured']}; load {each['load_before']:g} before"
        + (f"; {each['note']}" if each["note"] else "")
        for each in figures
    }
    return "\n".join([*lines, "", *(f"On {words}." for words in sorted(under)), ""])
