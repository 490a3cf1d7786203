"""The API: composed here, served by `python -m api` or `gunicorn api.wsgi:app`. At import nothing happens."""

from __future__ import annotations

import re
import threading
from importlib.metadata import PackageNotFoundError, version

import structlog
from flask import Flask, Response, g, request
from ulid import ULID

from api import (
    batches,
    bulk,
    callbacks,
    documents,
    engines,
    events,
    health,
    jobs,
    keys,
    metrics,
    openapi,
    presets,
    problems,
    results,
    schedules,
    uploads,
    voices,
    workers,
)
from api.context import EXTENSION, Ringer, Service
from common.db.engine import Database
from common.engines import register
from common.outbound.guard import Guard
from common.secret import signing_key
from common.settings import Settings
from common.storage import open_store
from common.storage.store import Store

RESOURCES = (
    uploads.resource,
    jobs.resource,
    events.resource,
    results.resource,
    bulk.resource,
    batches.resource,
    schedules.resource,
    presets.resource,
    voices.resource,
    engines.resource,
    workers.resource,
    callbacks.resource,
    keys.resource,
    health.resource,
    documents.resource,
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def create_app(
    settings: Settings,
    *,
    database: Database | None = None,
    store: Store | None = None,
    ringer: Ringer | None = None,
    stopping: threading.Event | None = None,
) -> Flask:
    """The WSGI application. The parts that are not given are opened as the settings say; none is contacted yet.

    stopping: to be set when the process is told to end, so that open event streams do not hold it.
    """
    register(settings.extra_engines)
    if ringer is None:
        from common.queue import open_ringer

        ringer = open_ringer(settings)
    requests = metrics.Requests()
    app = Flask("api", static_folder=None)
    app.extensions[EXTENSION] = Service(
        settings=settings,
        # Every thread may hold a connection at the same moment.
        database=database or Database(settings.database, pool_size=settings.api_threads),
        store=store or open_store(settings),
        ringer=ringer,
        signing_key=signing_key(settings),
        guard=Guard(settings.allow_private_hosts),
        waiters=threading.BoundedSemaphore(max(1, settings.api_threads // 2)),
        stopping=stopping or threading.Event(),
        requests=requests,
        readiness=health.Readiness(),
    )
    app.extensions["openapi"] = openapi.document(RESOURCES, _version())
    app.url_map.merge_slashes = False
    app.before_request(_identify)
    requests.install(app)
    app.after_request(_finish)
    problems.install(app)
    for resource in RESOURCES:
        app.register_blueprint(resource)
    app.register_blueprint(documents.pages)
    return app


def _identify() -> None:
    """Names the request: the id that a proxy or client gave, if it is fit for a log, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else str(ULID())
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ):
        response.headers.setdefault(name, value)
    return response


def _version() -> str:
    try:
        return version("nightshift")
    except PackageNotFoundError:
        return "0"
