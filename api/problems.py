"""Every error as `application/problem+json` (RFC 9457): the one place where errors become HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g, json, request
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from common import log
from common.errors import NightshiftError

_log = log.get(__name__)

MEDIA_TYPE = "application/problem+json"
_CODES = {404: "not_found", 405: "method_not_allowed", 411: "length_required", 413: "too_large"}
_CODES |= {415: "unsupported_media_type", 416: "range_not_satisfiable"}
_RETRY_AFTER = {429: "30", 503: "5"}


def problem(error: NightshiftError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for an error: its code, a sentence about this case, what to do next, and the request's id."""
    body: dict[str, Any] = {
        **error.extra,
        "type": f"urn:nightshift:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": g.get("request_id", ""),
    }
    if error.hint:
        body["hint"] = error.hint
    if error.pointer is not None:
        body["pointer"] = error.pointer
    response = Response(json.dumps(body), error.status, mimetype=MEDIA_TYPE)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="nightshift"'
    if error.retryable and error.status in _RETRY_AFTER:
        response.headers["Retry-After"] = str(error.extra.get("retry_after", _RETRY_AFTER[error.status]))
    response.headers.update(headers or {})
    return response


def install(app: Flask) -> None:
    app.register_error_handler(NightshiftError, _known)
    app.register_error_handler(HTTPException, _http)
    for away in (OperationalError, InterfaceError, PoolTimeout):
        app.register_error_handler(away, _database_away)
    app.register_error_handler(Exception, _unexpected)


def _known(error: NightshiftError) -> Response:
    if error.status >= 500:
        _log.warning(error.detail, code=error.code)
    return problem(error)


def _http(error: HTTPException) -> Response:
    """What the framework raised: no such route, a method that is not there, a body that is too long."""
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        known = NightshiftError("method_not_allowed", f"{request.method} is not allowed here.", hint=f"Use {allowed}.")
        return problem(known, {"Allow": allowed})
    status = error.code or 500
    if status == 404:
        known = NightshiftError("not_found", "There is nothing at this address.", hint="See /v1/docs.")
        return problem(known)
    if status in _CODES:
        return problem(NightshiftError(_CODES[status]))
    if status < 500:
        return problem(NightshiftError("invalid_request", error.description or ""))
    return _unexpected(error)


def _database_away(error: Exception) -> Response:
    _log.warning("the database did not answer", error=type(error).__name__, exc_info=error)
    return problem(
        NightshiftError(
            "unavailable", "The database does not answer.", hint="Try again; /readyz tells the operator what is wrong."
        )
    )


def _unexpected(error: Exception) -> Response:
    # The details are for the operator alone; the request's id leads there.
    _log.error("unexpected error", method=request.method, rule=str(request.url_rule), exc_info=error)
    return problem(
        NightshiftError(
            "internal",
            "Something went wrong on our side; it was logged.",
            hint="Try again; if it stays, tell the operator the request_id.",
        )
    )
