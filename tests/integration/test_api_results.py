from __future__ import annotations

import time
from pathlib import Path

import pytest
from itsdangerous import TimestampSigner

from common.db.engine import Database
from common.settings import Settings
from common.states import State
from tests import jobs
from tests.api import Api, api, sqlite_api

__all__ = ["api", "sqlite_api"]

SPEECH = b"speech" * 1000


def links(api: Api) -> dict[str, str]:
    job = api.succeeded(api.me)
    response = api.me.get(f"/v1/jobs/{job.id}/results")
    assert response.status_code == 200
    return {output["name"]: output["url"].removeprefix("http://localhost") for output in response.json["outputs"]}


def test_links_give_the_files_without_a_key(api: Api) -> None:
    job = api.succeeded(api.me)
    results = api.me.get(f"/v1/jobs/{job.id}/results").json
    assert results["warnings"][0]["code"] == "shortfall" and results["engine"]["name"] == "rnnoise"
    assert all("key" not in output and output["expires_at"] for output in results["outputs"])
    speech = results["outputs"][0]
    response = api.stranger().get(speech["url"].removeprefix("http://localhost"))
    assert (response.status_code, response.data, response.mimetype) == (200, SPEECH, "audio/flac")
    assert int(response.headers["Content-Length"]) == speech["bytes"] == len(SPEECH)
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith("attachment;") and "%C3%A9pisode%201-speech.flac" in disposition
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("state", [state for state in State if state is not State.SUCCEEDED])
def test_only_success_has_results(sqlite_api: Api, state: State) -> None:
    job = jobs.brought(sqlite_api.database, sqlite_api.me.key.id, state)
    response = sqlite_api.me.get(f"/v1/jobs/{job.id}/results")
    assert (response.status_code, response.json["code"], response.json["state"]) == (409, "state_conflict", state)


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-5", 206, SPEECH[:6]),
        ("bytes=5990-", 206, SPEECH[5990:]),
        ("bytes=-7", 206, SPEECH[-7:]),
        ("bytes=100-100", 206, SPEECH[100:101]),
        ("bytes=0-999999", 206, SPEECH),
        ("lines=1-2", 200, SPEECH),
        ("bytes=x", 200, SPEECH),
        ("bytes=6000-", 416, None),
    ],
)
def test_ranges(sqlite_api: Api, asked: str, status: int, expected: bytes | None) -> None:
    response = sqlite_api.stranger().get(links(sqlite_api)["speech"], headers={"Range": asked})
    assert response.status_code == status, response.data[:200]
    if expected is None:
        assert response.json["code"] == "range_not_satisfiable"
        return
    assert response.data == expected and response.headers["Accept-Ranges"] == "bytes"
    if status == 206:
        start = SPEECH.find(expected) if len(expected) > 10 else int(asked.split("=")[1].split("-")[0] or 5993)
        assert response.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/6000"


def test_what_the_caller_has_is_not_sent_again(sqlite_api: Api) -> None:
    link = links(sqlite_api)["speech"]
    first = sqlite_api.stranger().get(link)
    again = sqlite_api.stranger().get(link, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    head = sqlite_api.stranger().request("HEAD", link)
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "6000")


@pytest.mark.parametrize(("age", "status"), [(90, 200), (102, 403)])
def test_a_link_expires(
    tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, age: int, status: int
) -> None:
    api = Api(Settings(home=tmp_path, link_seconds=100), sqlite_database)
    with monkeypatch.context() as past:
        past.setattr(TimestampSigner, "get_timestamp", lambda _signer: int(time.time()) - age)
        link = links(api)["speech"]
    response = api.stranger().get(link)
    assert response.status_code == status
    assert status == 200 or response.json["code"] == "link_expired"


def test_a_link_that_was_changed_gives_nothing(sqlite_api: Api) -> None:
    token = links(sqlite_api)["speech"].rsplit("/", 1)[1]
    payload, stamp, signature = token.rsplit(".", 2)
    for forged in (
        "x", "a.b.c", token[:-1], f"{payload}.{stamp}.{'A' * len(signature)}", f"{payload[:-2]}AA.{stamp}.{signature}",
        token + "A", "." * 100, "%00",
    ):  # fmt: skip
        response = sqlite_api.stranger().get(f"/v1/files/{forged}")
        assert response.status_code in (403, 404), forged
        assert response.json["code"] in ("link_expired", "not_found")


def test_a_cursor_is_no_link(sqlite_api: Api) -> None:
    for _ in range(2):
        sqlite_api.me.upload()
    cursor = sqlite_api.me.get("/v1/uploads?limit=1").json["next"]
    assert sqlite_api.stranger().get(f"/v1/files/{cursor}").json["code"] == "link_expired"


def test_a_link_signed_with_another_secret_gives_nothing(tmp_path: Path, sqlite_database: Database) -> None:
    one = Api(Settings(home=tmp_path / "a", secret_key="a" * 40), sqlite_database)
    other = Api(Settings(home=tmp_path / "a", secret_key="b" * 40), sqlite_database)
    assert other.stranger().get(links(one)["speech"]).json["code"] == "link_expired"


def test_a_file_that_was_swept_is_not_found(sqlite_api: Api) -> None:
    link = links(sqlite_api)["speech"]
    sqlite_api.store.delete_prefix("jobs/" + next(sqlite_api.store.list("jobs/")).key.split("/")[1] + "/")
    assert sqlite_api.stranger().get(link).json["code"] == "not_found"


def test_links_name_the_public_address(tmp_path: Path, sqlite_database: Database) -> None:
    api = Api(Settings(home=tmp_path, public_url="https://stems.example/base/"), sqlite_database)
    job = api.succeeded(api.me)
    output = api.me.get(f"/v1/jobs/{job.id}/results").json["outputs"][0]
    assert output["url"].startswith("https://stems.example/base/v1/files/")
