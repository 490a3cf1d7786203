"""`nightshift batch`, `schedule` and `preset` against a running service, on real audio from a real feed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import soundfile
from sqlalchemy import update

from common.db.engine import Database
from common.db.tables import schedules
from common.storage.s3_client import connect
from nightshift.batches import Batches
from tests import media
from tests.e2e.conftest import Up
from tests.house import wait_for
from tests.servers.receiver import Answer
from tests.servers.s3 import s3_settings

CODECS = ("mp3", "m4a", "ogg", "opus", "flac", "wav")
GONE, TRUNCATED = 10, 11


def _feed(up: Up, folder: Path, name: str) -> str:
    """Twelve episodes in six codecs, one of them gone and one cut off, and an item whose guid is there twice."""
    items = []
    for number in range(12):
        kind = CODECS[number % len(CODECS)]
        file = media.make(folder / f"{number}.{kind}", 44_100 if kind != "opus" else 48_000, 1 + number % 2, 2.0)
        data = file.read_bytes()
        path = f"/{name}/{number}.{kind}"
        if number == GONE:
            up.receiver.serve(path, Answer(404))
        elif number == TRUNCATED:
            up.receiver.serve(path, Answer(body=data[:20], declare=20))
        else:
            up.receiver.serve(path, Answer(body=data))
        # Two of them have the same title and day: their names would meet.
        title = "Special" if number in (2, 3) else f"Episode {number}"
        items.append(_item(number if number != 3 else 2, str(number), title, up.receiver.url(path), kind))
    items.append(_item(1, "0", "Again", up.receiver.url(f"/{name}/again.mp3"), "mp3"))
    text = f'<rss version="2.0"><channel><title>Night & Day</title>{"".join(items)}</channel></rss>'.replace(
        "&", "&amp;"
    )
    up.receiver.serve(f"/{name}/feed.xml", Answer(body=text.encode(), headers={"Content-Type": "application/rss+xml"}))
    return up.receiver.url(f"/{name}/feed.xml")


def _item(day: int, guid: str, title: str, url: str, kind: str) -> str:
    return (
        f"<item><title>{title}</title><guid>{guid}</guid><pubDate>{day + 1:02} Jun 2026 05:00:00 GMT</pubDate>"
        f'<enclosure url="{url}" type="audio/{kind}" length="1"/></item>'
    )


def test_a_feed_overnight(up: Up, tmp_path: Path) -> None:
    url = _feed(up, tmp_path, "overnight")
    asked = ("--rss", url, "--preset", "podcast-voice", "--engine", "fast", "--window", "00:00-24:00 Europe/Madrid")
    plan = up.shell("batch", "plan", *asked)
    assert re.search(r"jobs\s+12\b", plan.out)
    assert "duplicate_guid: 1" in plan.out
    batch_id = up.shell("batch", "start", *asked).out.strip()
    assert re.fullmatch(r"bat_[0-9A-Z]{26}", batch_id)
    watched = up.command("batch", "watch", batch_id, "--poll", 0.2, status=1)
    assert "10 of 12 done, 2 failed" in watched.out
    body = up.command("batch", "list", "--json").json
    (batch,) = [one for one in body if one["id"] == batch_id]
    assert (batch["state"], batch["preset"], batch["counts"]["skipped"]) == ("finished", "podcast-voice@1", 1)
    wrong = [json.loads(line) for line in up.command("batch", "errors", batch_id, "--json").out.splitlines()]
    assert [line["guid"] for line in wrong] == [str(GONE), str(TRUNCATED)]
    assert {line["error"]["code"] for line in wrong} <= {"input_refused", "unsupported_media", "corrupt_media"}
    saved = up.command("batch", "download", batch_id, tmp_path / "out").out.splitlines()
    assert len(saved) == len({path.casefold() for path in saved}) == 10
    assert {Path(path).parent.name for path in saved} == {"Night-Day"}
    assert sum(Path(path).name.startswith("2026-06-03-Special") for path in saved) == 2
    for path in saved:
        assert soundfile.info(path).duration == pytest.approx(2.0, abs=0.1)
    again = up.shell("batch", "start", *asked, "--json").json
    assert (again["state"], again["counts"]["total"], again["counts"]["skipped"]) == ("finished", 0, 13)
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    told = " ".join(up.command("batch", "plan", *asked, "--all", "--deadline", in_an_hour).out.split())
    for words in (r"about [\d.]+ MB, as \d+ finished jobs had them", r"worker-minutes? on 1 worker: 1 night, done ",
                  "in time for its deadline"):  # fmt: skip
        assert re.search(words, told), told


def test_a_folder_of_files(up: Up, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("one.wav", "deep/two.flac"):
        (folder / name).parent.mkdir(exist_ok=True)
        media.make(folder / name, 16_000, 1, 1.0)
    (folder / "notes.txt").write_text("no audio")
    asked = (
        "batch", "start", "--folder", folder, "-p", "speech", "--engine", "fast", "--naming", "{title}/{stem}.{ext}",
    )  # fmt: skip
    batch_id = up.command(*asked).out.strip()
    up.command("batch", "watch", batch_id, "--poll", 0.2)
    saved = up.command("batch", "download", batch_id, tmp_path / "out", "--json").out.splitlines()
    assert sorted(Path(json.loads(line)).relative_to((tmp_path / "out").resolve()).as_posix() for line in saved) == [
        "one/residual.flac", "one/speech.flac", "two/residual.flac", "two/speech.flac",
    ]  # fmt: skip
    for more, taken in (((), True), (("--no-cache",), False)):
        again = up.command(*asked, *more).out.strip()
        up.command("batch", "watch", again, "--poll", 0.2)
        with up.client() as client:
            lines = list(Batches(client).get(again).output())
        assert [line["cached_from"] is not None for line in lines] == [taken, taken]


def test_results_are_delivered_into_a_bucket(up: Up, tmp_path: Path) -> None:
    media.make(tmp_path / "one.wav", 16_000, 1, 1.0)
    client = connect(s3_settings(up.s3, "own", tmp_path), up.s3.endpoint)
    client.put_object(Bucket="of-the-user", Key="stems/one/residual.flac", Body=b"precious")
    asked = (
        "--folder", tmp_path, "-p", "speech", "--engine", "fast", "--naming", "{title}/{stem}.{ext}",
        "--deliver", "s3://of-the-user/stems",
    )  # fmt: skip
    assert "s3://of-the-user/stems/one/stem.flac" in up.command("batch", "plan", *asked).out
    batch_id = up.command("batch", "start", *asked).out.strip()
    watched = up.command("batch", "watch", batch_id, "--poll", 0.2, status=1)
    assert "1 of 1 done, 1 not delivered" in watched.out
    assert "target_exists" in up.command("batch", "errors", batch_id).out
    client.delete_object(Bucket="of-the-user", Key="stems/one/residual.flac")
    assert "0 again, 1 deliveries" in up.command("batch", "retry-failed", batch_id).out
    assert "1 of 1 done, 1 delivered" in up.command("batch", "watch", batch_id, "--poll", 0.2).out
    keys = [one["Key"] for one in client.list_objects_v2(Bucket="of-the-user", Prefix="stems/")["Contents"]]
    assert keys == ["stems/one/residual.flac", "stems/one/speech.flac"]
    refused = up.command("batch", "plan", *asked[:-1], "s3://other/", "--json", status=3)
    assert refused.error["code"] == "bucket_forbidden"
    assert "--deliver" in up.command("batch", "plan", *asked[:-2], "--overwrite", status=2).err


def test_outside_its_window_a_batch_waits_and_can_be_steered(up: Up, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(f'{{"input": "https://media.example/{n}.mp3"}}\n' for n in range(3)) + "{}\n")
    now = datetime.now(UTC)
    window = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=4):%H:%M} UTC"
    asked = ("--manifest", manifest, "--preset", "podcast-voice", "--window", window)
    assert "not at all" not in up.command("batch", "plan", *asked).out
    assert "not at all: an item is wrong" in up.command("batch", "plan", *asked, "--on-error", "stop").out
    batch = up.command("batch", "start", *asked, "--json").json
    assert (batch["open"], batch["counts"]["total"], batch["counts"]["rejected"]) == (False, 3, 1)
    assert batch["forecast"] is not None
    listed = up.command("batch", "list").out
    assert "waits for its window" in listed and "likely end" in listed
    shown = " ".join(up.command("batch", "show", batch["id"]).out.split())
    for words in (batch["id"], "waits for its window, 0 of 3 done, 1 rejected", "podcast-voice@1, rnnoise", window):
        assert words in shown, shown
    assert up.command("batch", "show", batch["id"], "--json").json["counts"] == batch["counts"]
    changed = up.command(
        "batch", "change", batch["id"], "--weight", 3, "--deadline", "2031-01-01T08:00+01:00", "--json"
    )
    assert (changed.json["weight"], changed.json["deadline"], changed.json["window"]) == (
        3.0, "2031-01-01T07:00:00Z", batch["window"],
    )  # fmt: skip
    assert up.command("batch", "change", batch["id"], "--deadline", "none", "--json").json["deadline"] is None
    assert "window" in up.command("batch", "change", batch["id"], "--window", "soon", status=3).err
    up.command("batch", "change", batch["id"], status=3)
    assert "paused" in up.command("batch", "pause", batch["id"]).out
    assert "waits for its window" in up.command("batch", "resume", batch["id"]).out
    assert "cancelled, 0 of 3 done, 3 cancelled, 1 rejected" in up.command("batch", "cancel", batch["id"]).out
    assert "0 again" in up.command("batch", "retry-failed", batch["id"]).out
    refused = up.command("batch", "pause", batch["id"], "--json", status=3)
    assert refused.error["code"] == "state_conflict"
    assert up.command("batch", "pause", batch["id"], status=3).err.splitlines()[0].endswith("  [state_conflict]")


def test_a_schedule_ticks_by_the_clock(up: Up, tmp_path: Path) -> None:
    url = _feed(up, tmp_path, "scheduled")
    schedule_id = up.command(
        "schedule", "create", "hourly", "--cron", "*/5 * * * *", "--timezone", "Europe/Madrid", "--rss", url,
        "--preset", "podcast-voice", "--engine", "fast", "--count", 50, "--weight", 2, "--on-error", "skip",
        "--since", "2026-01-01", "--until", "2026-12-31",
        "--deadline-after", "1d9h", "--deliver", "s3://of-the-user/nightly", "--no-cache",
    ).out.strip()  # fmt: skip
    try:
        batch_id = up.command("schedule", "run", schedule_id).out.strip()
        wait_for(lambda: "preparing" not in up.command("batch", "list", "--schedule", schedule_id).out)
        database = Database(f"sqlite:///{up.home}/nightshift.db", pool_size=1)
        with database.write() as tx:
            # As if five minutes were over.
            tx.execute(update(schedules).values(next_at=tx.now(), last_tick=tx.now(-300.0)))
        database.dispose()
        wait_for(lambda: "made" in up.command("schedule", "show", schedule_id).out)
        wait_for(lambda: "preparing" not in up.command("batch", "list", "--schedule", schedule_id).out)
        found = up.command("batch", "list", "--schedule", schedule_id, "--json").json
        assert {one["weight"] for one in found} == {2.0}
        for one in found:
            after = datetime.fromisoformat(one["deadline"]) - datetime.fromisoformat(one["created_at"])
            assert timedelta(hours=32.9) < after <= timedelta(hours=33, seconds=1)
        by_id = {one["id"]: one["counts"]["total"] for one in found}
        assert by_id.pop(batch_id) == 12
        assert set(by_id.values()) <= {0}
        with up.client() as client:
            asked = client.transport.call("GET", f"/v1/schedules/{schedule_id}")["batch"]
        assert (asked["rss"]["since"], asked["rss"]["until"]) == ("2026-01-01", "2026-12-31")
        assert (asked["deliver"]["to"], asked["cache"]) == ("s3://of-the-user/nightly/", False)
        assert "paused" in up.command("schedule", "pause", schedule_id).out
    finally:
        up.command("schedule", "delete", schedule_id)
    assert schedule_id not in up.command("schedule", "list").out
    asked = ("schedule", "create", "n", "--cron", "0 1 * * *", "--timezone", "UTC", "--rss", url)
    assert "9h" in up.command(*asked, "--deadline-after", "soon", status=2).err


def test_many_jobs_by_a_filter(up: Up, tmp_path: Path) -> None:
    file = media.make(tmp_path / "one.wav", 16_000, 1, 1.0)
    for _ in range(2):
        up.command("submit", file, "-p", "speech", "--engine", "fast", "--batch", "by filter", "--wait")
    assert "2 would be" in up.command("bulk", "delete", "--batch", "by filter", "--dry-run").out
    assert "2 done" in up.command("bulk", "delete", "--batch", "by filter", "--state", "succeeded").out
    assert up.command("bulk", "retry", "--batch", "by filter", "--json").json["matched"] == 0
    assert up.command("bulk", "delete", "--json", status=3).error["code"] == "invalid_request"


def test_presets(up: Up) -> None:
    assert "podcast-voice" in up.command("preset", "list").out
    up.command("preset", "put", "draft", "--engine", "fast", "--params", '{"prompts": ["speech"], "quality": "draft"}')
    shown = up.command("preset", "show", "draft", "--json").json
    assert (shown["version"], shown["params"]["quality"]) == (1, "draft")
    up.command("preset", "delete", "draft")
    assert up.command("preset", "show", "draft", "--json", status=3).error["code"] == "not_found"
    up.command("preset", "put", "draft", "--params", "no json", status=2)


def test_what_a_batch_is_called_is_printed_as_it_is(up: Up, tmp_path: Path) -> None:
    """Brackets are no markup: a list that cannot be printed would hide every batch."""
    name = "[/red] [archive] night [bold]"
    media.make(tmp_path / "one.wav", 16_000, 1, 1.0)
    asked = ("--folder", tmp_path, "-p", "speech", "--engine", "fast", "--name", name)
    batch_id = up.command("batch", "start", *asked).out.strip()
    assert name in " ".join(up.command("batch", "list").out.split())
    assert up.command("batch", "watch", batch_id, "--poll", 0.2).status == 0
    described = ("preset", "put", "bracketed", "--description", "x [/red] y", "--params", '{"prompts": ["speech"]}')
    up.command(*described)
    assert "x [/red] y" in up.command("preset", "list").out
    up.command("preset", "delete", "bracketed")


def test_a_recording_that_is_cut_short_is_told_of(up: Up, tmp_path: Path) -> None:
    """It has a result, of what was there; who looks for what went wrong is to find it."""
    (tmp_path / "in").mkdir()
    whole = media.make(tmp_path / "in" / "whole.wav", 16_000, 1, 2.0)
    (tmp_path / "in" / "cut.wav").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "in" / "empty.mp3").touch()
    asked = ("batch", "start", "--folder", tmp_path / "in", "-p", "speech", "--engine", "fast")
    started = up.command(*asked)
    assert f"left out: {tmp_path / 'in' / 'empty.mp3'} has no bytes" in " ".join(started.err.split())
    batch_id = started.out.strip()
    up.command("batch", "watch", batch_id, "--poll", 0.2)
    told = up.command("batch", "errors", batch_id).out
    assert "cut  has a result, but shortfall" in told and "whole" not in told
    with up.client() as client:
        warned = {
            line["title"]: [one["code"] for one in line["warnings"]] for line in Batches(client).get(batch_id).output()
        }
    assert warned == {"whole": [], "cut": ["shortfall"]}


def test_a_feed_with_nothing_to_do_is_refused_as_a_whole(up: Up, tmp_path: Path) -> None:
    """Not episode by episode: none of them could say what is to be separated."""
    url = _feed(up, tmp_path, "aimless")
    for command in (
        ("batch", "plan"), ("batch", "start"), ("schedule", "create", "n", "--cron", "0 1 * * *", "--timezone", "UTC"),
    ):  # fmt: skip
        refused = up.command(*command, "--rss", url, "--json", status=3)
        assert refused.error["code"] == "invalid_request" and refused.error["pointer"].endswith("/params/prompts")
        assert "--preset" in refused.error["hint"]


def test_a_batch_of_nothing_is_no_success(up: Up, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"input": 7}\n')
    assert "invalid_manifest" in up.command("batch", "errors", up.command(
        "batch", "start", "--manifest", manifest, "--preset", "podcast-voice", status=1
    ).out.strip()).out  # fmt: skip
    stopped = up.command(
        "batch", "start", "--manifest", manifest, "--preset", "podcast-voice", "--on-error", "stop", status=1
    )
    assert stopped.out.startswith("bat_")
    manifest.write_text('{"input": "https://media.example/1.mp3"}\n')
    wrong = up.command("batch", "start", "--manifest", manifest, "-p", "speech", "--weight", "inf", status=2)
    assert "infinity" in wrong.err and "Traceback" not in wrong.err
