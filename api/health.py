"""Whether the API lives, whether it can work, and its figures for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Response
from sqlalchemy.exc import SQLAlchemyError

from api import auth, schemas
from api.context import Service, service
from api.metrics import exposition
from api.operations import Answer, Resource
from common import log
from common.db import migrate
from common.db.keys import Scope
from common.errors import NightshiftError
from common.outbound.addresses import literal

_log = log.get(__name__)

resource = Resource("health", "Health", "For load balancers, orchestrators and Prometheus")

# The checks write to the disk and need no key: asking often must not cost much.
KEPT_SECONDS = 2.0


class Readiness:
    """The outcome of the checks, kept for a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._kept: schemas.Ready | None = None

    def ask(self, here: Service) -> schemas.Ready:
        with self._lock:
            if self._kept is None or time.monotonic() - self._at >= KEPT_SECONDS:
                self._kept = _look(here)
                self._at = time.monotonic()
            return self._kept


@resource.operation(
    "GET", "/healthz", "Is the process alive?", scope=None, answers={200: Answer("It is", schemas.Alive)}
)
def get_health() -> Any:
    """Touches nothing: a database that is away is no reason to restart this process."""
    return schemas.Alive()


@resource.operation(
    "GET",
    "/readyz",
    "Can the service work?",
    scope=None,
    answers={200: Answer("It can", schemas.Ready), 503: Answer("It cannot; the checks say why", schemas.Ready)},
)
def get_readiness() -> Any:
    """Looks at the database, its schema, and the storage."""
    found = service().readiness.ask(service())
    return found, 200 if found.status == "ok" else 503


@resource.operation(
    "GET",
    "/metrics",
    "Figures for Prometheus",
    scope=None,
    answers={200: Answer("The figures", media="text/plain")},
    errors=("unauthenticated", "forbidden", "unavailable"),
)
def get_metrics() -> Any:
    """Needs an admin's key, unless the API listens on loopback only. The figures of requests are those of one process;
    those of the queue are the same from every process."""
    address = literal(service().settings.host)
    if not (service().settings.host == "localhost" or (address is not None and address.is_loopback)):
        auth.require(auth.authenticate(), Scope.ADMIN)
    body, content_type = exposition(service())
    return Response(body, content_type=content_type)


def _look(here: Service) -> schemas.Ready:
    checks = {"database": _check(lambda: _database(here)), "storage": _check(here.store.check)}
    status = "ok" if all(check.ok for check in checks.values()) else "failing"
    return schemas.Ready(status=status, checks=checks)


def _check(look: Callable[[], None]) -> schemas.Check:
    try:
        look()
    except NightshiftError as error:
        return schemas.Check(ok=False, detail=error.detail, hint=error.hint or None)
    except SQLAlchemyError as error:
        _log.warning("the database did not answer", error=type(error).__name__, exc_info=error)
        return schemas.Check(ok=False, detail="The database does not answer.", hint="See the log of the API.")
    return schemas.Check(ok=True)


def _database(here: Service) -> None:
    at, newest = migrate.current(here.database)
    if at != newest:
        raise NightshiftError(
            "unavailable",
            f"The database is at schema {at or 'none'}; this version needs {newest}.",
            hint="Run `python -m api --migrate`.",
        )
