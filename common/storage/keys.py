"""Pure: how objects are named. The layout of the store, the rule of valid keys, and names for downloads.

    jobs/{job}/{attempt}/{filename}                              what one attempt published
    jobs/{job}/blocks/{fingerprint}/{index:06d}/{stem}.{ext}     finished blocks; any attempt may go on after them
    uploads/{api key}/{upload}                                   what a caller sent
    batches/{batch}/{filename}                                   the items of a batch, as they are taken in
    voices/{api key}/{voice}/{attempt}/{filename}                a voice's audio, as one attempt at it prepared it

A folder belongs to one job or one API key, so that deleting or listing it can reach nobody else's files.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

MAX_KEY_BYTES = 1024  # S3's limit
MAX_PART_BYTES = 200  # file systems allow 255; a temporary name needs some of it

_ATTR_CHARS = "!#$&+-.^_`|~"  # RFC 5987: what filename* may hold as it is, beside letters and digits
_RESERVED_NAMES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


def check_key(key: str) -> str:
    """The key itself, if every store can hold it: relative, `/` between parts, no part empty or with a leading dot.

    A leading dot is refused in any part: it covers `.` and `..`, and keeps the names the local store needs for itself.
    Raises ValueError.
    """
    try:
        encoded = key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a key must be valid Unicode: {key!r}") from error
    if len(encoded) > MAX_KEY_BYTES:
        raise ValueError(f"a key has at most {MAX_KEY_BYTES} bytes, this one {len(encoded)}")
    if "\\" in key or any(unicodedata.category(char) == "Cc" for char in key):
        raise ValueError(f"a key holds no backslash and no control character: {key!r}")
    for part in key.split("/"):
        if not part or part.startswith("."):
            raise ValueError(f"no part of a key is empty or starts with a dot: {key!r}")
        if len(part.encode("utf-8")) > MAX_PART_BYTES:
            raise ValueError(f"a part of a key has at most {MAX_PART_BYTES} bytes: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself: empty, or a valid key, with or without a `/` at its end. Raises ValueError."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def check_folder(prefix: str) -> str:
    """The prefix itself, if it names a folder: a valid key and a `/`. Raises ValueError, also for the whole store."""
    if not prefix.endswith("/"):
        raise ValueError(f"a folder ends with '/': {prefix!r}")
    check_key(prefix[:-1])
    return prefix


def job_folder(job_id: str) -> str:
    """Everything of a job, blocks and every attempt's files; ends with `/`."""
    return f"jobs/{_part(job_id)}/"


def attempt_folder(job_id: str, attempt: int) -> str:
    """What one attempt of a job stored; ends with `/`. attempt: from 1."""
    if attempt < 1:
        raise ValueError(f"attempts count from 1, not {attempt}")
    return f"{job_folder(job_id)}{attempt}/"


def artifact(job_id: str, attempt: int, filename: str) -> str:
    """The key of one file that an attempt stored."""
    return check_key(attempt_folder(job_id, attempt) + _part(filename))


def blocks_folder(job_id: str, fingerprint: str | None = None) -> str:
    """The finished blocks of a job: all, or those made from one input, request and engine (`fingerprint`)."""
    folder = f"{job_folder(job_id)}blocks/"
    return folder if fingerprint is None else f"{folder}{_part(fingerprint)}/"


def block(job_id: str, fingerprint: str, index: int, stem: str, extension: str) -> str:
    """The key of one stem of block `index` (from 0). Six digits, so that listing gives the blocks in their order."""
    if not 0 <= index <= 999_999:
        raise ValueError(f"a block's index lies in 0..999999, not {index}")
    return check_key(f"{blocks_folder(job_id, fingerprint)}{index:06d}/{_part(f'{stem}.{extension}')}")


def batch_folder(batch_id: str) -> str:
    """Everything of a batch but its jobs; ends with `/`."""
    return f"batches/{_part(batch_id)}/"


def manifest(batch_id: str) -> str:
    """The key of a batch's items, one JSON object a line."""
    return f"{batch_folder(batch_id)}manifest.jsonl"


def upload(key_id: str, upload_id: str) -> str:
    """The key of what a caller uploaded; its content type is the caller's word, so it has no extension."""
    return f"uploads/{_part(key_id)}/{_part(upload_id)}"


def voice_folder(key_id: str, voice_id: str, attempt: int | None = None) -> str:
    """The audio of a voice, of every attempt at preparing it or of one; ends with `/`."""
    folder = f"voices/{_part(key_id)}/{_part(voice_id)}/"
    return folder if attempt is None else f"{folder}{attempt}/"


def _part(name: str) -> str:
    if "/" in name:
        raise ValueError(f"not one part of a key: {name!r}")
    return check_key(name)


def download_name(name: str, fallback: str = "download") -> str:
    """A file name that is safe to save anywhere, as close to `name` as can be; non-ASCII letters stay.

    Folders, control and format characters (which can turn `gpj.exe` around), and what Windows forbids are taken out;
    at most 150 bytes, the extension kept.
    """
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(" " if char in "\t\r\n" else char for char in name)
    name = "".join(char for char in name if unicodedata.category(char)[0] != "C" and char not in '<>:"|?*')
    name = " ".join(name.split()).rstrip(". ")
    stem, dot, extension = name.rpartition(".")
    if not (dot and len(extension) <= 10 and extension.isalnum()):
        stem, extension = name, ""
    tail = f".{extension}" if extension else ""
    stem = stem.strip(". ")
    if _RESERVED_NAMES.match(stem):
        stem = f"_{stem}"
    stem = stem.encode("utf-8")[: 150 - len(tail.encode("utf-8"))].decode("utf-8", "ignore").rstrip(". ")
    return f"{stem}{tail}" if stem else f"{fallback}{tail}"


def content_disposition(filename: str) -> str:
    """The header that makes a browser save a file under this name (RFC 6266): ASCII for all, UTF-8 for those who can.

    The result is ASCII and holds nothing that could end the header or the quoted string.
    """
    name = download_name(filename)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").replace("%", "_")
    plain = download_name(plain)
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"
