"""Reading an object over connections that break, against a server whose answers are scripted."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from common.errors import NightshiftError
from common.storage.s3 import S3Store
from tests.servers.receiver import Answer, Receiver
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server

BLOB = bytes(range(256)) * 16


@pytest.fixture
def store(receiver: Receiver, tmp_path: Path) -> S3Store:
    server = S3Server(receiver.url("").rstrip("/"), "any", "any")
    return S3Store.from_settings(s3_settings(server, "bucket", tmp_path))


def piece(start: int, stop: int, *, status: int = 206) -> Answer:
    """An answer that promises all from `start` on and ends at `stop`."""
    headers = {"ETag": '"v1"', "Content-Type": "audio/flac"}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"
    return Answer(status, BLOB[start:stop], headers, declare=len(BLOB) - start)


def test_reading_goes_on_where_the_connection_was_cut(store: S3Store, receiver: Receiver) -> None:
    receiver.script(piece(0, 1000, status=200), piece(1000, 1500), piece(1500, len(BLOB)), path="/bucket/a")
    with store.open("a") as stream:
        assert stream.read() == BLOB
    assert [request.headers.get("range") for request in receiver.requests] == [None, "bytes=1000-", "bytes=1500-"]
    assert [request.headers.get("if-match") for request in receiver.requests] == [None, '"v1"', '"v1"']


def test_a_seek_reads_from_there(store: S3Store, receiver: Receiver) -> None:
    receiver.script(piece(0, len(BLOB), status=200), piece(4000, len(BLOB)), path="/bucket/a")
    with store.open("a") as stream:
        stream.seek(-96, io.SEEK_END)
        assert stream.read() == BLOB[4000:]
        with pytest.raises(ValueError):
            stream.seek(-1)
    assert [request.headers.get("range") for request in receiver.requests] == [None, "bytes=4000-"]


def test_an_object_that_changed_is_not_mixed(store: S3Store, receiver: Receiver, tmp_path: Path) -> None:
    changed = Answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
    receiver.script(piece(0, 1000, status=200), changed, path="/bucket/a")
    with pytest.raises(NightshiftError, match="changed or deleted") as failed:
        store.download("a", tmp_path / "target")
    assert (failed.value.code, failed.value.retryable) == ("storage_failed", True)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_ignores_ranges_is_not_believed(store: S3Store, receiver: Receiver) -> None:
    receiver.script(piece(0, 1000, status=200), Answer(200, BLOB, {"ETag": '"v1"'}), path="/bucket/a")
    with store.open("a") as stream, pytest.raises(NightshiftError, match="another range"):
        stream.read()


def test_a_server_that_always_cuts_is_given_up(store: S3Store, receiver: Receiver) -> None:
    receiver.script(piece(0, 1000, status=200), path="/bucket/a")
    receiver.serve("/bucket/a", piece(1000, 1000))
    with store.open("a") as stream, pytest.raises(NightshiftError) as failed:
        stream.read()
    assert (failed.value.code, failed.value.retryable) == ("storage_failed", True)
    assert len(receiver.requests) <= 5


def test_a_closed_stream_cannot_be_read(store: S3Store, receiver: Receiver) -> None:
    receiver.serve("/bucket/a", piece(0, len(BLOB), status=200))
    stream = store.open("a")
    stream.close()
    with pytest.raises(ValueError):
        stream.read()
