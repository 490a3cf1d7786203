"""What the command says of batches: forecasts, deadlines and speeds, in words and in the user's zone."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from nightshift.batches import Batch
from nightshift.cli import batch_show, show
from nightshift.cli.batch_show import RATE_SECONDS, Rate
from nightshift.client import Client, Job

HOUR = timedelta(hours=1)
# Never asked: what is shown is what was read before.
CLIENT = Client("http://127.0.0.1:9", "key")


@pytest.fixture(autouse=True)
def madrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def forecast(**members: Any) -> dict[str, Any]:
    return {
        "earliest": "2041-03-02T22:00:00Z", "likely": "2041-03-03T03:10:00Z", "latest": "2041-03-04T04:00:00Z",
        "worker_seconds": {"low": 1.3e5, "likely": 147_600.0, "high": 1.6e5}, "closes": "2041-02-26T05:00:00Z",
        "by_close": {"low": 0.3, "likely": 0.34, "high": 0.4}, "nights": 6, "workers": {"gpu": 4}, "risk": None,
        "missing": [], **members,
    }  # fmt: skip


def batch(**members: Any) -> Batch:
    counts = dict.fromkeys(("total", "rejected", "skipped", "running", "failed", "cancelled", "expired"), 0)
    return Batch(
        CLIENT,
        {
            "id": "bat_1", "name": "archive", "state": "active", "open": True, "deadline": None, "risk": None,
            "forecast": None, "audio": {"done": 0.0, "left": 0.0, "unknown": 0}, **members,
            "delivery": None, "held_until": None, "warned_at": None, "expires_at": None,
            "counts": {**counts, "succeeded": 0, "total": 12, **members.get("counts", {})},
        },
    )  # fmt: skip


# --- Forecasts and deadlines ------------------------------------------------------------------------------------------


def test_a_forecast_in_plain_words() -> None:
    assert batch_show.forecast(forecast()) == (
        "about 41 card-hours on 4 cards: 6 nights, done 3 March 2041 04:10 "
        "(between 2 March 2041 23:00 and 4 March 2041 05:00); 34 % by 26 February 2041 06:00"
    )
    small = forecast(
        worker_seconds={"likely": 240.0}, workers={"cpu": 1}, nights=None, by_close=None, closes=None, latest=None
    )
    assert batch_show.forecast(small) == (
        "about 4 worker-minutes on 1 worker: done 3 March 2041 04:10 (between 2 March 2041 23:00 and nobody knows when)"
    )
    several = forecast(worker_seconds={"likely": 5 * 3600.0}, workers={"cpu": 2, "gpu": 1}, nights=1)
    assert batch_show.forecast(several).startswith("about 5.0 worker-hours on 2 workers and 1 card: 1 night, done")


def test_what_is_not_known_comes_with_what_to_do() -> None:
    missing = [{"why": "not_measured", "engine": "hdemucs", "lane": "gpu", "hint": "Run one."}]
    assert "--count 1" in batch_show.forecast(forecast(missing=missing, likely=None, workers={"gpu": 2}))
    assert "no worker serves the lane gpu" in batch_show.forecast(
        forecast(missing=missing, likely=None, workers={"gpu": 0})
    )
    missing = [{"why": "no_cards", "engine": "hdemucs", "lane": "gpu", "hint": "Start a worker."}]
    untold = forecast(missing=missing, likely=None)
    assert batch_show.forecast(untold) == "not known: hdemucs: Start a worker."
    assert batch_show.end(untold) == ""


def test_instants_are_the_user_s_and_near_ones_are_short() -> None:
    now = datetime.now().astimezone().replace(hour=12, minute=5)
    assert show.when(now.astimezone(UTC).isoformat()) == "12:05"
    assert show.when((now + timedelta(days=1)).isoformat()) == "12:05 tomorrow"
    assert show.when("2041-07-01T22:30:00Z") == "2 July 2041 00:30"


@pytest.mark.parametrize(
    ("risk", "hours", "words", "colour"),
    [
        ("on_time", 1, "in time for its deadline, ", "green"),
        ("at_risk", 1, "may miss its deadline, ", "yellow"),
        ("late", 1, "will likely miss its deadline, ", "red"),
        ("late", -1, "past its deadline, ", "red"),
        ("unknown", 1, "nobody can tell", "yellow"),
        (None, 1, "nobody can tell", "yellow"),
    ],
)
def test_a_deadline_in_words_and_colour(risk: str | None, hours: int, words: str, colour: str) -> None:
    deadline = (datetime.now(UTC) + hours * HOUR).isoformat()
    said = batch_show.risk(deadline, risk)
    assert words in said.plain and said.style == colour
    assert not batch_show.risk(None, risk)


# --- Speed ------------------------------------------------------------------------------------------------------------


def _seen(rate: Rate, at: float, jobs: int, *, open_: bool = True) -> None:
    rate.add(at, batch(counts={"succeeded": jobs}, audio={"done": jobs * 1800.0}, open=open_))


def test_speed_is_that_of_the_last_minutes() -> None:
    rate = Rate()
    _seen(rate, 0.0, 0)
    assert rate.words() == ""
    for n in range(1, 61):
        _seen(rate, 60.0 * n, n)
    assert rate.words() == "30.0 audio hours and 60 jobs an hour"
    for n in range(1, 61):
        _seen(rate, 3600 + 60.0 * n, 60 + 2 * n)
    assert rate.words() == "60.0 audio hours and 120 jobs an hour", "the slow hour is forgotten"
    _seen(rate, 7200 + RATE_SECONDS, 180)
    assert rate.words() == "0.0 audio hours and 0 jobs an hour", "it has stopped"


def test_time_in_which_the_window_was_closed_does_not_count() -> None:
    rate = Rate()
    for n in range(6):
        _seen(rate, 60.0 * n, n)
    _seen(rate, 360.0, 6, open_=False)
    assert rate.words() == "", "nothing may run"
    day = 57_600.0
    for n in range(7, 10):
        _seen(rate, day + 60.0 * n, n)
    # Of the minute between the opening and the first look nobody knows.
    assert rate.words() == "33.8 audio hours and 68 jobs an hour"


# --- The board --------------------------------------------------------------------------------------------------------


def _drawn(told: Any) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(told)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_the_board_shows_all_there_is_to_see() -> None:
    rate = Rate()
    _seen(rate, 0.0, 0)
    _seen(rate, 360.0, 3)
    deadline = (datetime.now(UTC) + HOUR).isoformat()
    found = batch(
        counts={"succeeded": 3, "running": 1, "failed": 1}, deadline=deadline, forecast=forecast(risk="late")
    )  # fmt: skip
    progress = {"phase": "separate", "block": 3, "blocks": 12, "percent": 25.0, "eta_seconds": 130.0}
    job = Job(
        CLIENT,
        {"id": "job_1", "item": 4, "state": "running", "metadata": {"title": "Pilot [1]"}, "progress": progress},
    )
    drawn = _drawn(batch_show.board(found, rate, [job]))
    for words in (
        "active, 3 of 12 done, 1 running, 1 failed", "15.0 audio hours and 30 jobs an hour", "41 card-hours on 4 cards",
        "will likely miss its deadline", "separate 3/12 25%, 2 min left", "Pilot [1]", "━━━",
    ):  # fmt: skip
        assert words in drawn, drawn
    line = batch_show.news(found, rate)
    assert "30 jobs an hour; done 3 March 2041 04:10" in line and "will likely miss" in line
    over = batch(state="finished", counts={"succeeded": 12})
    assert _drawn(batch_show.board(over, Rate(), [])).split() == ["archive", "finished,", "12", "of", "12", "done"]
    assert batch_show.news(over, Rate()) == "finished, 12 of 12 done"
