from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import pytest

from common.db.tables import sweeps, uploads
from common.errors import NightshiftError
from common.storage import keys as layout
from tests.api import AUDIO, Api, api, sqlite_api

__all__ = ["api", "sqlite_api"]

SHA = hashlib.sha256(AUDIO).hexdigest()


def stored(api: Api) -> list[str]:
    return [stat.key for stat in api.store.list("uploads/")]


def rows(api: Api) -> int:
    with api.database.read() as tx:
        return len(tx.execute(uploads.select()).all())


def test_a_body_becomes_an_upload(api: Api) -> None:
    response = api.me.post("/v1/uploads?filename=Ep%201.mp3", data=AUDIO, content_type="audio/mpeg")
    assert response.status_code == 201
    upload = response.json
    assert response.headers["Location"] == f"/v1/uploads/{upload['id']}"
    assert (upload["state"], upload["filename"], upload["content_type"]) == ("ready", "Ep 1.mp3", "audio/mpeg")
    assert (upload["size"], upload["sha256"]) == (len(AUDIO), SHA)
    with api.store.open(layout.upload(api.me.key.id, upload["id"])) as file:
        assert file.read() == AUDIO
    assert api.me.get(response.headers["Location"]).json == upload
    assert api.me.get("/v1/uploads").json["items"] == [upload]


def test_a_form_with_one_file_becomes_an_upload(api: Api) -> None:
    content = (AUDIO * 20_000)[:900_000]  # beyond what is kept in memory
    data = {"file": (io.BytesIO(content), "../../etc/Ü.wav", "audio/wav")}
    response = api.me.post("/v1/uploads", data=data, content_type="multipart/form-data")
    assert response.status_code == 201, response.text
    assert response.json["filename"] == "Ü.wav"
    assert response.json["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("files", [{}, {"a": (io.BytesIO(b"1"), "a"), "b": (io.BytesIO(b"2"), "b")}])
def test_a_form_holds_one_file(sqlite_api: Api, files: dict[str, Any]) -> None:
    response = sqlite_api.me.post("/v1/uploads", data={"x": "y", **files}, content_type="multipart/form-data")
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")


def test_a_name_in_content_disposition_is_taken(sqlite_api: Api) -> None:
    headers = {"Content-Disposition": "attachment; filename*=UTF-8''%C3%BCber.flac"}
    response = sqlite_api.me.post("/v1/uploads", data=AUDIO, content_type="audio/flac", headers=headers)
    assert response.json["filename"] == "über.flac"


def test_names_lose_what_is_dangerous(sqlite_api: Api) -> None:
    response = sqlite_api.me.post(
        "/v1/uploads?filename=..%2F..%2F%0d%0aSet-Cookie:x", data=AUDIO, content_type="audio/wav"
    )
    assert response.status_code == 201
    assert not set(response.json["filename"]) & set("/\\\r\n:")


@pytest.mark.parametrize("via", ["body", "announcement", "form"])
def test_an_empty_file_is_refused(sqlite_api: Api, via: str) -> None:
    more: dict[str, Any] = {
        "body": {"content_type": "audio/wav", "environ_overrides": {"CONTENT_LENGTH": "0"}},
        "announcement": {"json": {"size": 0}},
        "form": {"data": {"file": (io.BytesIO(b""), "a.wav")}, "content_type": "multipart/form-data"},
    }[via]
    response = sqlite_api.me.post("/v1/uploads", **more)
    assert (response.status_code, response.json["code"]) == (422, "empty_input")
    assert rows(sqlite_api) == 0


@pytest.mark.parametrize("via", ["body", "announcement", "form"])
def test_a_file_over_the_limit_is_refused(sqlite_api: Api, via: str) -> None:
    much = sqlite_api.settings.max_upload_bytes + 1
    more: dict[str, Any] = {
        "body": {"data": b"x" * much, "content_type": "audio/wav"},
        "announcement": {"json": {"size": much}},
        "form": {"data": {"file": (io.BytesIO(b"x" * much), "a.wav")}, "content_type": "multipart/form-data"},
    }[via]
    response = sqlite_api.me.post("/v1/uploads", **more)
    assert (response.status_code, response.json["code"]) == (413, "too_large")
    assert response.json["limit"] == sqlite_api.settings.max_upload_bytes
    assert rows(sqlite_api) == 0 and stored(sqlite_api) == []


class NoReading(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(("length", "code"), [("1000001", "too_large"), (None, "length_required")])
def test_a_length_that_does_not_do_is_refused_before_reading(sqlite_api: Api, length: str | None, code: str) -> None:
    environ: dict[str, Any] = {"wsgi.input": NoReading(), "wsgi.input_terminated": True}
    if length:
        environ["CONTENT_LENGTH"] = length
    response = sqlite_api.me.post("/v1/uploads", content_type="audio/wav", environ_overrides=environ)
    assert response.json["code"] == code


def test_a_body_that_ends_early_leaves_nothing(sqlite_api: Api) -> None:
    environ = {"wsgi.input": io.BytesIO(AUDIO), "CONTENT_LENGTH": str(len(AUDIO) + 10)}
    response = sqlite_api.me.post("/v1/uploads", content_type="audio/wav", environ_overrides=environ)
    assert response.status_code in (400, 422) and response.json["code"] == "invalid_request"
    assert rows(sqlite_api) == 0 and stored(sqlite_api) == []


DIGESTS = {
    "X-Content-SHA256": (SHA, "0" * 64),
    "Content-Digest": tuple(
        f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:" for digest in (SHA, "0" * 64)
    ),
}


@pytest.mark.parametrize("header", DIGESTS)
def test_a_declared_digest_is_checked(api: Api, header: str) -> None:
    right, wrong = DIGESTS[header]
    sent = {"data": AUDIO, "content_type": "audio/wav"}
    assert api.me.post("/v1/uploads", headers={header: right}, **sent).status_code == 201
    kept = stored(api)
    response = api.me.post("/v1/uploads", headers={header: wrong}, **sent)
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert rows(api) == 1 and stored(api) == kept


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Content-SHA256": "abc"},
        {"Content-Digest": "sha-256=:AAAA:"},
        {"Content-Digest": "sha-256=:AAA:"},
        {"X-Content-SHA256": "0" * 64, "Content-Digest": DIGESTS["Content-Digest"][0]},
    ],
)
def test_a_digest_that_is_none_is_refused(sqlite_api: Api, headers: dict[str, str]) -> None:
    response = sqlite_api.me.post("/v1/uploads", headers=headers, data=AUDIO, content_type="audio/wav")
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")


def test_digests_by_other_algorithms_are_left_alone(sqlite_api: Api) -> None:
    headers = {"Content-Digest": "sha-512=:AAAA:"}
    response = sqlite_api.me.post("/v1/uploads", headers=headers, data=AUDIO, content_type="audio/wav")
    assert response.status_code == 201


@pytest.mark.parametrize("media", ["text/html", "", "multipart/mixed", "nonsense", "audio/" + "x" * 100])
def test_other_content_types_are_refused(sqlite_api: Api, media: str) -> None:
    response = sqlite_api.me.post("/v1/uploads", data=AUDIO, content_type=media or None)
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")


def announce(api: Api, **members: Any) -> dict[str, Any]:
    response = api.me.post("/v1/uploads", json={"filename": "a.wav", "size": len(AUDIO), **members})
    assert response.status_code == 201, response.text
    return response.json


def test_an_announced_upload_is_sent_to_the_address_given(api: Api) -> None:
    upload = announce(api, content_type="audio/wav", sha256=SHA)
    target = upload["upload"]
    assert upload["state"] == "pending" and target["method"] == "PUT" and target["authorization"]
    assert api.me.post(f"/v1/uploads/{upload['id']}/complete").json["code"] == "upload_incomplete"
    path = target["url"].removeprefix("http://localhost")
    sent = api.me.put(path, data=AUDIO, headers=target["headers"])
    assert (sent.status_code, sent.json["state"], sent.json["sha256"]) == (200, "ready", SHA)
    assert api.me.post(f"/v1/uploads/{upload['id']}/complete").json == sent.json
    again = api.me.put(path, data=AUDIO, headers=target["headers"])
    assert (again.status_code, again.json["code"]) == (409, "state_conflict")


def test_an_announced_upload_can_be_sent_again_after_a_failure(api: Api) -> None:
    upload = announce(api, sha256=SHA)
    path = f"/v1/uploads/{upload['id']}/content"
    wrong = bytes(len(AUDIO))
    assert api.me.put(path, data=wrong, content_type="audio/wav").json["code"] == "invalid_request"
    assert api.me.put(path, data=AUDIO[:-1], content_type="audio/wav").json["code"] == "invalid_request"
    assert stored(api) == [] and api.me.get(f"/v1/uploads/{upload['id']}").json["state"] == "pending"
    assert api.me.put(path, data=AUDIO, content_type="audio/wav").json["state"] == "ready"


def test_a_digest_other_than_the_announced_one_is_refused(sqlite_api: Api) -> None:
    upload = announce(sqlite_api, sha256=SHA)
    response = sqlite_api.me.put(
        f"/v1/uploads/{upload['id']}/content", data=AUDIO, headers={"X-Content-SHA256": "0" * 64}
    )
    assert response.json["code"] == "invalid_request"


def test_deleting_takes_the_bytes_along(api: Api) -> None:
    upload_id = api.me.upload()
    assert api.me.delete(f"/v1/uploads/{upload_id}").status_code == 204
    assert api.me.get(f"/v1/uploads/{upload_id}").status_code == 404
    with api.database.read() as tx:
        assert [row.prefix for row in tx.execute(sweeps.select())] == [layout.upload(api.me.key.id, upload_id)]


def test_a_store_that_fails_leaves_no_upload(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise NightshiftError("storage_failed", "No space left.")

    monkeypatch.setattr(sqlite_api.store, "put", full)
    response = sqlite_api.me.post("/v1/uploads", data=AUDIO, content_type="audio/wav")
    assert (response.status_code, response.json["code"]) == (503, "storage_failed")
    assert response.json["retryable"] and response.headers["Retry-After"]
    assert rows(sqlite_api) == 0


def test_pages_hold_every_upload_once(api: Api) -> None:
    ids = [api.me.upload(filename=f"{i}.wav") for i in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = api.me.get(f"/v1/uploads?limit=2&cursor={cursor}" if cursor else "/v1/uploads?limit=2").json
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == sorted(ids, reverse=True)
