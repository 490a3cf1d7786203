"""The API before a real S3 server: bytes go there and come from there by presigned addresses."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import httpx
import pytest

from common.db.engine import Database
from common.storage import open_store
from tests.api import AUDIO, Api
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server


@pytest.fixture
def s3_api(s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_database: Database) -> Api:
    settings = s3_settings(s3_server, bucket, tmp_path, max_upload_bytes=50_000_000)
    return Api(settings, sqlite_database, open_store(settings))


def test_an_announced_upload_goes_to_the_store(s3_api: Api) -> None:
    announced = {"filename": "a.wav", "size": len(AUDIO), "content_type": "audio/wav"}
    upload = s3_api.me.post("/v1/uploads", json=announced).json
    target = upload["upload"]
    assert not target["authorization"] and target["expires_at"]
    assert s3_api.me.submit(input={"upload": upload["id"]}).json["code"] == "upload_incomplete"
    with httpx.Client() as anybody:
        assert (
            anybody.put(target["url"], content=AUDIO + b"more", headers={"Content-Type": "audio/wav"}).status_code
            == 403
        )
        sent = anybody.put(target["url"], content=AUDIO, headers=target["headers"])
    assert sent.status_code == 200, sent.text
    assert s3_api.me.submit(input={"upload": upload["id"]}).status_code == 202
    assert s3_api.me.get(f"/v1/uploads/{upload['id']}").json["state"] == "ready"


def test_a_body_is_streamed_to_the_store(s3_api: Api) -> None:
    content = bytes(range(256)) * 80_000  # 20 MB: several parts
    upload = s3_api.me.post("/v1/uploads", data=content, content_type="audio/wav").json
    assert upload["sha256"] == hashlib.sha256(content).hexdigest()
    with s3_api.store.open(f"uploads/{s3_api.me.key.id}/{upload['id']}") as stored:
        assert hashlib.sha256(stored.read()).hexdigest() == upload["sha256"]


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_of_a_wrong_digest_nothing_is_kept(s3_api: Api, size: int) -> None:
    headers = {"X-Content-SHA256": "0" * 64}
    response = s3_api.me.post("/v1/uploads", data=b"x" * size, content_type="audio/wav", headers=headers)
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert list(s3_api.store.list("uploads/")) == []
    assert s3_api.me.get("/v1/uploads").json["items"] == []


def test_a_body_that_ends_early_leaves_nothing(s3_api: Api) -> None:
    environ = {"wsgi.input": io.BytesIO(b"x" * 1000), "CONTENT_LENGTH": "2000"}
    response = s3_api.me.post("/v1/uploads", content_type="audio/wav", environ_overrides=environ)
    assert response.json["code"] == "invalid_request"
    assert list(s3_api.store.list("uploads/")) == []


def test_links_lead_to_the_store(s3_api: Api) -> None:
    job = s3_api.succeeded(s3_api.me)
    results = s3_api.me.get(f"/v1/jobs/{job.id}/results").json
    output = results["outputs"][0]
    assert "/v1/files/" not in output["url"]
    with httpx.Client() as anybody:
        got = anybody.get(output["url"], headers={"Range": "bytes=0-5"})
        assert (got.status_code, got.content) == (206, b"speech")
        assert "-speech.flac" in got.headers["Content-Disposition"]
        assert anybody.get(output["url"].replace("speech.flac", "waveform.png")).status_code == 403


def test_the_page_may_show_what_lies_there(s3_api: Api) -> None:
    policy = s3_api.app.test_client().get("/").headers["Content-Security-Policy"]
    assert f"media-src 'self' {s3_api.settings.s3_endpoint};" in policy


def test_ready_looks_at_the_store(s3_api: Api, s3_server: S3Server, tmp_path: Path, sqlite_database: Database) -> None:
    assert s3_api.stranger().get("/readyz").status_code == 200
    settings = s3_settings(s3_server, "no-such-bucket", tmp_path)
    response = Api(settings, sqlite_database, open_store(settings)).stranger().get("/readyz")
    assert response.status_code == 503 and not response.json["checks"]["storage"]["ok"]
