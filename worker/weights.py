"""Weights that lie at an address: fetched into the models folder once, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import httpx

from common import log
from common.engines import Weights
from common.errors import NightshiftError

_log = log.get(__name__)

_SILENCE_SECONDS = 30.0


def locate(weights: Weights, models: Path) -> Path:
    """The one file of the weights below `models`, fetched where it is not there yet.

    Raises `weights_missing` where it cannot be had, and says where to put it.
    """
    path = models / weights.folder / weights.files[0]
    if not path.is_file():
        _fetch(weights.url, path)
    return path


def _fetch(url: str, path: Path) -> None:
    _log.info("fetching weights", url=url, path=str(path))
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            with httpx.stream("GET", url, timeout=_SILENCE_SECONDS, follow_redirects=True) as answer:
                answer.raise_for_status()
                for piece in answer.iter_bytes(1 << 20):
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
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
