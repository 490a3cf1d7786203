"""The one policy for a service that is not there: a test is skipped with the reason, but fails in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def unavailable(service: str, reason: str, mend: str = "") -> NoReturn:
    """Ends the test: skipped locally, failed where the environment says CI."""
    message = f"{service} is not available: {reason}" + (f" ({mend})" if mend else "")
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
