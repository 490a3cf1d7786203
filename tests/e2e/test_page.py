"""The web page in a real browser: enter by the link that `up` prints, submit a file, look at the result."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser import browser, complaints, page
from tests.e2e.conftest import Up

__all__ = ["browser", "page"]


def test_a_file_goes_in_and_its_stems_come_out(up: Up, page: Page, episode: Path) -> None:
    said = complaints(page)
    page.goto(f"{up.url}/#key={up.token}")
    expect(page.get_by_label("What to take out of it")).to_have_value("speech")
    assert up.token not in page.url, "the key is taken out of the address"

    page.get_by_label("File", exact=True).set_input_files(episode)
    page.get_by_role("button", name="Submit").click()
    job = page.locator("article").first
    expect(job.locator("h3")).to_have_text(episode.name)
    expect(job.locator(".state")).to_have_text("succeeded")

    job.get_by_role("button", name="Results").click()
    picture = job.locator("img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=picture.element_handle())
    assert job.locator("audio").count() == 2
    with page.expect_download() as download:
        job.get_by_role("link", name="speech.flac").click()
    assert download.value.path().stat().st_size > 1000

    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert not said


def test_a_wrong_key_is_told(up: Up, page: Page) -> None:
    page.goto(up.url)
    page.get_by_label("API key").fill("ns_wrong")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_have_text("That key is not known here, or was revoked.")
