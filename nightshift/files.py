"""Files to and from the service: streamed, checked, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from nightshift.errors import ApiError, NightshiftClientError, Unreachable
from nightshift.transport import Transport, read

CHUNK = 1 << 20
RESUMES = 5

Tell = Callable[[int, int], None]


def send(transport: Transport, path: Path, tell: Tell) -> str:
    """Announces the file, sends it to where the service says, and settles it. Returns the upload's id."""
    size = path.stat().st_size
    if not path.is_file():
        raise IsADirectoryError(errno.EISDIR, "It is not a file", str(path))
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    try:
        announced = transport.call(
            "POST", "/v1/uploads", body={"filename": path.name, "size": size, "content_type": content_type}
        )
    except ApiError as error:
        # Of many files, the one that is meant.
        error.detail = f"{path}: {error.detail}"
        raise
    target = announced["upload"]
    headers = {**target["headers"], "Content-Length": str(size)}
    if target["authorization"]:
        headers["Authorization"] = f"Bearer {transport.place.api_key}"
    try:
        response = transport.plain.request(
            target["method"], target["url"], content=_chunks(path, size, tell), headers=headers
        )
    except httpx.HTTPError as error:
        raise Unreachable(f"{path.name} could not be sent: {error or type(error).__name__}") from error
    if response.status_code >= 400 and not response.headers.get("Content-Type", "").startswith("application/problem"):
        raise ApiError(response.status_code, {"code": "storage_failed", "detail": f"The storage refused {path.name}."})
    read(response) if target["authorization"] else None
    transport.call("POST", f"/v1/uploads/{announced['id']}/complete", repeatable=True)
    return str(announced["id"])


def _chunks(path: Path, size: int, tell: Tell) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
            done += len(chunk)
            tell(done, size)


def save(transport: Transport, output: Mapping[str, Any], folder: Path, overwrite: bool, tell: Tell) -> Path:
    """Fetches an output by its link into the folder."""
    target = folder / Path(output["filename"]).name
    if target.exists() and not overwrite:
        if _sha256(target) == output["sha256"]:
            return target
        raise FileExistsError(f"{target} is there already and is another file")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        _fetch(transport, output, part, tell)
        if _sha256(part) != output["sha256"]:
            raise NightshiftClientError(f"{target.name} arrived damaged; download it again")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _fetch(transport: Transport, output: Mapping[str, Any], part: Path, tell: Tell) -> None:
    """The bytes behind the link; a broken connection goes on where it broke."""
    size, done = output["bytes"], 0
    for attempt in range(RESUMES + 1):
        headers = {"Range": f"bytes={done}-"} if done else {}
        try:
            with transport.plain.stream("GET", output["url"], headers=headers) as response:
                if response.status_code >= 400:
                    response.read()
                    read(response)
                if response.status_code != 206:
                    done = 0
                with part.open("r+b" if done else "wb") as file:
                    file.seek(done)
                    for chunk in response.iter_bytes(CHUNK):
                        file.write(chunk)
                        done += len(chunk)
                        tell(done, size)
            if done == size:
                return
        except httpx.HTTPError as error:
            if attempt == RESUMES:
                raise Unreachable(f"{part.name}: {error or type(error).__name__}") from error
    raise NightshiftClientError(f"{output['filename']} has {done} bytes instead of {size}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
