"""The secret that signs links and callbacks: from the settings, or made once and kept in `home`."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from common.errors import NightshiftError
from common.settings import Settings

FILENAME = "secret"


def signing_key(settings: Settings) -> str:
    """The same for every process of a service: the setting, else the file `home`/secret, made where it is missing.

    Raises `unavailable` where the file can neither be read nor made.
    """
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    path = settings.home / FILENAME
    try:
        if not path.exists():
            _make(path)
        kept = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NightshiftError(
            "unavailable",
            f"The signing secret in {path} cannot be read or made.",
            hint="Make the folder writable, or set NIGHTSHIFT_SECRET_KEY.",
        ) from error
    if len(kept) < 32:
        raise NightshiftError(
            "unavailable", f"{path} holds no usable secret.", hint="Delete the file: a new secret is made at the start."
        )
    return kept


def _make(path: Path) -> None:
    """Makes the file whole at once: of two processes that start together, both then read the same secret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
