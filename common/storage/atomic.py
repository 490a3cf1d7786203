"""Files that appear whole or not at all, and stay after a power cut."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20

# Another owner's file, too many names, another disk, or a disk without links.
_NO_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP})


def sync_folder(folder: Path) -> None:
    """Makes renames inside the folder durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folders(folder: Path) -> None:
    """Like `mkdir -p`, and durable: each folder that was made is entered in its parent on disk. Raises OSError."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_folder(made.parent)


@contextmanager
def unfinished(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in `folder` to write, and its path; gone at the end unless it was renamed. Raises OSError."""
    path = folder / f".part-{uuid.uuid4().hex}"
    # Not mkstemp: its files are for their owner alone, whatever the umask says.
    with path.open("xb") as file:
        try:
            yield file, path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


@contextmanager
def linked(source: Path, folder: Path) -> Iterator[Path | None]:
    """Another name in `folder` for the file `source`, gone at the end unless it was renamed; None where the disk gives
    a file no second one. Raises OSError."""
    path = folder / f".part-{uuid.uuid4().hex}"
    given = True
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        given = False
    try:
        yield path if given else None
    finally:
        # Renaming one name of a file to another leaves both.
        path.unlink(missing_ok=True)


def settle(file: BinaryIO) -> None:
    """Brings what was written to disk. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def save(source: BinaryIO, target: Path) -> None:
    """Copies a stream to a path in an existing folder. Raises OSError, and what reading the stream raises."""
    with unfinished(target.parent) as (file, path):
        shutil.copyfileobj(source, file, CHUNK_BYTES)
        settle(file)
        path.replace(target)
    sync_folder(target.parent)
