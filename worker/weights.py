"""Weights that lie at an address: fetched into the models folder once, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

from common import log
from common.engines import Weights
from common.errors import NightshiftError

_log = log.get(__name__)

_SILENCE_SECONDS = 30.0

Tell = Callable[[int, int | None], None]


def locate(weights: Weights, models: Path, tell: Tell = lambda done, total: None) -> Path:
    """The one file of the weights below `models`, fetched where it is not there yet.

    tell: called with bytes so far and in all; what it raises ends the fetching. Raises `weights_missing` where it
    cannot be had, and says where to put it; `weights_invalid` where what arrives is not the published file.
    """
    path = models / weights.folder / weights.files[0]
    if not path.is_file():
        _fetch(weights, path, tell)
    return path


def _fetch(weights: Weights, path: Path, tell: Tell) -> None:
    url, digest = weights.url, hashlib.sha256()
    _log.info("fetching weights", url=url, path=str(path))
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            with httpx.stream("GET", url, timeout=_SILENCE_SECONDS, follow_redirects=True) as answer:
                answer.raise_for_status()
                length = answer.headers.get("Content-Length")
                for piece in answer.iter_bytes(1 << 20):
                    file.write(piece)
                    digest.update(piece)
                    tell(answer.num_bytes_downloaded, int(length) if length else None)
            file.flush()
            os.fsync(file.fileno())
        if weights.sha256 and digest.hexdigest() != weights.sha256:
            raise NightshiftError(
                "weights_invalid",
                f"What {url} gave has the SHA-256 {digest.hexdigest()}, not {weights.sha256}.",
                hint=f"Fetch the published file elsewhere and put it at {path}.",
            )
        # Several workers may fetch at once; each puts a whole file there.
        part.replace(path)
    except (httpx.HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise NightshiftError(
            "weights_missing",
            f"{path} is not there, and {url} could not be fetched: {reason}.",
            hint=f"Where this machine cannot reach it, fetch it elsewhere and put it at {path}.",
            retryable=True,
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
