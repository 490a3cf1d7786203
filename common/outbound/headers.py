"""What an answer's headers say of the file in its body: its name, its type, which version it is. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from common.outbound.encoding import is_identity

MAX_NAME = 200
_MAX_SUFFIX = 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True)
class Fetched:
    """A fetched file. size: bytes on disk.  final_url: after redirects, with its query: not for logs.

    content_type: lower case, without parameters.  filename: as the server or the URL names it, without any folder.
    """

    size: int
    content_type: str | None
    final_url: str
    filename: str | None
    etag: str | None
    last_modified: str | None


def encoding(response: httpx.Response) -> str:
    """Content-Encoding, empty for none."""
    return str(response.headers.get("content-encoding", ""))


def version(response: httpx.Response) -> str | None:
    """What If-Range may carry (RFC 9110, 13.1.5): a strong ETag, or a date a second before the answer's own.

    None where a resumed body might be joined to another version's beginning.
    """
    if not is_identity(encoding(response)) or response.headers.get("accept-ranges", "").lower() == "none":
        return None
    etag: str | None = response.headers.get("etag")
    if etag:
        return None if etag.startswith("W/") else etag
    modified: str = response.headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(response.headers.get("date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError):
        return None
    return modified if age >= timedelta(seconds=1) else None


def content_range(response: httpx.Response) -> tuple[int, int | None] | None:
    """First byte of a partial body, and the bytes of the whole where told; None where the header is no byte range."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else None


def describe(size: int, url: httpx.URL, response: httpx.Response) -> Fetched:
    """The file of `size` bytes that came from `url`."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Fetched(
        size=size,
        content_type=media_type or None,
        final_url=str(url),
        filename=filename(url, response.headers.get("content-disposition")),
        etag=response.headers.get("etag"),
        last_modified=response.headers.get("last-modified"),
    )


def filename(url: httpx.URL, disposition: str | None) -> str | None:
    """The last part of the name in Content-Disposition, else of the URL's path; printable and at most MAX_NAME long."""
    name: str | None = None
    if disposition:
        message = Message()
        message["Content-Disposition"] = disposition
        name = message.get_filename()
    name = re.split(r"[/\\]", name or unquote(url.path))[-1]
    name = "".join(char for char in name if char.isprintable()).strip(" .")
    suffix = PurePosixPath(name).suffix[:_MAX_SUFFIX]
    return (name.removesuffix(suffix)[: MAX_NAME - len(suffix)] + suffix) or None
