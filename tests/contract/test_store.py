"""One suite for every store: the local folder, and S3 on a real server that enforces signatures."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import NightshiftError
from common.storage import Store, open_store
from common.storage.local import LocalStore
from common.storage.s3 import S3Store
from tests.servers.s3 import s3_settings

PART = 8 << 20  # the size of a part of a multipart upload
PAGE = 3  # small, so that few objects make several pages


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "files")
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return S3Store.from_settings(s3_settings(server, bucket, tmp_path), page_size=PAGE)


@pytest.fixture
def leftovers(store: Store) -> Callable[[], int]:
    """How many half-written objects the store holds."""
    return lambda: store.sweep(older_than_seconds=-60)  # type: ignore[attr-defined]


class Failing(io.RawIOBase):
    """A stream that gives so many bytes and then breaks."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            raise ConnectionResetError("the caller went away")
        given = min(self._left, size if size > 0 else self._left)
        self._left -= given
        return bytes(given)


class OneWay(io.RawIOBase):
    """A stream without seek and tell, like the body of a request, that gives short reads."""

    def __init__(self, content: bytes) -> None:
        self._source = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._source.read(min(size, 100_000) if size > 0 else -1)


def content(store: Store, key: str) -> bytes:
    with store.open(key) as stream:
        return stream.read()


def keys(store: Store, prefix: str) -> list[str]:
    return [found.key for found in store.list(prefix)]


def test_what_was_put_is_there_with_size_type_and_time(store: Store) -> None:
    put = store.put("jobs/1/1/speech.flac", io.BytesIO(b"fLaC..."), "audio/flac")
    found = store.stat("jobs/1/1/speech.flac")
    assert found == put
    assert (found.key, found.size, found.content_type) == ("jobs/1/1/speech.flac", 7, "audio/flac")
    assert found.modified.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=2)
    assert content(store, "jobs/1/1/speech.flac") == b"fLaC..."


def test_a_file_is_put_by_its_path_and_brought_back(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    source.write_bytes(b"RIFF" * 1000)
    assert store.put("a/in.wav", source, "audio/wav").size == 4000
    store.download("a/in.wav", target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in.wav", "out.wav"]


def test_the_type_is_kept_without_a_suffix_and_changes_with_the_object(store: Store) -> None:
    store.put("uploads/k/u", io.BytesIO(b"1"), 'audio/x-m4a; codecs="mp4a"')
    assert store.stat("uploads/k/u").content_type == 'audio/x-m4a; codecs="mp4a"'
    store.put("uploads/k/u", io.BytesIO(b"2"))
    assert store.stat("uploads/k/u").content_type == "application/octet-stream"


def test_an_empty_object_is_an_object(store: Store, tmp_path: Path) -> None:
    assert store.put("a/empty", io.BytesIO()).size == 0
    assert store.stat("a/empty").size == 0
    assert content(store, "a/empty") == b""
    store.download("a/empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART + 12345])
def test_large_objects_of_one_and_more_parts(store: Store, tmp_path: Path, size: int) -> None:
    blob = random.Random(size).randbytes(size)
    assert store.put("a/large", OneWay(blob)).size == size
    digest = hashlib.sha256()
    with store.open("a/large") as stream:
        while chunk := stream.read(1_000_003):
            digest.update(chunk)
    assert digest.digest() == hashlib.sha256(blob).digest()
    store.download("a/large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == blob


def test_an_open_object_can_be_sought(store: Store) -> None:
    blob = random.Random(1).randbytes(3 << 20)
    store.put("a/b", io.BytesIO(blob))
    with store.open("a/b") as stream:
        assert stream.seek(-10, io.SEEK_END) == len(blob) - 10
        assert stream.read() == blob[-10:]
        assert stream.seek(2_500_000) == 2_500_000
        assert stream.read(1000) == blob[2_500_000:2_501_000]
        assert stream.seek(5, io.SEEK_CUR) == stream.tell() == 2_501_005
        assert stream.read(1) == blob[2_501_005:2_501_006]
        assert stream.seek(len(blob) + 5) == len(blob) + 5
        assert stream.read() == b""
        stream.seek(0)
        assert stream.read() == blob


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    assert store.stat("a/b") is None
    with pytest.raises(NightshiftError) as opened:
        store.open("a/b")
    with pytest.raises(NightshiftError) as downloaded:
        store.download("a/b", tmp_path / "target")
    assert opened.value.code == downloaded.value.code == "input_missing"
    assert not (tmp_path / "target").exists()
    assert keys(store, "") == keys(store, "a/") == []
    store.delete("a/b")
    assert store.delete_prefix("a/") == 0
    store.put("a/c", io.BytesIO(b"x"))
    assert store.stat("a/b") is None
    assert store.stat("a/c/d") is None
    assert store.stat("a") is None


def test_a_put_replaces(store: Store) -> None:
    store.put("a", io.BytesIO(b"first, longer"))
    assert store.put("a", io.BytesIO(b"second")).size == 6
    assert content(store, "a") == b"second"
    assert keys(store, "") == ["a"]


def test_a_copy_is_an_object_of_its_own(store: Store, leftovers: Callable[[], int]) -> None:
    store.put("jobs/1/1/speech.flac", io.BytesIO(b"fLaC..."), "audio/flac")
    copied = store.copy("jobs/1/1/speech.flac", "jobs/2/1/speech.flac")
    assert copied == store.stat("jobs/2/1/speech.flac")
    assert (copied.key, copied.size, copied.content_type) == ("jobs/2/1/speech.flac", 7, "audio/flac")
    store.put("jobs/1/1/speech.flac", io.BytesIO(b"another"), "text/plain")
    assert content(store, "jobs/2/1/speech.flac") == b"fLaC..."
    store.delete_prefix("jobs/1/")
    assert content(store, "jobs/2/1/speech.flac") == b"fLaC..."
    assert store.stat("jobs/2/1/speech.flac").content_type == "audio/flac"
    store.put("jobs/3/1/speech.flac", io.BytesIO(b"before"), "text/plain")
    for _ in range(2):
        store.copy("jobs/2/1/speech.flac", "jobs/3/1/speech.flac")
    store.delete("jobs/2/1/speech.flac")
    assert content(store, "jobs/3/1/speech.flac") == b"fLaC..."
    assert keys(store, "") == ["jobs/3/1/speech.flac"]
    assert leftovers() == 0


def test_a_copy_onto_itself_changes_nothing(store: Store, leftovers: Callable[[], int]) -> None:
    store.put("a/b", io.BytesIO(b"x"), "audio/flac")
    store.copy("a/b", "a/b")
    assert (content(store, "a/b"), store.stat("a/b").content_type) == (b"x", "audio/flac")
    assert leftovers() == 0


def test_what_is_not_there_is_not_copied(store: Store, leftovers: Callable[[], int]) -> None:
    with pytest.raises(NightshiftError) as failed:
        store.copy("a/b", "a/c")
    assert failed.value.code == "input_missing"
    assert keys(store, "") == []
    assert leftovers() == 0


def test_a_large_object_is_copied_in_parts(store: Store) -> None:
    blob = random.Random(5).randbytes(2 * PART + 12345)
    store.put("a/large", io.BytesIO(blob), "audio/flac")
    if isinstance(store, S3Store):
        store._copying.multipart_threshold = store._copying.multipart_chunksize = PART
    assert store.copy("a/large", "b/large").size == len(blob)
    store.delete("a/large")
    assert content(store, "b/large") == blob
    assert store.stat("b/large").content_type == "audio/flac"


def test_a_source_stays_open_and_is_read_from_where_it_stands(store: Store) -> None:
    source = io.BytesIO(b"headbody")
    source.seek(4)
    store.put("a", source)
    assert content(store, "a") == b"body"
    assert not source.closed


@pytest.mark.parametrize("size", [0, 1000, 2 * PART + 1])
def test_a_source_that_fails_leaves_nothing(store: Store, leftovers: Callable[[], int], size: int) -> None:
    with pytest.raises(ConnectionResetError, match="the caller went away"):
        store.put("a/b", Failing(size))
    assert store.stat("a/b") is None
    assert keys(store, "") == []
    assert leftovers() == 0


def test_a_source_that_fails_leaves_the_version_before(store: Store) -> None:
    store.put("a/b", io.BytesIO(b"whole"), "text/plain")
    with pytest.raises(ConnectionResetError):
        store.put("a/b", Failing(PART + 1), "audio/flac")
    assert content(store, "a/b") == b"whole"
    assert store.stat("a/b").content_type == "text/plain"


def test_readers_see_whole_versions_while_writers_race(store: Store) -> None:
    versions = {letter: letter * (150_000 + 1000 * letter[0]) for letter in (b"a", b"b", b"c")}
    store.put("jobs/1/x", io.BytesIO(versions[b"a"]))
    writing = threading.Event()
    writing.set()

    def write(letter: bytes) -> None:
        for _ in range(8):
            store.put("jobs/1/x", io.BytesIO(versions[letter]), f"text/{letter.decode()}")

    def read() -> set[bytes]:
        seen = {content(store, "jobs/1/x")}
        while writing.is_set():
            try:
                seen.add(content(store, "jobs/1/x"))
            except NightshiftError as error:  # changed while it was read: said, never mixed
                assert error.code == "storage_failed"
        return seen

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write, letter) for letter in versions]:
            writer.result()
        writing.clear()
        seen = reader.result()
    assert seen <= set(versions.values())
    last = content(store, "jobs/1/x")
    assert last in versions.values()
    if isinstance(store, LocalStore):
        assert store.stat("jobs/1/x").content_type == f"text/{last[:1].decode()}"


def test_listing_is_by_key_and_goes_on_over_pages(store: Store) -> None:
    names = ["a-b/x", "a.b", "a/b/c", "a/b0", "a/x", "a0", "b", "é", "z/\U0001f3a7", "z/＿"]
    for name in random.Random(3).sample(names, len(names)):
        store.put(name, io.BytesIO(name.encode()))
    assert keys(store, "") == sorted(names) == sorted(names, key=str.encode)
    assert keys(store, "a") == ["a-b/x", "a.b", "a/b/c", "a/b0", "a/x", "a0"]
    assert keys(store, "a/") == ["a/b/c", "a/b0", "a/x"]
    assert keys(store, "a/b") == ["a/b/c", "a/b0"]
    assert keys(store, "a/b/") == ["a/b/c"]
    assert keys(store, "a/x-longer") == keys(store, "nothing/here") == []
    assert [found.size for found in store.list("z/")] == [len(name.encode()) for name in ("z/＿", "z/\U0001f3a7")]


def test_deleting_a_folder_spares_its_neighbours(store: Store) -> None:
    inside = [f"jobs/1/blocks/f/{index:06d}/speech.flac" for index in range(2 * PAGE + 1)]
    outside = ["jobs/10/1/x", "jobs/1-", "jobs/2/x"]
    for key in inside + outside:
        store.put(key, io.BytesIO(b"x"), "audio/flac")
    assert store.delete_prefix("jobs/1/") == len(inside)
    assert keys(store, "") == sorted(outside)
    store.delete("jobs/2/x")
    assert store.stat("jobs/2/x") is None
    store.put("jobs/1", io.BytesIO(b"the folder's name is free again"))
    assert store.stat("jobs/1").size == 31


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", ".", "..", "a\0b", "a\nb", "a\\..\\b", ".types/a",
     "a/.hidden", "x" * 201, "/".join(["x" * 100] * 11), "\ud800"],
)  # fmt: skip
def test_keys_that_no_store_takes(store: Store, key: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for refused in (
        lambda: store.put(key, io.BytesIO(b"x")),
        lambda: store.copy(key, "a"),
        lambda: store.copy("a", key),
        lambda: store.open(key),
        lambda: store.download(key, target),
        lambda: store.stat(key),
        lambda: store.delete(key),
        lambda: store.delete_prefix(f"{key}/"),
    ):
        with pytest.raises(ValueError):
            refused()
    assert not target.exists()
    assert keys(store, "") == []


@pytest.mark.parametrize("prefix", ["", "/", "a", "../", "a/../"])
def test_folders_that_no_store_deletes(store: Store, prefix: str) -> None:
    store.put("a/b", io.BytesIO(b"x"))
    with pytest.raises(ValueError):
        store.delete_prefix(prefix)
    assert keys(store, "") == ["a/b"]


def test_a_usable_store_passes_its_check_and_holds_nothing_after(store: Store) -> None:
    store.check()
    assert keys(store, "") == []


def test_what_dead_writers_left_is_swept_after_a_while(store: Store, tmp_path: Path) -> None:
    store.put("a/b", io.BytesIO(b"x"))
    if isinstance(store, LocalStore):
        (tmp_path / "files" / ".incoming" / ".part-0").write_bytes(b"half")
    else:
        store._client.create_multipart_upload(Bucket=store._bucket, Key="a/c")
    assert store.sweep(older_than_seconds=3600) == 0
    assert store.sweep(older_than_seconds=-60) == 1
    assert store.sweep(older_than_seconds=-60) == 0
    assert keys(store, "") == ["a/b"]


@pytest.fixture(params=["local", "s3"])
def broken_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store whose folder cannot be made, and one whose server is not there."""
    (tmp_path / "file").write_bytes(b"")
    if request.param == "local":
        return LocalStore(tmp_path / "file" / "files")
    from tests.servers.processes import free_port
    from tests.servers.swift import S3Server

    nowhere = S3Server(f"http://127.0.0.1:{free_port()}", "test:tester", "testing")
    return S3Store.from_settings(s3_settings(nowhere, "bucket", tmp_path))


def test_a_store_that_is_away_says_so_and_how_to_mend_it(broken_store: Store) -> None:
    for broken in (lambda: broken_store.put("a", io.BytesIO(b"x")), broken_store.check):
        with pytest.raises(NightshiftError) as failed:
            broken()
        assert failed.value.code == "storage_failed"
        assert failed.value.retryable
        assert failed.value.hint


def test_the_settings_choose_the_store(tmp_path: Path) -> None:
    from common.settings import Settings

    local = open_store(Settings(home=tmp_path, s3_bucket=None))
    assert isinstance(local, LocalStore)
    local.put("a/b", io.BytesIO(b"x"))
    assert (tmp_path / "files" / "a" / "b").read_bytes() == b"x"
    assert local.link("a/b", 60, "b") is None
    assert local.upload_link("a/b", 1, "text/plain", 60) is None
    assert isinstance(open_store(Settings(home=tmp_path, s3_bucket="b", s3_endpoint="http://127.0.0.1:1")), S3Store)
