"""`python -m bench`: measures the ratios, prints them with their goals, and records a whole run."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator, Sequence

import structlog
from rich.console import Console
from rich.table import Table

from bench import report
from bench.figures import Figure, table
from bench.place import Missing
from bench.scale import Scale

SIZES = ("tiny", "small", "base", "large")

BENCHMARKS = {
    "submit": "what a submission costs, against bare Flask",
    "dispatch": "what a job's claim and commit cost, against bare Celery",
    "busy": "how much of the time the card computes",
    "pending": "what a million pending jobs cost",
    "manifest": "what a manifest of 100,000 items costs, from its intake to its cancelling",
    "recovery": "how soon a killed worker's job runs again",
    "memory": "the worker's memory for a long file",
    "decoding": "the sandbox, and channels that are equal",
    "speech": "CSM's loop against the library's own, and a chapter by espeak",
    "segmentation": "masks of Segment Anything, against its own package",
    "sam-audio": "long files and tiers of SAM-Audio, against the published procedure",
    "sam-audio-prompts": "what further prompts and equal channels cost SAM-Audio",
    "sam-audio-codec": "SAM-Audio's codec a stretch at a time, against the whole",
    "sam-audio-gpu": "SAM-Audio at its real size on a card; only when named",
    "speech-gpu": "CSM at its real size on a card; only when named",
}


ONLY_WHEN_NAMED = frozenset({"sam-audio-gpu", "speech-gpu"})
"""What needs a machine of its own kind."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    lines = "\n".join(f"  {name:<17} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Measures ratios against named baselines. Without names all that any machine can run:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which to measure")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument(
        "--full",
        action="store_true",
        help="memory: three hours of sound in the place of one; sam-audio: longer sound, the better part of an hour",
    )
    parser.add_argument("--record", action="store_true", help="write the results down, also of single benchmarks")
    parser.add_argument("--note", default="", help="what else to know of this run, written down beside the machine")
    parser.add_argument("--device", default="cuda", help="sam-audio-gpu: the card; cpu only shows that it works")
    parser.add_argument("--size", default="base", choices=SIZES, help="sam-audio-gpu: the model's")
    options = parser.parse_args(arguments)
    options.names = options.names or [name for name in BENCHMARKS if name not in ONLY_WHEN_NAMED]
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if options.quick and (options.full or options.record):
        parser.error("--quick measures nothing that is worth to be recorded")
    if options.record and (options.device == "cpu" or options.size == "tiny"):
        parser.error("a card is measured on a card, at a real size")
    return options


def measure(name: str, scale: Scale, **where: str) -> Iterator[Figure]:
    """The figures of a benchmark, each as soon as it is known. where: device and size, for what has them.

    Raises `Missing`.
    """
    yield from importlib.import_module(report.module(name)).run(scale, **where)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where a benchmark could not be run; a goal that was missed is a result."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # What the pieces log while they are measured is not for whoever reads the table.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    console = Console()
    scale = Scale.QUICK if options.quick else Scale.FULL if options.full else Scale.NORMAL
    keep = options.record or (scale is not Scale.QUICK and set(options.names) == set(BENCHMARKS) - ONLY_WHEN_NAMED)
    measured: list[Figure] = []
    missing = False
    for name in options.names:
        console.print(f"[dim]{name}: {BENCHMARKS[name]} …[/dim]")
        began = time.monotonic()
        conditions = report.conditions(options.note)
        figures: list[Figure] = []
        where = {"device": options.device, "size": options.size} if name in ONLY_WHEN_NAMED else {}
        try:
            for figure in measure(name, scale, **where):
                figures.append(figure)
                # At once: what took an hour must not be lost with what comes after it.
                if keep:
                    report.record(name, [figure], conditions)
        except Missing as why:
            console.print(f"[yellow]{name} cannot be measured here: {why}[/yellow]")
            missing = True
        finally:
            _show(console, figures)
        console.print(f"[dim]{time.monotonic() - began:.0f} s[/dim]")
        measured += figures
    if len(options.names) != 1:
        _show(console, measured)
    return int(missing)


def _show(console: Console, figures: Sequence[Figure]) -> None:
    if not figures:
        return
    shown = Table("figure", "ratio", "spread (n)", "goal", "met", "what", header_style="bold")
    for row in table(figures):
        shown.add_row(*row, style="red" if row[4] == "NO" else None)
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
