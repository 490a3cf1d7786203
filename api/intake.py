"""A body on its way to the store: counted and hashed while it passes, refused before it is whole."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from typing import IO

from common.errors import NightshiftError

_SHA256_ITEM = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):\s*(?:$|,)", re.IGNORECASE)


class Intake(io.RawIOBase):
    """Reads `size` bytes of `source`. A store that reads to the end gets an error instead of the end where the body is
    short or its digest differs, so that it keeps nothing.

    expected: SHA-256 of the whole, hex; None where none was declared.
    """

    def __init__(self, source: IO[bytes], size: int, expected: str | None) -> None:
        self._source, self.size, self._expected = source, size, expected
        self._hash = hashlib.sha256()
        self._seen = 0

    @property
    def sha256(self) -> str:
        """Of what has passed so far, hex."""
        return self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        left = self.size - self._seen
        data = self._source.read(left if count < 0 else min(count, left)) if left else b""
        self._hash.update(data)
        self._seen += len(data)
        if not data and count != 0:
            self.verify()
        return data

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def verify(self) -> None:
        """Raises `invalid_request` where the bytes are not those that were declared."""
        if self._seen != self.size:
            raise NightshiftError("invalid_request", f"The body ended after {self._seen} of {self.size} bytes.")
        if self._expected is not None and self.sha256 != self._expected:
            raise NightshiftError(
                "invalid_request",
                "The bytes that arrived do not have the digest that was declared.",
                hint="Send the file again.",
                extra={"sha256": self.sha256},
            )


def declared_digest(content_digest: str | None, content_sha256: str | None) -> str | None:
    """SHA-256 from the two headers that may declare it, hex. Other algorithms are left alone, as RFC 9530 wants.

    Raises `invalid_request` where they cannot be read or differ from each other.
    """
    declared = {content_sha256.lower()} if content_sha256 else set()
    if content_digest and (item := _SHA256_ITEM.search(content_digest)):
        try:
            raw = base64.b64decode(item[1], validate=True)
        except binascii.Error as error:
            raise NightshiftError("invalid_request", "Content-Digest cannot be read.") from error
        declared.add(raw.hex())
    if len(declared) > 1 or any(len(digest) != 64 for digest in declared):
        raise NightshiftError("invalid_request", "The declared SHA-256 digests are not one digest.")
    return declared.pop() if declared else None
