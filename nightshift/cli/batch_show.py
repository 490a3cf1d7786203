"""How batches and plans are shown: in words and tables for people, times in their own zone."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nightshift.batches import Batch
from nightshift.cli import show
from nightshift.client import Job

_RISKS = {"on_time": "green", "at_risk": "yellow", "late": "red", "unknown": "yellow"}
# How fast a batch goes is told of so many seconds in which its window was open.
RATE_SECONDS = 600.0


# --- Forecasts --------------------------------------------------------------------------------------------------------


def forecast(told: Mapping[str, Any]) -> str:
    """`about 41 card-hours on 4 cards: 6 nights, done 3 March 04:10 (between … and …); 34 % by 06:00 tomorrow`."""
    if told["missing"]:
        return "; ".join(f"not known: {one['engine']}: {_hint(one, told['workers'])}" for one in told["missing"])
    parts = [f"{told['nights']} {'night' if told['nights'] == 1 else 'nights'}, " if told["nights"] is not None else ""]
    parts += [f"done {show.when(told['likely'])}", _between(told)]
    if told["by_close"] is not None and told["by_close"]["likely"] < 1:
        parts.append(f"; {_percent(told['by_close']['likely'])} by {show.when(told['closes'])}")
    return f"about {_work(told)}: {''.join(parts)}"


def _hint(missing: Mapping[str, Any], workers: Mapping[str, int]) -> str:
    if missing["why"] == "not_measured" and not workers.get(missing["lane"]):
        return (
            f"no worker serves the lane {missing['lane']}, and no job of it has finished yet. See: nightshift engines"
        )
    if missing["why"] == "not_measured":
        return "no job of it has finished yet. Run one first, the newest of a feed for instance: --count 1"
    return str(missing["hint"])


def end(told: Mapping[str, Any]) -> str:
    """The likely end and its interval alone; empty where nobody knows."""
    return f"done {show.when(told['likely'])}{_between(told)}" if told["likely"] else ""


def _between(told: Mapping[str, Any]) -> str:
    latest = show.when(told["latest"]) if told["latest"] else "nobody knows when"
    return f" (between {show.when(told['earliest'])} and {latest})"


def _work(told: Mapping[str, Any]) -> str:
    cards = told["workers"]
    one = "card" if set(cards) == {"gpu"} else "worker"
    there = " and ".join(_counted(n, "card" if lane == "gpu" else "worker") for lane, n in cards.items())
    hours = told["worker_seconds"]["likely"] / 3600
    if hours < 1:
        return f"{_counted(max(1, round(60 * hours)), f'{one}-minute')} on {there}"
    return f"{hours:.0f} {one}-hours on {there}" if hours >= 10 else f"{hours:.1f} {one}-hours on {there}"


def _counted(number: int, name: str) -> str:
    return f"{number} {name if number == 1 else name + 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def risk(deadline: str | None, found: str | None) -> Text:
    """What becomes of a deadline, in words and in its colour; empty where there is none."""
    if deadline is None:
        return Text()
    at = show.when(deadline)
    past = datetime.fromisoformat(deadline) < datetime.now(UTC)
    said = {
        "on_time": f"in time for its deadline, {at}",
        "at_risk": f"may miss its deadline, {at}",
        "late": f"past its deadline, {at}" if past else f"will likely miss its deadline, {at}",
    }.get(found or "", f"deadline {at}: nobody can tell")
    return Text(said, style=_RISKS[found or "unknown"])


# --- Plans ------------------------------------------------------------------------------------------------------------


def plan(told: Mapping[str, Any]) -> None:
    known = f" (of {told['seconds_known']})" if told["seconds_known"] < told["jobs"] else ""
    expected = told["forecast"]
    rows: list[tuple[str, str | Text]] = [
        ("jobs", str(told["jobs"])),
        ("length", show.duration(told["seconds"]) + known if told["seconds"] is not None else "not known"),
        ("size", show.size(told["bytes"]) if told["bytes"] is not None else "not known"),
        ("results", _results(told["results"])),
        ("left out", ", ".join(f"{why}: {n}" for why, n in told["skipped"].items())),
        ("wrong", str(told["rejected"] or "")),
        ("starts", "" if told["starts"] else "not at all: an item is wrong, and --on-error is stop"),
        ("opens", show.when(told["opens_at"]) if told["opens_at"] else "now" if told["window"] else ""),
        ("forecast", forecast(expected) if expected else ""),
        ("deadline", risk(told["deadline"], expected["risk"] if expected else None)),
        ("names", told["names"][0] if told["names"] else ""),
        ("delivered", told["target"] or ""),
    ]
    show.table(["", told["name"]], [row for row in rows if row[1]])
    for reject in told["rejects"]:
        show.out.print(wrong(reject), soft_wrap=True)


def _results(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    if told["bytes"] is None:
        return "not known; run one job first"
    ground = f"as {_counted(told['jobs'], 'finished job')} had them" if told["jobs"] else "a rule of thumb"
    return f"about {show.size(told['bytes'])}, {ground}"


def wrong(line: Mapping[str, Any]) -> str:
    """An item that could not become a job, or a job without a result."""
    error = line["error"]
    where = f" at {error['pointer']}" if error.get("pointer") else ""
    named = line.get("title") or line.get("source") or line.get("job") or ""
    return f"{line['item']}  {named}  {error['code']}{where}: {error['message']}"


def warned(line: Mapping[str, Any]) -> str:
    """An item with a result and something to say of it."""
    told = "; ".join(f"{warning['code']}: {warning['message']}" for warning in line["warnings"])
    return f"{line['item']}  {line.get('title') or line['job']}  has a result, but {told}"


# --- Batches ----------------------------------------------------------------------------------------------------------


def started(batch: Batch) -> None:
    counts = batch.counts
    told = [f"{counts['total']} jobs"]
    told += [f"{counts[name]} {name}" for name in ("skipped", "rejected") if counts[name]]
    show.notes.print(f"{batch.state}: {', '.join(told)}")
    if batch.body["forecast"]:
        show.notes.print(f"forecast: {forecast(batch.body['forecast'])}", soft_wrap=True)
        if warning := at_risk(batch):
            show.notes.print(warning, soft_wrap=True)
    if batch.body["error"]:
        show.notes.print(f"{batch.body['error']['code']}: {batch.body['error']['message']}")
    if counts["skipped"] and not counts["total"]:
        show.notes.print(
            "Earlier batches have taken all of it, cancelled ones included; --all takes it again.", soft_wrap=True
        )
    show.out.print(batch.id)


def at_risk(batch: Batch) -> Text:
    found = batch.body["forecast"]
    return risk(batch.body["deadline"], found["risk"] if found else batch.body["risk"])


def listed(found: Iterable[Batch]) -> None:
    rows = [
        [
            batch.id,
            batch.body["name"],
            state(batch),
            f"{batch.counts['succeeded']}/{batch.counts['total']}",
            str(batch.counts["failed"] or ""),
            show.age(batch.body["created_at"]),
            _likely(batch),
            show.expiry(batch.body),
        ]
        for batch in found
    ]
    columns = ["batch", "name", "state", "done", "failed", "age", "likely end", "keeping"]
    # Of what is deleted soon: seldom, and then it is worth its place.
    shown = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    show.table(columns[:shown], [row[:shown] for row in rows])


def whole(batch: Batch) -> None:
    """All there is to know of a batch; what does not apply to it has no row."""
    body, error = batch.body, batch.body["error"]
    rows: list[tuple[str, str | Text]] = [
        ("standing", line(batch)),
        ("why", body["reason"].replace("_", " ")),
        ("error", f"{error['code']}: {error['message']}" if error else ""),
        ("work", ", ".join(str(one) for one in (body["preset"], body["engine"]) if one)),
        ("params", json.dumps(body["params"], ensure_ascii=False) if body["params"] else ""),
        ("from", ", ".join(f"{name}: {value}" for name, value in body["source"].items() if value is not None)),
        ("left out", str(batch.counts["skipped"] or "")),
        ("window", body["window"] or ""),
        ("changes", show.when(body["changes_at"]) if body["changes_at"] else ""),
        ("forecast", forecast(body["forecast"]) if body["forecast"] else ""),
        ("deadline", at_risk(batch)),
        ("names", body["naming"] or ""),
        ("schedule", body["schedule"] or ""),
        ("callback", body["callback_url"] or ""),
        ("made", show.when(body["created_at"])),
        ("finished", show.when(body["finished_at"]) if body["finished_at"] else ""),
        ("keeping", show.expiry(body)),
    ]
    show.table([batch.id, body["name"]], [row for row in rows if row[1]])


def _likely(batch: Batch) -> Text:
    found = batch.body["forecast"]
    at_risk = (found["risk"] if found else batch.body["risk"]) or ""
    said = show.when(found["likely"]) if found and found["likely"] else ""
    late = {"late": ", late", "at_risk": ", at risk"}.get(at_risk, "")
    return Text(said + late if said else late.removeprefix(", "), style=_RISKS.get(at_risk, ""))


def state(batch: Batch) -> str:
    if batch.body["held_until"] and batch.state == "active":
        return f"waits for its key's quota until {show.when(batch.body['held_until'])}"
    closed = batch.state == "active" and not batch.body["open"]
    return "waits for its window" if closed else batch.state


def line(batch: Batch) -> str:
    counts = batch.counts
    shown = [f"{counts['succeeded']} of {counts['total']} done"]
    shown += [
        f"{counts[name]} {name}" for name in ("running", "failed", "cancelled", "expired", "rejected") if counts[name]
    ]
    delivery = batch.body["delivery"]
    if delivery:
        told = (("delivered", "done"), ("to be delivered", "pending"), ("not delivered", "failed"))
        shown += [f"{delivery[name]} {word}" for word, name in told if delivery[name]]
    return f"{state(batch)}, {', '.join(shown)}"


def standing(batch: Batch) -> dict[str, Any]:
    """What is worth a line whenever it changes."""
    return {"state": state(batch), **batch.counts, "delivery": batch.body["delivery"]}


class _Seen(NamedTuple):
    """open: seconds that the batch had been running by then."""

    open: float
    jobs: int
    audio: float | None


class Rate:
    """How fast a batch goes, of the last RATE_SECONDS in which it ran: while its window is closed, no time goes by."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque()
        self._at: float | None = None
        self._ran = False

    def add(self, at: float, batch: Batch) -> None:
        """at: seconds of any clock that goes on."""
        open_ = self._seen[-1].open if self._seen else 0.0
        if self._at is not None and self._ran:
            open_ += at - self._at
        self._at, self._ran = at, batch.state == "active" and bool(batch.body["open"])
        audio = batch.body["audio"]
        self._seen.append(_Seen(open_, batch.counts["succeeded"], audio["done"] if audio else None))
        while len(self._seen) > 2 and self._seen[1].open <= open_ - RATE_SECONDS:
            self._seen.popleft()

    def words(self) -> str:
        """`31.4 audio hours and 58 jobs an hour`; empty while nothing may run, and before there is anything to tell."""
        if not self._ran or len(self._seen) < 2:
            return ""
        first, last = self._seen[0], self._seen[-1]
        hours = (last.open - first.open) / 3600
        jobs = last.jobs - first.jobs
        if hours <= 0 or (jobs <= 0 and 3600 * hours < RATE_SECONDS):
            return ""
        told = f"{jobs / hours:.0f} jobs an hour"
        if first.audio is None or last.audio is None:
            return told
        return f"{(last.audio - first.audio) / 3600 / hours:.1f} audio hours and {told}"


def news(batch: Batch, rate: Rate) -> str:
    """All that is to be said of a batch, in a line."""
    found = batch.body["forecast"]
    parts = [line(batch), rate.words(), end(found) if found else "", at_risk(batch).plain if found else ""]
    return "; ".join(part for part in parts if part)


def board(batch: Batch, rate: Rate, running: Iterable[Job]) -> Table:
    """What happens now, for a terminal."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True)
    made.add_column()
    made.add_row(Text(batch.body["name"]), line(batch))
    if speed := rate.words():
        made.add_row("speed", speed)
    if found := batch.body["forecast"]:
        made.add_row("forecast", Text(forecast(found)))
        if warning := at_risk(batch):
            made.add_row("deadline", warning)
    for job in running:
        made.add_row(str(job.body["item"]), _running(job))
    return made


def _running(job: Job) -> RenderableType:
    told = Table.grid(padding=(0, 1))
    percent = (job.progress or {}).get("percent")
    told.add_row(
        ProgressBar(total=100.0, completed=percent or 0.0, width=20),
        Text(show.progress(job)),
        Text(job.body["metadata"].get("title", job.id)),
    )
    return told
