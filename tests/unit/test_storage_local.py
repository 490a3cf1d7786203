from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import NightshiftError
from common.storage.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "files")


def visible(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(".l"))


def test_an_object_is_a_plain_file_and_follows_the_umask(store: LocalStore, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store.put("jobs/1/1/speech.txt", io.BytesIO(b"hello"), "text/plain")
    finally:
        os.umask(before)
    path = tmp_path / "files/jobs/1/1/speech.txt"
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o640


def test_deleting_the_last_object_of_a_folder_removes_the_folder(store: LocalStore, tmp_path: Path) -> None:
    for key in ("jobs/1/a/x", "jobs/1/b/c/y", "jobs/2/z"):
        store.put(key, io.BytesIO(b"x"))
    store.delete_prefix("jobs/1/")
    assert visible(tmp_path / "files") == [
        ".incoming", ".types", ".types/jobs", ".types/jobs/2", ".types/jobs/2/z", "jobs", "jobs/2", "jobs/2/z",
    ]  # fmt: skip
    store.delete("jobs/2/z")
    assert visible(tmp_path / "files") == [".incoming", ".types"]


def test_a_reader_keeps_its_version(store: LocalStore) -> None:
    store.put("a", io.BytesIO(b"first"))
    with store.open("a") as stream:
        store.put("a", io.BytesIO(b"second"))
        store.delete("a")
        assert stream.read() == b"first"


def test_a_link_inside_is_not_followed(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("in/real", io.BytesIO(b"x"))
    (tmp_path / "files/in/file").symlink_to(outside / "secret")
    (tmp_path / "files/in/here").symlink_to(tmp_path / "files/in/real")
    (tmp_path / "files/folder").symlink_to(outside)
    assert [found.key for found in store.list("")] == ["in/real"]
    for key in ("in/file", "in/here"):
        assert store.stat(key) is None
        with pytest.raises(NightshiftError, match="input_missing"):
            store.open(key)
    for refused in (
        lambda: store.open("folder/secret"),
        lambda: store.stat("folder/secret"),
        lambda: store.put("folder/new", io.BytesIO(b"x")),
        lambda: store.delete("folder/secret"),
        lambda: list(store.list("folder/")),
    ):
        with pytest.raises(NightshiftError, match="symbolic link") as failed:
            refused()
        assert (failed.value.code, failed.value.retryable) == ("storage_failed", False)
    store.put("in/file", io.BytesIO(b"mine"))  # takes the place of the link, does not write through it
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert store.stat("in/file").size == 4


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "files").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "files")
    store.put("a/b", io.BytesIO(b"x"))
    assert [found.key for found in store.list("")] == ["a/b"]
    assert (tmp_path / "disk/a/b").read_bytes() == b"x"


def test_what_is_no_object_is_not_taken_for_one(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b", io.BytesIO(b"x"))
    os.mkfifo(tmp_path / "files/a/pipe")
    (tmp_path / "files/a/.DS_Store").write_bytes(b"")
    (tmp_path / "files/a/empty").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "files/a") + b"/\xff")).write_bytes(b"")
    assert [found.key for found in store.list("")] == ["a/b"]
    assert store.stat("a/pipe") is None
    assert store.stat("a") is None
    with pytest.raises(NightshiftError, match="input_missing"):
        store.open("a/pipe")
    with pytest.raises(NightshiftError, match="input_missing"):
        store.open("a")


def test_a_copied_file_without_a_type_is_an_object(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "files/a").mkdir(parents=True)
    (tmp_path / "files/a/b").write_bytes(b"xyz")
    found = store.stat("a/b")
    assert (found.size, found.content_type) == (3, "application/octet-stream")


def test_an_object_cannot_also_be_a_folder(store: LocalStore) -> None:
    store.put("a/b", io.BytesIO(b"x"))
    for key in ("a", "a/b/c"):
        with pytest.raises(ValueError, match="folder of other keys"):
            store.put(key, io.BytesIO(b"y"))
    assert [found.key for found in store.list("")] == ["a/b"]
    assert store.sweep(-60) == 0


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "NIGHTSHIFT_HOME"), (errno.EIO, "mounted")]
)
def test_a_failing_disk_is_told_with_its_mend(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    store.put("a", io.BytesIO(b"whole"))

    def fails(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        for broken in (lambda: store.put("a", io.BytesIO(b"new")), store.check):
            with pytest.raises(NightshiftError) as failed:
                broken()
            assert (failed.value.code, failed.value.retryable) == ("storage_failed", True)
            assert hint in failed.value.hint
            assert os.strerror(number) in failed.value.detail
    with store.open("a") as stream:
        assert stream.read() == b"whole"
    assert store.sweep(-60) == 0


def test_a_writer_killed_halfway_leaves_the_version_before(store: LocalStore, tmp_path: Path) -> None:
    store.put("a", io.BytesIO(b"whole"))
    program = """
import sys, pathlib
from common.storage.local import LocalStore
class Endless:
    def read(self, size):
        print("reading", flush=True)
        return bytes(size)
LocalStore(pathlib.Path(sys.argv[1])).put("a", Endless())
"""
    argv = [sys.executable, "-c", program, str(tmp_path / "files")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as writer:
        for _ in range(5):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    with store.open("a") as stream:
        assert stream.read() == b"whole"
    assert [found.key for found in store.list("")] == ["a"]
    assert store.sweep(older_than_seconds=3600) == 0
    assert store.sweep(older_than_seconds=-60) == 1


def test_a_copy_takes_no_room_on_the_disk(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b", io.BytesIO(b"speech"), "audio/flac")
    store.copy("a/b", "c/d")
    assert (tmp_path / "files/a/b").samefile(tmp_path / "files/c/d")


@pytest.mark.parametrize("fault", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_disk_that_gives_no_second_name_gets_a_second_file(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(fault, os.strerror(fault))

    store.put("a/b", io.BytesIO(b"speech"), "audio/flac")
    monkeypatch.setattr(os, "link", refuse)
    copied = store.copy("a/b", "c/d")
    assert (copied.size, copied.content_type) == (6, "audio/flac")
    assert not (tmp_path / "files/a/b").samefile(tmp_path / "files/c/d")
    assert (tmp_path / "files/c/d").read_bytes() == b"speech"


def test_a_full_disk_is_told_also_when_it_copies(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put("a/b", io.BytesIO(b"speech"))
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(NightshiftError) as failed:
        store.copy("a/b", "c/d")
    assert failed.value.code == "storage_failed" and "Free some space" in failed.value.hint


def test_an_unfinished_copy_of_an_old_file_is_not_swept(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b", io.BytesIO(b"speech"))
    os.utime(tmp_path / "files/a/b", (0, 0))
    os.link(tmp_path / "files/a/b", tmp_path / "files/.incoming/.part-0")
    assert store.sweep(older_than_seconds=3600) == 0
    assert store.sweep(older_than_seconds=-60) == 1


def test_processes_and_threads_take_turns(store: LocalStore, tmp_path: Path) -> None:
    """Deleting prunes folders under the feet of writers in another process; no put may fail for it."""
    program = """
import io, sys, pathlib
from common.storage.local import LocalStore
store = LocalStore(pathlib.Path(sys.argv[1]))
for turn in range(60):
    store.put("jobs/1/deep/er/x", io.BytesIO(b"x"), "text/plain")
    store.delete("jobs/1/deep/er/x")
"""
    argv = [sys.executable, "-c", program, str(tmp_path / "files")]
    writers = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        found = store.stat("jobs/1/deep/er/x")
        assert found is None or (found.size, found.content_type) == (1, "text/plain")
        time.sleep(0.001)
    assert [writer.communicate()[1] for writer in writers] == ["", "", ""]
    assert list(store.list("")) == []


KEYS = st.lists(st.sampled_from(["a", "b", "a-", "0", "é", "x.flac"]), min_size=1, max_size=3).map("/".join)
TYPES = st.sampled_from(["application/octet-stream", "audio/flac", "text/plain; charset=utf-8"])


class StoreEqualsDictionary(RuleBasedStateMachine):
    """Whatever is done to it, the store holds what a dictionary would."""

    def __init__(self) -> None:
        super().__init__()
        # Thousands of syncs: in memory where the machine has a folder there.
        memory = "/dev/shm"
        self._folder = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
        self.store = LocalStore(Path(self._folder.name) / "files")
        self.model: dict[str, tuple[bytes, str]] = {}

    def teardown(self) -> None:
        self._folder.cleanup()

    def _in_the_way(self, key: str) -> bool:
        return any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in self.model)

    @rule(key=KEYS, content=st.binary(max_size=20), content_type=TYPES)
    def put(self, key: str, content: bytes, content_type: str) -> None:
        if self._in_the_way(key):
            with pytest.raises(ValueError):
                self.store.put(key, io.BytesIO(content), content_type)
        else:
            self.store.put(key, io.BytesIO(content), content_type)
            self.model[key] = (content, content_type)

    @rule(key=KEYS)
    def put_that_fails(self, key: str) -> None:
        class Broken(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                raise KeyError("source")

        with pytest.raises(KeyError):
            self.store.put(key, Broken())

    @rule(key=KEYS, other=KEYS)
    def copy(self, key: str, other: str) -> None:
        if key not in self.model:
            with pytest.raises(NightshiftError, match="input_missing"):
                self.store.copy(key, other)
        elif self._in_the_way(other):
            with pytest.raises(ValueError):
                self.store.copy(key, other)
        else:
            self.store.copy(key, other)
            self.model[other] = self.model[key]

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=KEYS)
    def delete_prefix(self, key: str) -> None:
        below = [other for other in self.model if other.startswith(f"{key}/")]
        assert self.store.delete_prefix(f"{key}/") == len(below)
        for other in below:
            del self.model[other]

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        found = self.store.stat(key)
        if key in self.model:
            content, content_type = self.model[key]
            assert (found.size, found.content_type) == (len(content), content_type)
            with self.store.open(key) as stream:
                assert stream.read() == content
        else:
            assert found is None
            with pytest.raises(NightshiftError, match="input_missing"):
                self.store.open(key)

    @rule(prefix=st.one_of(st.just(""), KEYS, KEYS.map("{}/".format)))
    def list(self, prefix: str) -> None:
        listed = [(found.key, found.size) for found in self.store.list(prefix)]
        assert listed == sorted((key, len(held[0])) for key, held in self.model.items() if key.startswith(prefix))

    @invariant()
    def no_file_too_many(self) -> None:
        root = Path(self._folder.name) / "files"
        files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {".lock"}
        assert files == set(self.model) | {f".types/{key}" for key in self.model}


TestStoreEqualsDictionary = StoreEqualsDictionary.TestCase
TestStoreEqualsDictionary.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
