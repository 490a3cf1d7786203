"""`python -m bench`: measures the ratios, prints them with their goals, and records a whole run."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence

import structlog
from rich.console import Console
from rich.table import Table

from bench import report
from bench.figures import Figure, table
from bench.place import Missing
from bench.scale import Scale

BENCHMARKS = {
    "submit": "what a submission costs, against bare Flask",
    "dispatch": "what a job's claim and commit cost, against bare Celery",
    "busy": "how much of the time the card computes",
    "pending": "what a million pending jobs cost",
    "recovery": "how soon a killed worker's job runs again",
    "memory": "the worker's memory for a long file",
    "decoding": "the sandbox, and channels that are equal",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    lines = "\n".join(f"  {name:<10} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Measures ratios against named baselines. Without names all of them:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which to measure")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--full", action="store_true", help="memory: three hours of sound in the place of one")
    parser.add_argument("--record", action="store_true", help="write the results down, also of single benchmarks")
    parser.add_argument("--note", default="", help="what else to know of this run, written down beside the machine")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if options.quick and (options.full or options.record):
        parser.error("--quick measures nothing that is worth to be recorded")
    return options


def measure(name: str, scale: Scale) -> list[Figure]:
    return list(importlib.import_module(f"bench.{name}").run(scale))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where a benchmark could not be run; a goal that was missed is a result."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # What the pieces log while they are measured is not for whoever reads the table.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    console = Console()
    scale = Scale.QUICK if options.quick else Scale.FULL if options.full else Scale.NORMAL
    measured: list[Figure] = []
    missing = False
    for name in options.names or BENCHMARKS:
        console.print(f"[dim]{name}: {BENCHMARKS[name]} …[/dim]")
        began = time.monotonic()
        conditions = report.conditions(options.note)
        try:
            figures = measure(name, scale)
        except Missing as why:
            console.print(f"[yellow]{name} cannot be measured here: {why}[/yellow]")
            missing = True
            continue
        _show(console, figures)
        console.print(f"[dim]{time.monotonic() - began:.0f} s[/dim]")
        measured += figures
        if options.record or (scale is not Scale.QUICK and not options.names):
            report.record(name, figures, conditions)
    if len(options.names) != 1:
        _show(console, measured)
    return int(missing)


def _show(console: Console, figures: Sequence[Figure]) -> None:
    shown = Table("figure", "ratio", "spread (n)", "goal", "met", "what", header_style="bold")
    for row in table(figures):
        shown.add_row(*row, style="red" if row[4] == "NO" else None)
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
