"""The protocol of stores: where uploads, blocks and results lie, under keys like `jobs/{id}/{attempt}/speech.flac`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class Stat:
    """What a store knows of an object: bytes, content type, last change (UTC)."""

    key: str
    size: int
    content_type: str
    modified: datetime


@dataclass(frozen=True)
class PresignedPut:
    """An address that takes one PUT of exactly `size` bytes with exactly these headers."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


class Store(Protocol):
    """One contract, several implementations (`tests/contract/test_store.py`).

    Every method raises `storage_failed` (retryable) when the store cannot be reached, and `input_missing` when the key
    is not there, except where said otherwise. Keys are relative POSIX paths without `.` or `..` parts; others raise
    ValueError.
    """

    def put(self, key: str, source: Path | BinaryIO, content_type: str = "application/octet-stream") -> Stat:
        """Stores a file or stream whole or not at all: a reader never sees half an object."""
        ...

    def copy(self, source: str, target: str) -> Stat:
        """Makes another object with the bytes and type of `source`, whole or not at all, and lets the store do it where
        it can; each is then replaced and deleted without the other."""
        ...

    def open(self, key: str) -> BinaryIO:
        """A seekable stream of the object's bytes; the caller closes it."""
        ...

    def download(self, key: str, target: Path) -> None:
        """Brings the object to a local path, which appears whole or not at all."""
        ...

    def stat(self, key: str) -> Stat | None:
        """None where there is no such object."""
        ...

    def list(self, prefix: str) -> Iterator[Stat]:
        """The objects whose keys start with `prefix`, by key; their content type is not told and empty."""
        ...

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Deletes every object below `prefix`, which must end with `/`; returns how many."""
        ...

    def link(self, key: str, seconds: int, filename: str) -> str | None:
        """A link that gives the object for `seconds`, saved as `filename`; None where the API itself must serve it."""
        ...

    def upload_link(self, key: str, size: int, content_type: str, seconds: int) -> PresignedPut | None:
        """An address for a direct upload; None where the upload goes through the API."""
        ...

    def sweep(self, older_than_seconds: float) -> int:
        """Clears what writers left behind that died so long ago, half-written files and unfinished uploads."""
        ...

    def check(self) -> None:
        """Raises `storage_failed`, saying how to mend it, where the store is not usable."""
        ...
