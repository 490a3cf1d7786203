"""Every command of `nightshift` against a running service: what it prints, what it does, how it exits."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

import nightshift
from nightshift.cli import exits
from tests import media
from tests.command import Command
from tests.e2e.conftest import Up
from tests.house import wait_for
from tests.servers.processes import free_port
from tests.servers.receiver import Answer


def submit(up: Up, source: object, *options: object, engine: str = "fast") -> str:
    return str(up.command("submit", source, "-p", "speech", "--engine", engine, *options).out.strip())


def job(up: Up, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = up.command("job", job_id, "--json").json
    return found


@pytest.fixture(scope="module")
def finished(up: Up, episode: Path) -> str:
    return submit(up, episode, "--wait", "--no-cache", "--batch", "finished", "--metadata", "title=An episode")


# --- Work -------------------------------------------------------------------------------------------------------------


def test_submit_a_file_wait_and_save_the_results(up: Up, episode: Path, tmp_path: Path) -> None:
    done = up.shell("submit", episode, "--prompt", "speech", "--download", tmp_path, "--json", "--metadata", "show=one")
    body = done.json
    assert (body["state"], body["engine"], body["metadata"]) == ("succeeded", "rnnoise", {"show": "one"})
    for name in ("speech", "residual"):
        assert soundfile.info(tmp_path / f"{name}.flac").frames == soundfile.info(episode).frames
    digests = {output["filename"]: output["sha256"] for output in body["outputs"]}
    assert {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in body["files"]} == digests
    assert not done.err, "with --json nothing but JSON is printed"


def test_submit_without_waiting_prints_the_id_alone(up: Up, episode: Path) -> None:
    done = up.shell("submit", episode, "-p", "speech", "--engine", "fast")
    assert re.fullmatch(r"job_[0-9A-Z]{26}\n", done.out)
    assert up.command("watch", done.out.strip()).status == 0


def test_submit_an_address_an_upload_and_an_output(up: Up, episode: Path) -> None:
    up.receiver.serve("/shows/night.wav", Answer(body=episode.read_bytes()))
    by_address = submit(up, up.receiver.url("/shows/night.wav"), "--wait")
    with up.client() as client:
        upload = client.upload(episode)
    by_upload = submit(up, upload, "--wait")
    by_output = submit(up, by_upload, "--output", "residual", "--wait")
    assert job(up, by_address)["input"] == {"url": up.receiver.url("/shows/night.wav")}
    assert job(up, by_upload)["input"] == {"upload": upload}
    assert job(up, by_output)["input"] == {"job": by_upload, "output": "residual"}


def test_the_same_again_says_where_it_was_taken_from(up: Up, tmp_path: Path) -> None:
    file = media.make(tmp_path / "again.wav", 16_000, 1, 1.25)
    first = submit(up, file, "--wait")
    asked = ("submit", file, "-p", "speech", "--engine", "fast", "--wait")
    again = up.command(*asked)
    line = f"{first}, computed on {job(up, first)['finished_at'][:10]}"
    assert f"taken from {line}" in again.err
    second = again.out.strip()
    assert second != first and line in up.command("job", second).out
    body = job(up, second)
    assert (body["reason"], body["cached_from"]["job"], body["metrics"]["cached"]) == ("taken_from_cache", first, True)
    assert up.command("results", second, "--json").json["cached_from"] == body["cached_from"]
    anew = up.command(*asked, "--no-cache")
    assert "taken from" not in anew.err and job(up, anew.out.strip())["cached_from"] is None


def test_the_same_idempotency_key_makes_one_job(up: Up, episode: Path) -> None:
    with up.client() as client:
        upload = client.upload(episode)
    assert submit(up, upload, "--idempotency-key", "once") == submit(up, upload, "--idempotency-key", "once")
    refused = up.command(
        "submit", upload, "-p", "speech", "--idempotency-key", "once", "--seed", 1, "--json", status=exits.REFUSED
    )
    assert refused.error["code"] == "idempotency_mismatch"


def test_cancel_retry_and_delete(up: Up, long: Path) -> None:
    slow = submit(up, long, engine="slow")
    wait_for(lambda: job(up, slow)["state"] == "running")
    assert re.match(rf"{slow} (running \(stopping\)|cancelled)\n", up.command("cancel", slow).out)
    assert up.command("watch", slow, "--json", status=exits.JOB_ENDED).error["code"] == "cancelled"
    assert up.command("retry", slow, "--json").json[0]["reason"] == "resubmitted"
    assert up.command("delete", slow, "--json", status=exits.REFUSED).error["code"] == "state_conflict"
    up.command("cancel", slow)
    wait_for(lambda: job(up, slow)["state"] == "cancelled")
    assert up.command("delete", slow, "--json").json == {"deleted": [slow]}
    assert up.command("job", slow, "--json", status=exits.REFUSED).error["code"] == "not_found"


def test_a_job_that_fails_is_told_with_its_reason(up: Up, episode: Path) -> None:
    done = up.command("submit", episode, "-p", "speech", "--engine", "refuses", "--wait", status=exits.JOB_ENDED)
    assert "corrupt_media: Nothing decodes. Send another file." in done.err
    failed = done.err.split()[0]
    shown = up.command("job", failed, "--log").out
    assert "failed (error)" in shown and "Nothing decodes." in shown and "Send another file." in shown
    assert up.command("watch", failed, "--json", status=exits.JOB_ENDED).error["code"] == "corrupt_media"
    assert up.command("results", failed, "--json", status=exits.REFUSED).error["code"] == "state_conflict"


# --- Looking ----------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_filtered(up: Up, finished: str, episode: Path) -> None:
    newer = submit(up, episode, "--wait")
    listed = [body["id"] for body in up.command("jobs", "--limit", 500, "--json").json]
    assert listed.index(newer) < listed.index(finished)
    assert listed == sorted(listed, reverse=True)
    assert [body["id"] for body in up.command("jobs", "--batch", "finished", "--json").json] == [finished]
    assert len(up.command("jobs", "--limit", 1, "--json").json) == 1
    assert finished in up.command("jobs", "--state", "succeeded", "--engine", "fast", "--batch", "finished").out
    assert up.command("jobs", "--state", "expired", "--json").json == []


def test_a_job_and_its_log(up: Up, finished: str) -> None:
    body = up.command("job", finished, "--log", "--json").json
    assert (body["id"], body["state"], body["metadata"]) == (finished, "succeeded", {"title": "An episode"})
    told = [event["data"]["state"] for event in body["events"] if event["type"] == "state"]
    assert told == ["waiting", "queued", "running", "succeeded"]
    shown = up.command("job", finished, "--log").out
    assert f"{finished}  succeeded (done)\n" in shown
    assert "speech.flac" in shown and "running (claimed) by cpu0@" in shown


def test_results_are_listed_with_links_and_saved(up: Up, finished: str, tmp_path: Path) -> None:
    found = up.command("results", finished, "--json").json
    assert {output["name"] for output in found["outputs"]} >= {"speech", "residual", "waveform.png"}
    for output in found["outputs"]:
        listed = up.command("results", finished, "--only", output["name"]).out
        assert listed.startswith(f"{output['name']} ") and listed.count("http") == 1
        assert hashlib.sha256(httpx.get(listed.split()[-1]).content).hexdigest() == output["sha256"]
    paths = up.command("results", finished, "--download", tmp_path, "--only", "speech", "--json").json
    assert [Path(path).name for path in paths] == ["speech.flac"]
    kept = (tmp_path / "speech.flac").stat().st_mtime_ns
    up.command("results", finished, "--download", tmp_path, "--only", "speech")
    assert (tmp_path / "speech.flac").stat().st_mtime_ns == kept, "what is there already is not fetched again"
    (tmp_path / "speech.flac").write_text("something of mine")
    refused = up.command("results", finished, "--download", tmp_path, "--json", status=exits.USAGE)
    assert "is another file" in refused.error["message"]
    up.command("results", finished, "--download", tmp_path, "--force")
    assert soundfile.info(tmp_path / "speech.flac").frames
    absent = up.command("results", finished, "--download", tmp_path, "--only", "music", status=exits.USAGE)
    assert "has no output music" in absent.err


def test_watch_tells_json_line_by_line(up: Up, long: Path) -> None:
    slow = submit(up, long, engine="slow")
    done = up.command("watch", slow, "--timeout", 1.5, "--json", status=exits.TIMED_OUT)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert {line["id"] for line in lines} == {slow}
    assert done.error["code"] == "timed_out"
    up.command("cancel", slow)


def test_engines_queues_workers(up: Up, finished: str) -> None:
    engines = {engine["name"]: engine for engine in up.command("engines", "--json").json}
    assert engines["rnnoise"]["ready"] and engines["rnnoise"]["default"]
    assert not engines["absent"]["ready"] and "no_such_package" in engines["absent"]["missing"]
    assert "rnnoise" in up.command("engines").out
    lanes = {lane["lane"]: lane for lane in up.command("queues", "--json").json["lanes"]}
    assert lanes["cpu"]["workers"] == 1
    assert "waiting" in up.command("queues").out
    (worker,) = up.command("workers", "--json").json
    assert worker["alive"] and worker["name"].startswith("cpu0@")
    assert worker["name"] in up.command("workers").out


def test_keys_are_made_listed_and_revoked(up: Up, episode: Path) -> None:
    made = up.command("key", "create", "radio", "--scope", "read", "--max-waiting", 5, "--json").json
    assert (made["name"], made["scopes"], made["max_waiting"]) == ("radio", ["read"], 5)
    reader = {"api_key": made["token"]}
    assert up.command("jobs", "--json", **reader).json == []
    refused = up.command("submit", episode, "-p", "speech", "--json", status=exits.REFUSED, **reader)
    assert refused.error["code"] == "forbidden"
    assert made["id"] in up.command("key", "list").out
    assert made["token"] not in up.command("key", "list", "--json").out
    assert up.command("key", "revoke", made["id"], "--json").json == {"revoked": made["id"]}
    listed = {key["id"]: key for key in up.command("key", "list", "--json").json}
    assert listed[made["id"]]["revoked_at"]
    wrong = up.shell("jobs", "--json", status=exits.REFUSED, **reader)
    assert wrong.error["code"] == "unauthenticated"
    assert "Bearer" in up.command("jobs", status=exits.REFUSED, **reader).err


def test_quotas_are_given_changed_shown_and_told_of_at_once(up: Up, episode: Path) -> None:
    made = up.command("key", "create", "small", "--max-audio-hours", 2, "--max-gb", "0.5", "--json").json
    assert (made["max_audio_hours_per_day"], made["max_bytes"]) == (2, 500_000_000)
    own = {"api_key": made["token"]}
    used = up.command("key", "usage", **own).out
    assert "500.0 MB" in used and "2 h" in used
    changed = up.command("key", "update", made["id"], "--max-audio-hours", "default", "--max-gb", 0, "--json").json
    assert (changed["max_audio_hours_per_day"], changed["max_bytes"]) == (None, 0)
    assert up.command("key", "usage", "--json", **own).json["usage"]["max_bytes"] == 0
    began = time.monotonic()
    refused = up.command("submit", episode, "-p", "speech", "--json", status=exits.REFUSED, **own)
    assert refused.error["code"] == "quota_exceeded"
    assert time.monotonic() - began < 5, "no waiting helps"
    assert "default" in up.command("key", "update", made["id"], "--max-gb", "default").out
    up.command("key", "update", made["id"], "--max-gb", "plenty", status=exits.USAGE)


def test_a_token_goes_to_standard_output_alone(up: Up) -> None:
    made = up.command("key", "create", "for a pipe")
    assert re.fullmatch(r"ns_\S+\n", made.out)
    local = up.command("key", "create", "the first one", "--local", "--scope", "admin")
    assert up.command("key", "list", "--json", api_key=local.out.strip()).json


# --- When it is not right ---------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(up: Up) -> None:
    done = up.command("submit", "absent.wav", "-p", "speech", status=exits.USAGE)
    assert "absent.wav" in done.err and "Traceback" not in done.err
    assert up.command("submit", ".", "-p", "speech", "--json", status=exits.USAGE).error["code"] == "usage"


def test_what_the_service_refuses(up: Up, episode: Path) -> None:
    unknown = up.command("submit", episode, "-p", "speech", "--engine", "nothing", "--json", status=exits.REFUSED)
    assert unknown.error["code"] == "unknown_engine" and "rnnoise" in unknown.error["hint"]
    drums = up.command("submit", episode, "-p", "drums", "--engine", "rnnoise", status=exits.REFUSED)
    assert "/params/prompts/0/description" in drums.err
    assert up.command("job", "job_none", "--json", status=exits.REFUSED).error["code"] == "not_found"
    assert up.command("submit", episode, status=exits.USAGE).err.count("--prompt") >= 1


def test_a_service_that_is_down(tmp_path: Path) -> None:
    down = Command(tmp_path, inside=True, url=f"http://127.0.0.1:{free_port()}", api_key="ns_x", home=tmp_path)
    done = down("jobs", status=exits.UNREACHABLE)
    assert "does not answer" in done.err and "nightshift up" in done.err
    assert down("jobs", "--json", status=exits.UNREACHABLE).error["code"] == "unreachable"
    nowhere = Command(tmp_path, inside=True, home=tmp_path)
    assert "nightshift up" in nowhere("jobs", status=exits.USAGE).err


def test_a_port_that_is_taken_is_not_taken_for_ones_own(up: Up, tmp_path: Path) -> None:
    """Whoever answers there is another instance; and nothing is left behind for commands that look for this one."""
    port = up.url.rpartition(":")[2]
    other = Command(tmp_path, inside=True, home=tmp_path / "other")
    taken = other("up", "--port", port, status=exits.USAGE)
    assert f"port {port} of 127.0.0.1 cannot be had" in taken.err and "is up" not in taken.err
    assert not (tmp_path / "other").exists()
    assert "65535" in other("up", "--port", 99999, status=exits.USAGE).err


def test_doctor(up: Up, tmp_path: Path) -> None:
    findings = up.command("doctor", "--json").json
    assert {f["part"] for f in findings if f["level"] == "ok"} >= {
        "database", "broker", "storage", "scheduler", "deliverer", "worker", "engine", "api",
    }  # fmt: skip
    assert not [f for f in findings if f["level"] == "problem"]
    assert "rnnoise" in up.command("doctor").out
    ill = Command(
        tmp_path, inside=True, home=tmp_path / "new", database_url="postgresql://nobody@127.0.0.1:1/none",
        broker_url="redis://127.0.0.1:1/0", url="http://127.0.0.1:1", api_key="ns_x",
    )  # fmt: skip
    found = {f["part"]: f for f in ill("doctor", "--json", status=exits.JOB_ENDED).json}
    assert [found[part]["level"] for part in ("database", "broker", "storage", "api")] == [
        "problem", "problem", "ok", "problem",
    ]  # fmt: skip
    assert "NIGHTSHIFT_DATABASE_URL" in found["database"]["mend"]
    fresh = Command(tmp_path, inside=True, home=tmp_path / "fresh")
    assert "nightshift migrate" in fresh("doctor", status=exits.JOB_ENDED).out
    early = fresh("key", "create", "--local", "first", status=exits.UNREACHABLE)
    assert "no such table" in early.err and "nightshift doctor" in early.err
    assert fresh("migrate").status == 0
    assert fresh("key", "create", "--local", "first").out.startswith("ns_")
    database = next(f for f in fresh("doctor", "--json", status=exits.JOB_ENDED).json if f["part"] == "database")
    assert database["level"] == "ok"


def test_help_says_what_each_command_does(up: Up) -> None:
    shown = up.command("--help").out
    commands = shown.partition("Commands:")[2].partition("Exit status")[0]
    for command in re.findall(r"^  (\w+) ", commands, re.MULTILINE):
        said = up.command(command, "--help").out
        assert "Usage: nightshift " + command in said
    assert "Exit status: 0 done" in shown
    assert "..." not in commands, "every summary fits its line"


# --- The Python client ------------------------------------------------------------------------------------------------


def test_the_example_of_the_package(up: Up, episode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of its docstring, run as they stand, on a file of that name."""
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "API_KEY"):
        monkeypatch.delenv(f"NIGHTSHIFT_{name}", raising=False)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(up.home))
    (tmp_path / "episode.mp3").write_bytes(episode.read_bytes())
    lines = [line for line in (nightshift.__doc__ or "").splitlines() if line.startswith(("from ", "Client"))]
    exec("\n".join(lines), {})
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"speech.flac", "residual.flac", "waveform.png"}


def test_the_client_lists_waits_and_raises(up: Up, episode: Path, long: Path) -> None:
    with up.client() as client:
        made = client.separate(episode, ["speech"], engine="fast", batch="client", idempotency_key="client-1")
        told: list[str] = []
        assert made.wait(60, lambda seen: told.append(seen.state)).state == "succeeded"
        assert told[-1] == "succeeded"
        assert [seen.id for seen in client.jobs(batch="client", page=1)] == [made.id]
        again = client.separate(
            made.body["input"]["upload"], ["speech"], engine="fast", batch="client", idempotency_key="client-1"
        )
        assert again.id == made.id
        slow = client.separate(long, [{"description": "speech", "name": "host"}], engine="slow")
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="is still"):
            slow.wait(0.5)
        assert time.monotonic() - started < 30
        slow.cancel()
        with pytest.raises(nightshift.JobEnded) as ended:
            slow.wait(60)
        assert (ended.value.state, ended.value.error) == ("cancelled", None)
        with pytest.raises(nightshift.ApiError) as refused:
            client.job("job_none")
        assert (refused.value.code, refused.value.status) == ("not_found", 404)
