"""What only S3 gives, on a server that enforces signatures: links, uploads by link, buckets and refusals."""

from __future__ import annotations

import io
import time
import uuid
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx
import pytest
from pydantic import SecretStr

from common.errors import NightshiftError
from common.storage.s3 import S3Store
from tests.servers.moto import MotoServer
from tests.servers.receiver import Answer, Receiver
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def store(s3_server: S3Server, bucket: str, tmp_path: Path) -> S3Store:
    return S3Store.from_settings(s3_settings(s3_server, bucket, tmp_path))


def with_query(url: str, **changes: str) -> str:
    """The link with some of its parameters changed and none signed anew."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()} | changes
    return urlunsplit(parts._replace(query=str(httpx.QueryParams(query))))


def failure(broken: object) -> NightshiftError:
    with pytest.raises(NightshiftError) as failed:
        broken()  # type: ignore[operator]
    return failed.value


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("speech.flac", 'attachment; filename="speech.flac"'),
        ("Überblick.flac", "attachment; filename=\"Uberblick.flac\"; filename*=UTF-8''%C3%9Cberblick.flac"),
        ("播客 1.flac", "attachment; filename=\"1.flac\"; filename*=UTF-8''%E6%92%AD%E5%AE%A2%201.flac"),
        ('a"\r\nX-Evil: 1.flac', 'attachment; filename="a X-Evil 1.flac"'),
    ],
)
def test_a_link_gives_the_object_under_its_name(store: S3Store, filename: str, header: str) -> None:
    store.put("jobs/1/1/speech.flac", io.BytesIO(b"0123456789"), "audio/flac")
    link = store.link("jobs/1/1/speech.flac", 60, filename)
    answer = httpx.get(link)
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["Content-Type"] == "audio/flac"
    assert answer.headers["Content-Disposition"] == header
    assert "X-Evil" not in answer.headers


def test_a_link_gives_ranges(store: S3Store) -> None:
    store.put("a", io.BytesIO(b"0123456789"))
    answer = httpx.get(store.link("a", 60, "a"), headers={"Range": "bytes=2-5"})
    assert (answer.status_code, answer.content) == (206, b"2345")
    assert answer.headers["Content-Range"] == "bytes 2-5/10"


def test_a_link_to_a_key_with_odd_letters(store: S3Store) -> None:
    key = "jobs/1/1/a+b & 100% ü?#=.flac"
    store.put(key, io.BytesIO(b"odd"))
    assert httpx.get(store.link(key, 60, "x")).content == b"odd"


def test_a_link_to_nothing_gives_nothing(store: S3Store) -> None:
    assert httpx.get(store.link("not/there", 60, "x")).status_code == 404


def test_a_link_ends(store: S3Store) -> None:
    store.put("a", io.BytesIO(b"x"))
    link = store.link("a", 1, "a")
    time.sleep(2.1)
    assert httpx.get(link).status_code == 403
    assert httpx.get(with_query(link, **{"X-Amz-Expires": "3600"})).status_code == 403


def test_a_changed_link_is_refused(store: S3Store) -> None:
    store.put("mine/a", io.BytesIO(b"mine"))
    store.put("theirs/a", io.BytesIO(b"theirs"))
    link = store.link("mine/a", 60, "a.flac")
    assert httpx.get(link).status_code == 200
    assert httpx.get(link.replace("/mine/", "/theirs/")).status_code == 403
    assert httpx.get(with_query(link, **{"response-content-disposition": "inline"})).status_code == 403
    assert httpx.get(with_query(link, **{"X-Amz-Expires": "86400"})).status_code == 403
    assert httpx.put(link, content=b"over").status_code == 403
    assert httpx.delete(link).status_code == 403
    unsigned = httpx.get(link.partition("?")[0])
    assert unsigned.is_client_error
    assert unsigned.content != b"mine"


def test_a_link_signed_with_another_secret_is_refused(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    settings = s3_settings(s3_server, bucket, tmp_path)
    S3Store.from_settings(settings).put("a", io.BytesIO(b"x"))
    forger = S3Store.from_settings(settings.model_copy(update={"s3_secret_key": SecretStr("wrong")}))
    assert httpx.get(forger.link("a", 60, "a")).status_code == 403


def test_links_name_the_address_that_callers_reach(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    public = s3_server.endpoint.replace("127.0.0.1", "localhost")
    store = S3Store.from_settings(s3_settings(s3_server, bucket, tmp_path, s3_public_endpoint=public))
    store.put("a", io.BytesIO(b"x"))
    link, put = store.link("a", 60, "a"), store.upload_link("b", 1, "text/plain", 60)
    assert link.startswith(f"{public}/{bucket}/a?")
    assert put.url.startswith(f"{public}/{bucket}/b?")
    assert httpx.get(link).content == b"x"
    assert httpx.put(put.url, content=b"y", headers=put.headers).status_code == 200


def test_a_link_lives_at_most_seven_days(store: S3Store) -> None:
    store.put("a", io.BytesIO(b"x"))
    assert httpx.get(store.link("a", 10**9, "a")).status_code == 200


def test_an_upload_by_link(store: S3Store) -> None:
    put = store.upload_link("uploads/k/u", 10, "audio/flac", 60)
    assert put.headers == {"Content-Type": "audio/flac", "Content-Length": "10"}
    assert httpx.put(put.url, content=b"0123456789", headers=put.headers).status_code == 200
    found = store.stat("uploads/k/u")
    assert (found.size, found.content_type) == (10, "audio/flac")


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (b"0123456789+", {"Content-Length": "11"}),
        (b"012345678", {"Content-Length": "9"}),
        (b"", {"Content-Length": "0"}),
        (b"0123456789", {"Content-Type": "text/html"}),
    ],
)
def test_an_upload_of_another_length_or_type_is_refused(store: S3Store, body: bytes, changes: dict[str, str]) -> None:
    put = store.upload_link("uploads/k/u", 10, "audio/flac", 60)
    assert httpx.put(put.url, content=body, headers=put.headers | changes).status_code == 403
    assert store.stat("uploads/k/u") is None


def test_an_upload_link_is_for_one_key_and_a_while(store: S3Store) -> None:
    put = store.upload_link("uploads/k/u", 1, "text/plain", 1)
    elsewhere = put.url.replace("/uploads/k/u", "/uploads/k/v")
    assert httpx.put(elsewhere, content=b"x", headers=put.headers).status_code == 403
    time.sleep(2.1)
    assert httpx.put(put.url, content=b"x", headers=put.headers).status_code == 403
    assert list(store.list("")) == []


def test_a_wrong_secret_is_told(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    store = S3Store.from_settings(s3_settings(s3_server, bucket, tmp_path, s3_secret_key=SecretStr("wrong")))
    for broken in (
        store.check,
        store.ensure_bucket,
        lambda: store.put("a", io.BytesIO(b"x")),
        lambda: store.open("a"),
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
    ):
        error = failure(broken)
        assert (error.code, error.retryable) == ("storage_failed", True)
        assert "NIGHTSHIFT_S3_SECRET_KEY" in error.hint
        assert "wrong" not in f"{error} {error.detail} {error.hint}"


def test_a_missing_bucket_is_no_missing_input(s3_server: S3Server, tmp_path: Path) -> None:
    name = f"test-{uuid.uuid4().hex[:20]}"
    store = S3Store.from_settings(s3_settings(s3_server, name, tmp_path))
    for broken in (
        store.check,
        lambda: store.put("a", io.BytesIO(b"x")),
        lambda: store.put("a", io.BytesIO(bytes(9 << 20))),
        lambda: store.open("a"),
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.delete_prefix("a/"),
    ):
        error = failure(broken)
        assert error.code == "storage_failed"
        assert name in error.hint
    store.ensure_bucket()
    store.ensure_bucket()
    store.check()
    assert store.stat("a") is None
    assert list(store.list("")) == []


def test_an_outage_ends_and_the_store_goes_on(moto_s3: MotoServer, tmp_path: Path) -> None:
    store = S3Store.from_settings(s3_settings(moto_s3.server, "outage", tmp_path))
    store.ensure_bucket()
    store.put("a", io.BytesIO(b"before"))
    moto_s3.stop()
    for broken in (
        store.check,
        store.ensure_bucket,
        lambda: store.put("b", io.BytesIO(b"x")),
        lambda: store.open("a"),
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
        lambda: store.delete_prefix("a/"),
    ):
        error = failure(broken)
        assert (error.code, error.retryable) == ("storage_failed", True)
        assert moto_s3.server.endpoint in error.hint
    moto_s3.start()
    with store.open("a") as stream:
        assert stream.read() == b"before"


def as_server(receiver: Receiver) -> S3Server:
    return S3Server(receiver.url("").rstrip("/"), "any", "any")


LISTING = b"""<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a/b</Key><Size>1</Size>
<LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"""
REFUSAL = b"<DeleteResult><Error><Key>a/b</Key><Code>AccessDenied</Code></Error></DeleteResult>"


def test_deleting_in_bulk_sends_the_digest_old_servers_need_and_believes_no_half_success(
    receiver: Receiver, tmp_path: Path
) -> None:
    store = S3Store.from_settings(s3_settings(as_server(receiver), "bucket", tmp_path))
    receiver.script(Answer(body=LISTING), Answer(body=REFUSAL), path="/bucket")
    error = failure(lambda: store.delete_prefix("a/"))
    assert error.code == "storage_failed"
    assert "a/b" in error.detail
    assert "AccessDenied" in error.detail
    assert receiver.requests[-1].headers["content-md5"]


def test_an_overloaded_server_is_asked_three_times(receiver: Receiver, tmp_path: Path) -> None:
    store = S3Store.from_settings(s3_settings(as_server(receiver), "bucket", tmp_path))
    receiver.serve("/bucket/a", Answer(503, body=b"<Error><Code>SlowDown</Code></Error>"))
    error = failure(lambda: store.open("a"))
    assert (error.code, error.retryable) == ("storage_failed", True)
    assert len(receiver.requests) == 3


def test_no_checksum_trailer_is_sent(receiver: Receiver, tmp_path: Path) -> None:
    store = S3Store.from_settings(s3_settings(as_server(receiver), "bucket", tmp_path))
    receiver.serve("/bucket/a", Answer(headers={"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": '"1"'}))
    store.put("a", io.BytesIO(b"body"))
    put = receiver.requests[0]
    assert put.method == "PUT"
    assert put.body == b"body"
    assert not [name for name in put.headers if "checksum" in name or "trailer" in name]
