"""Where the service is and who calls: from the environment, else what `nightshift up` left in its home folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from common.settings import ClientSettings
from nightshift.errors import NightshiftClientError

FILE = "client.json"


@dataclass(frozen=True)
class Place:
    url: str
    api_key: str


def find(url: str | None = None, api_key: str | None = None, home: Path | None = None) -> Place:
    """Arguments first, then NIGHTSHIFT_URL and NIGHTSHIFT_API_KEY, then the file in the home folder."""
    settings = ClientSettings()
    left = _read((home or settings.home).expanduser() / FILE)
    url = url or settings.url or left.get("url")
    api_key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None) or left.get("api_key")
    if not url or not api_key:
        what = "address" if not url else "API key"
        raise NightshiftClientError(
            f"The service's {what} is not known. Start one with `nightshift up`, or set NIGHTSHIFT_URL and "
            "NIGHTSHIFT_API_KEY."
        )
    return Place(url.rstrip("/"), api_key)


def leave(home: Path, place: Place) -> Path:
    """Writes the file for later callers, readable by this user alone."""
    path = home / FILE
    draft = path.with_suffix(".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({"url": place.url, "api_key": place.api_key}, file)
    draft.replace(path)
    return path


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
