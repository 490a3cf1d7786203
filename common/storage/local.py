"""The store in a local folder: an object is a plain file at its key, so that an operator finds results with `ls`.

Beside the objects the folder holds `.types/` (content types), `.incoming/` (files being written) and `.lock`. No key
has a part with a leading dot (`keys.check_key`), so none of these can be reached or listed.

The content type lies in a file of its own, `.types/{key}`: an upload has no suffix to derive it from, the table of
suffixes differs from machine to machine, and extended attributes are not kept by every file system and copy. A lock
keeps the two files of an object in step for writers and readers in any process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from common.errors import NightshiftError
from common.storage.atomic import CHUNK_BYTES, linked, make_folders, save, settle, sync_folder, unfinished
from common.storage.keys import check_folder, check_key, check_prefix
from common.storage.store import PresignedPut, Stat

_DEFAULT_TYPE = "application/octet-stream"
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """A store in a folder, which is made with the first object. Safe for threads and processes of one machine.

    Unlike on S3, a key cannot also be the folder of other keys: ValueError. `common.storage.keys` names none like that.
    """

    def __init__(self, folder: Path) -> None:
        # A folder that is itself a link is the operator's choice; links inside it are refused.
        self._folder = folder.absolute().resolve()
        self._types = self._folder / ".types"
        self._incoming = self._folder / ".incoming"

    def put(self, key: str, source: Path | BinaryIO, content_type: str = _DEFAULT_TYPE) -> Stat:
        check_key(key)
        with ExitStack() as stack:
            stream = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            with self._faults("written"):
                make_folders(self._incoming)
                file, path = stack.enter_context(unfinished(self._incoming))
            # What the source raises is not the store's fault and passes as it is.
            while chunk := stream.read(CHUNK_BYTES):
                with self._faults("written"):
                    file.write(chunk)
            with self._faults("written"):
                settle(file)
                written = os.fstat(file.fileno())
                self._publish(path, key, content_type)
        return Stat(key, written.st_size, content_type, _utc(written.st_mtime))

    def copy(self, source: str, target: str) -> Stat:
        """As the protocol says. Both keys name the same bytes where the disk can: nobody writes into an object."""
        check_key(target)
        with self._faults("written"), ExitStack() as stack:
            make_folders(self._incoming)
            with self._lock(fcntl.LOCK_SH):
                found = _lstat_regular(self._path(source))
                if found is None:
                    raise NightshiftError("input_missing", f"There is no object {source} in the storage.")
                content_type = self._content_type(source)
                path = stack.enter_context(linked(self._path(source), self._incoming))
            if path is not None:
                self._publish(path, target, content_type)
                return Stat(target, found.st_size, content_type, _utc(found.st_mtime))
        with self.open(source) as stream:
            return self.put(target, stream, content_type)

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        with self._faults("read"):
            file = _open_regular(path)
        if file is None:
            raise NightshiftError("input_missing", f"There is no object {key} in the storage.")
        return file

    def download(self, key: str, target: Path) -> None:
        with self.open(key) as source:
            save(source, target)

    def stat(self, key: str) -> Stat | None:
        path = self._path(key)
        with self._faults("read"):
            if _lstat_regular(path) is None:
                return None
            with self._lock(fcntl.LOCK_SH):
                found = _lstat_regular(path)
                content_type = self._content_type(key)
        return Stat(key, found.st_size, content_type, _utc(found.st_mtime)) if found else None

    def list(self, prefix: str) -> Iterator[Stat]:
        """As the protocol says; `content_type` is empty, as in the listings of S3."""
        check_prefix(prefix)
        folder = prefix.rpartition("/")[0]
        self._refuse_links(self._folder / folder)
        with self._faults("read"):
            yield from self._walk(f"{folder}/" if folder else "", prefix)

    def delete(self, key: str) -> None:
        self._delete(key)

    def delete_prefix(self, prefix: str) -> int:
        check_folder(prefix)
        return sum(self._delete(found.key) for found in self.list(prefix))

    def link(self, key: str, seconds: int, filename: str) -> str | None:
        return None

    def upload_link(self, key: str, size: int, content_type: str, seconds: int) -> PresignedPut | None:
        return None

    def check(self) -> None:
        with self._faults("written"):
            make_folders(self._incoming)
            with unfinished(self._incoming) as (file, _):
                file.write(b"check")
                settle(file)

    def sweep(self, older_than_seconds: float) -> int:
        """Removes what writers that died left half-written, if untouched for so long; returns how many files."""
        swept = 0
        with self._faults("written"):
            for path in self._incoming.glob(".part-*"):
                with suppress(FileNotFoundError):
                    # Not when it was last written to: a copy's bytes are as old as what it is a copy of.
                    if time.time() - path.stat().st_ctime >= older_than_seconds:
                        path.unlink()
                        swept += 1
        return swept

    def _path(self, key: str, base: Path | None = None) -> Path:
        path = (base or self._folder) / check_key(key)
        self._refuse_links(path.parent)
        return path

    def _refuse_links(self, folder: Path) -> None:
        if folder.resolve() != folder:
            raise NightshiftError(
                "storage_failed",
                f"A symbolic link stands in the way of {folder.relative_to(self._folder)} in the storage.",
                hint=f"Remove the link inside {self._folder}; only that folder itself may be one.",
                retryable=False,
            )

    def _publish(self, path: Path, key: str, content_type: str) -> None:
        with unfinished(self._incoming) as (typed, typed_path):
            typed.write(content_type.encode("utf-8"))
            settle(typed)
            with self._lock(fcntl.LOCK_EX):
                target, target_type = self._path(key), self._path(key, self._types)
                try:
                    make_folders(target.parent)
                    make_folders(target_type.parent)
                    if target.is_dir():
                        raise IsADirectoryError(key)
                    # The type first: a crash between the two leaves no object without its type.
                    typed_path.replace(target_type)
                    path.replace(target)
                except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                    raise ValueError(f"a key cannot also be the folder of other keys: {key}") from error
                sync_folder(target_type.parent)
                sync_folder(target.parent)

    def _delete(self, key: str) -> bool:
        path, type_path = self._path(key), self._path(key, self._types)
        with self._faults("written"):
            if _lstat_regular(path) is None:
                return False
            with self._lock(fcntl.LOCK_EX):
                try:
                    path.unlink()
                except _NOT_THERE:
                    return False
                with suppress(*_NOT_THERE):
                    type_path.unlink()
                _prune(path.parent, self._folder)
                _prune(type_path.parent, self._types)
        return True

    def _walk(self, folder: str, prefix: str) -> Iterator[Stat]:
        """The objects below `folder` (empty or ending with `/`) that start with `prefix`, by key."""
        try:
            with os.scandir(self._folder / folder) as entries:
                # A folder sorts as its name with `/`: `a-b` comes before `a/x`.
                found = sorted(
                    (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name) for entry in entries
                )
        except _NOT_THERE:
            return
        for name in found:
            key = folder + name
            if name.startswith(".") or not key.startswith(prefix):
                continue
            if name.endswith("/"):
                yield from self._walk(key, prefix)
            elif _is_key(key) and (status := _lstat_regular(self._folder / key)):
                yield Stat(key, status.st_size, "", _utc(status.st_mtime))

    def _content_type(self, key: str) -> str:
        try:
            return self._path(key, self._types).read_text("utf-8")
        except _NOT_THERE:
            return _DEFAULT_TYPE

    @contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _faults(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NightshiftError(
                "storage_failed",
                f"The storage folder could not be {verb}: {os.strerror(error.errno) if error.errno else error}.",
                hint=_mend(error, self._folder),
            ) from error


def _mend(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Free some space on the disk of {folder}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"Let the user of this process write in {folder}, or set NIGHTSHIFT_HOME to a folder where it may."
    return f"See that {folder} is a folder on a disk that is mounted and sound."


def _lstat_regular(path: Path) -> os.stat_result | None:
    try:
        found = path.lstat()
    except _NOT_THERE:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _open_regular(path: Path) -> BinaryIO | None:
    try:
        # Neither follow a link nor wait for the writer of a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except _NOT_THERE:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return os.fdopen(handle, "rb")


def _prune(folder: Path, top: Path) -> None:
    """Removes empty folders from `folder` up, not `top` itself."""
    while folder != top:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        folder = folder.parent


def _is_key(name: str) -> bool:
    try:
        check_key(name)
    except ValueError:
        return False
    return True


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
