"""What the command prints: tables and bars for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from nightshift.client import Job

# A pipe has no width of its own, and whoever reads from it wants rows whole.
_PIPE_WIDTH = 160
# Names and messages are other people's words: brackets in them mean nothing but brackets.
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
notes = Console(stderr=True, highlight=False, markup=False)

_COLOURS = {
    "succeeded": "green",
    "running": "cyan",
    "queued": "blue",
    "waiting": "blue",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
}


def as_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))  # noqa: T201


def line_of_json(value: object) -> None:
    """One line, for programs that read as it comes."""
    print(json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # The first names the thing: whoever copies it, or a script that reads it, needs it whole; and states are words
        # to look for.
        made.add_column(column, overflow="fold", no_wrap=number == 0 or column == "state")
    for row in rows:
        made.add_row(*row)
    out.print(made)


def state(job: Job) -> Text:
    return Text(job.state, style=_COLOURS.get(job.state, ""))


def progress(job: Job) -> str:
    """`separate 3/12 41%, 2 min left`, as far as it is known."""
    told = job.progress
    if job.ended or not told:
        return ""
    blocks = f" {told['block'] or 0}/{told['blocks']}" if told["blocks"] else ""
    share = f" {told['percent']:.0f}%" if told["percent"] is not None else ""
    left = f", {duration(told['eta_seconds'])} left" if told["eta_seconds"] is not None else ""
    return f"{told['phase'] or ''}{blocks}{share}{left}".strip()


def taken(job: Job) -> str:
    """`job_…, computed on 2026-06-01 02:14 UTC`, of a result that was computed for another job."""
    cached = job.cached_from
    if cached is None:
        return ""
    computed = datetime.fromisoformat(cached["finished_at"]).astimezone(UTC)
    return f"{cached['job']}, computed on {computed:%Y-%m-%d %H:%M} UTC"


def age(instant: str | None) -> str:
    if instant is None:
        return ""
    return duration((datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds())


def when(instant: str) -> str:
    """In the user's own zone: `04:10`, `04:10 tomorrow`, `3 March 04:10`."""
    at, now = datetime.fromisoformat(instant).astimezone(), datetime.now().astimezone()
    days = (at.date() - now.date()).days
    if days in (0, 1):
        return f"{at:%H:%M}{' tomorrow' if days else ''}"
    year = f" {at.year}" if at.year != now.year else ""
    return f"{at.day} {at:%B}{year} {at:%H:%M}"


def expiry(body: Mapping[str, Any]) -> str:
    """`expires in 2 d`, of a job or batch whose owner has been warned."""
    if not body["warned_at"] or not body["expires_at"]:
        return ""
    left = (datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)).total_seconds()
    return f"expires in {duration(left)}"


def duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def bars() -> Progress:
    """Bars on standard error, so that standard output stays for results; none where it is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[more]}", markup=False),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )


class Following:
    """Shows a job's progress as it goes: a bar on a terminal, a line per change elsewhere."""

    def __init__(self, shown: Progress, name: str) -> None:
        self._shown = shown
        self._name = name
        self._task = shown.add_task(name, total=100.0, more="")
        self._last: tuple[Any, ...] = ()

    def __call__(self, job: Job) -> None:
        told = job.progress or {}
        phase = told.get("phase") if job.state == "running" else job.state
        percent = 100.0 if job.state == "succeeded" else told.get("percent") or 0.0
        self._shown.update(self._task, completed=percent, description=f"{self._name} {phase or ''}", more=_more(told))
        change = (job.state, phase, told.get("block"))
        if self._shown.disable and change != self._last:
            self._last = change
            notes.print(f"{self._name}: {job.state} {progress(job)}".rstrip())


def _more(told: dict[str, Any]) -> str:
    blocks = f"block {told.get('block') or 0}/{told['blocks']}" if told.get("blocks") else ""
    left = f"{duration(told['eta_seconds'])} left" if told.get("eta_seconds") is not None else ""
    return "  ".join(part for part in (blocks, left) if part)


def inputs(job: Job) -> str:
    """What a job reads, as it was submitted: `upload upl_…; url https://…`."""
    named = [job.body["input"]] if job.body["input"] else job.body["inputs"] or []
    return "; ".join(", ".join(f"{name} {value}" for name, value in source.items()) for source in named)


def wanted(job: Job) -> str:
    """What a job is to do, in a few words."""
    params = job.body["params"]
    if job.body["kind"] == "segmentation":
        named = [prompt["name"] or f"mask {number}" for number, prompt in enumerate(params["prompts"], 1)]
        return ", ".join(named) or str(params["mode"])
    if job.body["kind"] == "tts":
        text = " ".join((params.get("text") or " ".join(turn["text"] for turn in params["script"])).split())
        return text if len(text) <= 60 else text[:59] + "…"
    return ", ".join(prompt["description"] for prompt in params.get("prompts", ()) if "description" in prompt)
