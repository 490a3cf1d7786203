"""Bodies that came compressed although `identity` was asked, decoded in pieces of bounded size."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

# However much a piece of a decompression bomb unfolds to, no more than this is held before the caller counts it.
PIECE_BYTES = 1 << 20

# Detects the headers of gzip and of zlib, which HTTP calls deflate.
_EITHER = zlib.MAX_WBITS | 32
_GZIP_FIRST = b"\x1f"


class UnknownEncoding(Exception):
    """A Content-Encoding that is not read here; its name is the message."""


class Corrupt(Exception):
    """The bytes are not what Content-Encoding says, or end too early."""


def decoded(chunks: Iterable[bytes], content_encoding: str) -> Iterator[bytes]:
    """The body behind `chunks` in pieces of at most PIECE_BYTES. Raises UnknownEncoding at once, Corrupt on the way."""
    names = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return iter(chunks)
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise UnknownEncoding(", ".join(names))
    return _inflated(chunks)


def is_identity(content_encoding: str) -> bool:
    return all(part.strip() in ("", "identity") for part in content_encoding.lower().split(","))


def _inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_EITHER)
    begun = False
    try:
        for chunk in chunks:
            rest, full = chunk, False
            while rest or full:
                if inflater.eof:
                    if not rest.startswith(_GZIP_FIRST):
                        return  # the end, or padding behind the last member
                    inflater = zlib.decompressobj(_EITHER)
                piece = inflater.decompress(rest, PIECE_BYTES)
                begun, full = True, len(piece) == PIECE_BYTES
                if piece:
                    yield piece
                rest = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    except zlib.error as error:
        raise Corrupt(str(error)) from error
    if begun and not inflater.eof:
        raise Corrupt("the compressed body ends too early")
