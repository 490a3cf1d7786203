"""The batches on the web page, in a real browser before the real processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Download, Locator, Page, Request, Route, expect

from nightshift.batches import Batch, Batches
from tests import media
from tests.browser import ZONE, browser, complaints, page
from tests.e2e.conftest import Up
from tests.house import wait_for
from tests.servers.receiver import Answer

__all__ = ["browser", "page"]

HOSTILE = '<img src=x onerror="window.taken = true">'
NARROW = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def preset(up: Up) -> Iterator[str]:
    up.command("preset", "put", "at-once", "--engine", "fast", "--params", '{"prompts": ["speech"]}')
    yield "at-once"
    up.command("preset", "delete", "at-once")


def _enter(up: Up, page: Page, where: str = "#/batches") -> list[str]:
    """Opens a view; returns what the page complains about from then on."""
    said = complaints(page)
    page.goto(f"{up.url}/#key={up.token}")
    expect(page.get_by_role("link", name="Batches")).to_be_visible()
    page.goto(f"{up.url}/{where}")
    return said


def _closed() -> str:
    """A window that is closed for the next hours."""
    now = datetime.now(UTC)
    return f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=4):%H:%M} UTC"


def _waiting(up: Up, name: str, count: int = 2, **members: Any) -> Batch:
    """A batch that waits for its window."""
    items = [{"input": f"https://media.example/{name.encode().hex()}-{n}.mp3"} for n in range(count)]
    asked = {"name": name, "items": items, "preset": "podcast-voice", "window": _closed(), **members}
    return Batches(up.client()).start(asked)


def _feed(up: Up, folder: Path, name: str) -> str:
    """Three episodes, the second of which is gone and the third has a hostile title; and an item without sound."""
    audio = media.make(folder / "episode.wav", 16_000, 1, 1.0).read_bytes()
    items = ["<item><title>No sound</title><guid>none</guid></item>"]
    for number, title in enumerate(("Pilot", "Lost", HOSTILE)):
        path = f"/{name}/{number}.wav"
        up.receiver.serve(path, Answer(404) if title == "Lost" else Answer(body=audio))
        shown = title.replace("<", "&lt;").replace(">", "&gt;")
        items.append(
            f"<item><title>{shown}</title><guid>{name}{number}</guid><pubDate>0{number + 1} Jun 2026 05:00:00 GMT"
            f'</pubDate><enclosure url="{up.receiver.url(path)}" type="audio/wav" length="9"/></item>'
        )
    text = f'<rss version="2.0"><channel><title>Night</title>{"".join(items)}</channel></rss>'
    up.receiver.serve(f"/{name}/feed.xml", Answer(body=text.encode()))
    return up.receiver.url(f"/{name}/feed.xml")


def _state(page: Page) -> Locator:
    return page.locator("main").get_by_role("status")


def _fact(page: Page, term: str) -> Locator:
    return page.locator(".facts div").filter(has=page.get_by_text(term, exact=True)).locator("dd")


def _lines(download: Download) -> list[dict[str, Any]]:
    return [json.loads(line) for line in download.path().read_text().splitlines()]


def test_a_feed_is_planned_started_and_looked_at(up: Up, page: Page, preset: str, tmp_path: Path) -> None:
    url = _feed(up, tmp_path, "page")
    said = _enter(up, page)
    page.get_by_role("link", name="Start a batch").click()
    expect(page.get_by_role("heading", name="Start a batch")).to_be_focused()
    page.get_by_label("Feed, or pattern").fill(url)
    page.get_by_label("Preset").select_option(preset)
    page.get_by_label("Names of the results").fill("{title}.{stem}.{ext}")
    page.get_by_role("button", name="Plan").click()
    expect(_fact(page, "Jobs")).to_have_text("3 jobs")
    expect(_fact(page, "Wrong")).to_have_text("1 item")
    expect(page.locator(".names li").first).to_have_text("Pilot.stem.flac")
    expect(page.locator(".rejects")).to_contain_text("Item 1, No sound: The episode has no enclosure.")
    # A plan of something else than what stands in the form is not shown.
    page.get_by_label("Window").fill("00:00-24:00 UTC")
    expect(page.locator(".plan")).to_be_hidden()

    page.get_by_role("button", name="Start", exact=True).click()
    expect(page).to_have_url(re.compile(r"#/batches/bat_\w+$"))
    expect(_state(page)).to_have_text("finished, 2 items without a result")
    bar = page.locator(".bar")
    expect(bar).to_have_attribute("aria-valuetext", "2 of 3 done · 1 failed · 1 rejected")
    wrong = page.locator(".failures li")
    expect(wrong).to_have_count(2)
    expect(wrong.first).to_contain_text("input_refused")
    expect(wrong.first.locator(".hint")).to_contain_text("Check that the URL")
    expect(wrong.last).to_contain_text("Item 1: No sound")
    with page.expect_download() as errors:
        page.get_by_role("button", name="errors.jsonl").click()
    assert [line["item"] for line in _lines(errors.value)] == [1, 3]
    with page.expect_download() as output:
        page.get_by_role("button", name="output.jsonl").click()
    assert [line["title"] for line in _lines(output.value)] == ["Pilot", HOSTILE]

    # What is shown stays through a reload, and going back leads to where one came from.
    page.get_by_role("button", name="1 failed").click()
    expect(page.locator(".items li")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("button", name="1 failed")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".items li")).to_have_count(1)
    page.get_by_role("button", name="3 all").click()
    page.locator(".items").get_by_role("link", name=HOSTILE).click()
    expect(page.locator("audio")).to_have_count(2)
    expect(page.get_by_role("link", name="Of the batch")).to_be_visible()
    page.set_viewport_size(NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    page.go_back()
    expect(page.locator(".items li")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    assert page.evaluate("window.taken") is None

    up.receiver.serve("/page/1.wav", Answer(body=(tmp_path / "episode.wav").read_bytes()))
    page.get_by_role("button", name="Retry failed").click()
    expect(_state(page)).to_have_text("finished, 1 item without a result")
    expect(wrong).to_have_count(1)
    expect(page.get_by_role("button", name="Retry failed")).to_be_disabled()
    assert not said


def test_an_item_of_a_recording_that_is_cut_short_says_so(up: Up, page: Page, preset: str, tmp_path: Path) -> None:
    whole = media.make(tmp_path / "whole.wav", 16_000, 1, 2.0)
    up.receiver.serve("/cut/whole.wav", Answer(body=whole.read_bytes()))
    up.receiver.serve("/cut/half.wav", Answer(body=whole.read_bytes()[: whole.stat().st_size // 2]))
    items = [{"input": up.receiver.url(f"/cut/{name}.wav"), "title": name} for name in ("whole", "half")]
    batch = Batches(up.client()).start({"name": "cut", "items": items, "preset": preset})
    said = _enter(up, page, f"#/batches/{batch.id}")
    expect(_state(page)).to_have_text("finished")
    notes = page.locator(".items .noted")
    expect(notes.first).to_be_hidden()
    expect(notes.last).to_have_text(re.compile(r"^Note: .*1\.0.* s"))
    assert not said


def test_what_is_wrong_is_told_beside_its_field(up: Up, page: Page) -> None:
    _enter(up, page, "#/batches/new")
    page.get_by_label("Feed, or pattern").fill("s3://")
    page.get_by_label("Window").fill("from ten to six")
    page.get_by_label("Names of the results").fill("{nothing}")
    page.get_by_role("button", name="Plan").click()
    for label, wrong in (
        ("Feed, or pattern", "'s3://' is not a place in a bucket"),
        ("Window", "'from ten to six' is not of the form"),
        ("Names of the results", "there is no field {nothing}"),
    ):
        field = page.get_by_label(label)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile(re.escape(wrong)))
    expect(page.get_by_label("Feed, or pattern")).to_be_focused()
    page.get_by_label("Window").fill(_closed())
    expect(page.get_by_label("Window")).not_to_have_attribute("aria-invalid", "true")
    # What belongs to no field stands below the form.
    page.get_by_label("Names of the results").fill("")
    page.get_by_label("Feed, or pattern").fill(up.receiver.url("/no-feed.xml"))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page).to_have_url(re.compile(r"#/batches/bat_\w+$"))
    expect(_state(page)).to_have_text("could not be prepared")
    expect(page.locator(".unprepared")).to_contain_text("feed")


def test_a_plan_shows_whatever_figures_there_are(up: Up, page: Page) -> None:
    url = up.receiver.url("/figures/feed.xml")
    up.receiver.serve("/figures/feed.xml", Answer(body=b'<rss version="2.0"><channel><title>A</title></channel></rss>'))
    forecast = {
        "earliest": None, "likely": None, "latest": None, "by_close": None,
        "worker_seconds": {"low": 60, "likely": 120, "high": 300},
        "missing": [{"why": "lengths_unknown", "engine": "fast", "lane": "cpu"}],
    }  # fmt: skip
    more = {"nights": 3, "result_bytes": 5_000_000, "card_seconds": {"low": 3600, "likely": 7200, "high": 9000}}

    def answer(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "forecast": forecast, **more})

    page.route("**/v1/batches?dry_run=true", answer)
    _enter(up, page, "#/batches/new")
    page.get_by_label("Feed, or pattern").fill(url)
    expect(page.get_by_label("Preset")).not_to_have_value("")
    page.get_by_role("button", name="Plan").click()
    expect(_fact(page, "Nights")).to_have_text("3")
    expect(_fact(page, "Result bytes")).to_have_text("5.0 MB")
    expect(_fact(page, "Card")).to_have_text("about 2 h (60 min to 2 h 30 min)")
    expect(page.locator(".plan .lines li")).to_have_text(
        [
            "How long the recordings are is not known. The first of them to be read will tell.",
            "About 2 (1 to 5) worker minutes left.",
        ]
    )


def test_a_start_that_broke_off_makes_one_batch(up: Up, page: Page) -> None:
    url = up.receiver.url("/broken-off/feed.xml")
    up.receiver.serve(
        "/broken-off/feed.xml", Answer(body=b'<rss version="2.0"><channel><title>A</title></channel></rss>')
    )
    keys: list[str] = []

    def break_off(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 1:
            route.continue_()
        else:
            route.fetch()
            route.abort()

    page.route("**/v1/batches", break_off)
    _enter(up, page, "#/batches/new")
    page.get_by_label("Feed, or pattern").fill(url)
    expect(page.get_by_label("Preset")).not_to_have_value("")
    start = page.get_by_role("button", name="Start", exact=True)
    start.click()
    expect(page.locator(".refusal")).to_have_text("The service cannot be reached.")
    start.click()
    expect(_state(page)).to_have_text("finished, there was nothing new")
    assert len(keys) == 2 and keys[0] == keys[1]
    made = [batch for batch in Batches(up.client()).list() if batch.body["source"].get("rss", {}).get("url") == url]
    assert len(made) == 1


def test_a_batch_is_steered_by_keyboard(up: Up, page: Page) -> None:
    batch = _waiting(up, "steered", deadline=(datetime.now(UTC) + timedelta(hours=3)).isoformat())
    opens = datetime.fromisoformat(batch.body["changes_at"]).astimezone(ZoneInfo(ZONE))
    waits = re.compile(f"^waits for its window, opens (tomorrow )?{opens:%H:%M}$")
    said = _enter(up, page, f"#/batches/{batch.id}")
    expect(_state(page)).to_have_text(waits)
    expect(page.locator(".risk")).to_contain_text(re.compile("due (tomorrow )?[0-9:]{5}$"))
    expect(page.get_by_role("button", name="Resume")).to_be_disabled()
    page.get_by_role("button", name="Pause").press("Enter")
    expect(_state(page)).to_have_text("paused")
    expect(page.get_by_role("button", name="Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(_state(page)).to_have_text(waits)
    cancel = page.get_by_role("button", name="Cancel …")
    cancel.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("2 items without a result will be cancelled.")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(cancel).to_be_focused()
    cancel.press("Enter")
    page.get_by_role("button", name="Cancel the batch").click()
    expect(_state(page)).to_have_text("cancelled")
    for verb in ("Pause", "Resume", "Retry failed", "Cancel …"):
        expect(page.get_by_role("button", name=verb)).to_be_disabled()
    assert not said


def test_window_and_deadline_are_changed_while_it_waits(up: Up, page: Page) -> None:
    due = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=5)
    batch = _waiting(up, "changed", deadline=due.isoformat(), weight=3.0)
    said = _enter(up, page, f"#/batches/{batch.id}")
    change = page.get_by_role("button", name="Change …")
    change.press("Enter")
    dialog, window, deadline = page.get_by_role("dialog"), page.get_by_label("Window"), page.get_by_label("Deadline")
    expect(window).to_have_value(batch.body["window"])
    expect(deadline).to_have_value(f"{due.astimezone(ZoneInfo(ZONE)):%Y-%m-%dT%H:%M}")
    window.fill("sometime")
    window.press("Enter")
    expect(window).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#window-wrong")).to_contain_text("sometime")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(change).to_be_focused()

    # What somebody else has changed meanwhile stays, and what was refused is not there any more.
    page.route(f"**/v1/batches/{batch.id}", lambda route: _held(route, batch.body))
    change.press("Enter")
    expect(page.locator("#window-wrong")).to_be_hidden()
    batch.change(deadline=(due + timedelta(hours=1)).isoformat())
    window.fill("00:00-00:01 UTC")
    window.press("Enter")
    expect(dialog).to_be_hidden()
    changed = batch.refresh().body
    assert (changed["window"], changed["weight"]) == ("00:00-00:01 UTC", 3.0)
    assert datetime.fromisoformat(changed["deadline"]) == due + timedelta(hours=1)
    page.unroute_all()
    expect(_fact(page, "Window")).to_have_text("00:00-00:01 UTC")

    change.click()
    deadline.clear()
    dialog.get_by_role("button", name="Change", exact=True).click()
    expect(_fact(page, "Deadline")).to_have_count(0)
    assert batch.refresh().body["deadline"] is None
    batch.cancel()
    expect(change).to_be_disabled()
    assert [line for line in said if "422" not in line] == []


def _held(route: Route, body: dict[str, Any]) -> None:
    """What the page reads is as it was; what it writes arrives."""
    if route.request.method == "GET":
        route.fulfill(json=body)
    else:
        route.continue_()


def test_a_refusal_is_told_in_words(up: Up, page: Page) -> None:
    batch = _waiting(up, "refused")
    before = batch.body
    _enter(up, page, f"#/batches/{batch.id}")
    # The page sees the batch as it was, although somebody else has cancelled it.
    page.route(f"**/v1/batches/{batch.id}", lambda route: route.fulfill(json=before))
    batch.cancel()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".verbs + .refusal")).to_have_text("The batch is cancelled. It must be active.")


def test_blocks_move_in_place(up: Up, page: Page, long: Path) -> None:
    client = up.client()
    upload = client.upload(long)
    asked = {"items": [{"input": upload}], "engine": "slow", "params": {"prompts": ["speech"]}, "name": HOSTILE}
    batch = Batches(client).start(asked)
    try:
        _enter(up, page, f"#/batches/{batch.id}")
        expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
        blocks = page.locator(".running .blocks")
        expect(blocks).to_have_attribute("aria-valuetext", re.compile(r"block \d+ of 18"))
        blocks.evaluate("bar => bar.first = bar.firstElementChild")
        seen = int(blocks.get_attribute("aria-valuenow") or 0)
        wait_for(lambda: int(blocks.get_attribute("aria-valuenow") or 0) > seen)
        assert blocks.evaluate("bar => bar.first === bar.firstElementChild"), "drawn anew instead of brought up to date"
        assert page.evaluate("window.taken") is None
    finally:
        batch.cancel()
    expect(_state(page)).to_have_text("cancelled")
    expect(page.locator("section.running")).to_be_hidden()


def _count(page: Page, path: str) -> Callable[[], int]:
    """How often the page asks for it from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.url.partition("?")[0].endswith(path):
            asked.append(request.url)

    page.on("request", note)
    return lambda: len(asked)


def test_the_page_looks_again_until_a_batch_is_over(up: Up, page: Page) -> None:
    batch = _waiting(up, "watched")
    page.clock.install()
    _enter(up, page, f"#/batches/{batch.id}")
    expect(_state(page)).to_contain_text("waits for its window")
    batch.cancel()
    page.clock.fast_forward(2000)
    expect(_state(page)).to_have_text("cancelled")
    asked = _count(page, batch.id)
    page.clock.fast_forward(60_000)
    page.get_by_role("link", name="All batches").click()
    expect(page.get_by_role("heading", name="watched")).to_be_visible()
    assert asked() == 0
    # The list goes on: a schedule may make another.
    later = _waiting(up, "made elsewhere")
    page.clock.fast_forward(15_000)
    expect(page.get_by_role("heading", name="made elsewhere")).to_be_visible()
    later.cancel()


def test_the_list_goes_on_by_pages(up: Up, page: Page) -> None:
    made = [_waiting(up, f"page {number}", count=1) for number in range(3)]
    # Pages of two, where it asks for twenty.
    page.route("**/v1/batches?limit=20*", lambda route: route.continue_(url=route.request.url.replace("=20", "=2")))
    page.set_viewport_size(NARROW)
    said = _enter(up, page)
    rows = page.locator(".batches article")
    expect(rows).to_have_count(2)
    expect(rows.first.locator("h3")).to_have_text("page 2")
    page.get_by_role("button", name="Show older").click()
    expect(rows).to_have_count(4)
    expect(rows.nth(2).locator("h3")).to_have_text("page 0")
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    for batch in made:
        batch.cancel()
    # Also what has moved off the first page is brought up to date.
    expect(rows.nth(2).locator(".state")).to_have_text("cancelled")
    assert not said


NOW = "2026-03-05T20:00:00Z"
COUNTS = {
    "total": 9, "rejected": 0, "skipped": 0, "waiting": 4, "queued": 1, "running": 2, "succeeded": 1, "failed": 1,
    "cancelled": 0, "expired": 0,
}  # fmt: skip


def _said(page: Page, call: str, *given: Any) -> Any:
    """What a function of one of the page's modules gives, at NOW."""
    module, name = call.split(".")
    return page.evaluate(
        f"async ([given, now]) => (await import('/static/{module}.js')).{name}(...given, new Date(now))", [given, NOW]
    )


def test_states_risks_and_forecasts_in_words(up: Up, page: Page) -> None:
    page.goto(up.url)
    batch = {"state": "active", "reason": "prepared", "counts": COUNTS, "open": True, "changes_at": None, "error": None}
    morning, friday = "2026-03-06T05:00:00Z", "2026-03-09T21:00:00Z"
    for members, words in (
        ({}, "running"),
        ({"changes_at": morning}, "running, its window closes tomorrow 06:00"),
        ({"counts": {**COUNTS, "running": 0}}, "waits for a free worker"),
        ({"open": False, "changes_at": friday}, "waits for its window, opens Mon 22:00"),
        ({"state": "paused"}, "pausing, 2 jobs at the end of a block"),
        ({"state": "paused", "reason": "item_failed"}, "stopped, because an item failed"),
        ({"state": "preparing", "error": {"code": "unavailable"}}, "its source cannot be read yet, it tries again"),
        ({"state": "finished"}, "finished, 8 items without a result"),
    ):
        assert _said(page, "standing.stateOf", {**batch, **members})[0] == words
    assert _said(page, "standing.countsOf", batch) == "1 of 9 done · 1 failed · 2 running · 5 waiting"

    forecast = {"earliest": "2026-03-06T01:40:00Z", "likely": "2026-03-06T02:10:00Z", "latest": "2026-03-06T03:30:00Z"}
    assert _said(page, "forecast.endOf", forecast) == "done about tomorrow 03:10, tomorrow 02:40 to 04:30"
    assert _said(page, "forecast.endOf", {**forecast, "latest": None}) == (
        "done about tomorrow 03:10, not before tomorrow 02:40"
    )
    assert _said(page, "forecast.endOf", {"likely": None}) == ""
    late = {"deadline": "2026-03-06T03:00:00Z", "finished_at": None, "forecast": {"risk": "at_risk"}}
    assert _said(page, "forecast.riskOf", late) == ["at_risk", "may be late: due tomorrow 04:00"]
    ended = {"deadline": "2026-03-05T03:00:00Z", "finished_at": "2026-03-05T04:00:00Z"}
    assert _said(page, "forecast.riskOf", ended) == ["late", "ended after its deadline, 04:00"]
    left = {
        "worker_seconds": {"low": 3600 * 9, "likely": 3600 * 12, "high": 3600 * 16.4},
        "closes": morning, "by_close": {"low": 0.64, "likely": 0.82, "high": 0.97},
    }  # fmt: skip
    assert _said(page, "forecast.linesOf", left) == [
        "About 12 (9 to 16) worker hours left.",
        "About 82 % (64 % to 97 %) of what is left is done by tomorrow 06:00, when its window closes.",
    ]
    speech = {"id": "job_1", "input": None, "inputs": None, "params": {"text": "Good night."}, "metadata": {}}
    assert _said(page, "words.nameOf", speech) == "Good night."
    pictures = {
        "id": "job_1",
        "input": None,
        "inputs": [{"url": "https://a.example/1.png"}],
        "params": {},
        "metadata": {},
    }
    assert _said(page, "words.nameOf", pictures) == "https://a.example/1.png"
    missing = {"missing": [{"why": "no_cards", "engine": "sam-audio-base", "lane": "gpu"}]}
    assert "No worker takes jobs of the lane gpu." in _said(page, "forecast.missingOf", missing)[0]
