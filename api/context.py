"""What every view works with: the parts that `create_app` put together, and who is calling."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from flask import current_app, g, request

from common.db.engine import Database
from common.db.keys import Key
from common.jobs.queueing import Bell
from common.outbound.guard import Guard
from common.settings import Settings
from common.storage.store import Store

if TYPE_CHECKING:
    from api.health import Readiness
    from api.metrics import Requests

EXTENSION = "nightshift"


class Ringer(Protocol):
    """Tells workers that there is work. Never raises: a bell that is lost is rung again by the scheduler."""

    def ring(self, bells: Iterable[Bell]) -> None: ...


@dataclass(frozen=True)
class Service:
    """The parts of a running API.

    waiters: how many requests may wait at a time (event streams, `Prefer: wait`); each holds a thread, and the others
    must not run out of threads.  stopping: set when this process is to end; who waits then stops waiting.
    """

    settings: Settings
    database: Database
    store: Store
    ringer: Ringer
    signing_key: str
    guard: Guard
    waiters: threading.BoundedSemaphore
    stopping: threading.Event
    requests: Requests
    readiness: Readiness


def service() -> Service:
    return cast(Service, current_app.extensions[EXTENSION])


def caller() -> Key:
    """The key of this request; only in views whose operation asks for a scope."""
    return cast(Key, g.key)


def public_url(path: str) -> str:
    """A path of this service as callers reach it."""
    base = service().settings.public_url or request.host_url
    return base.rstrip("/") + path
