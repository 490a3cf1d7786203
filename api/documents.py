"""The OpenAPI document, its rendered page, and the web page: static, from this machine alone."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, send_from_directory

from api.context import service
from api.operations import Answer, Resource
from common.errors import NightshiftError

resource = Resource("documents", "Documents", "What describes this service")
pages = Blueprint("pages", __name__, static_folder="static", static_url_path="/static")

_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")


@resource.operation(
    "GET",
    "/v1/openapi.json",
    "Get this document",
    scope=None,
    answers={200: Answer("OpenAPI 3.1", media="application/json")},
)
def get_openapi() -> Any:
    """The description of every operation, made from what validates and answers."""
    response = current_app.json.response(current_app.extensions["openapi"])
    response.headers["Cache-Control"] = "public, max-age=60"
    return response


@pages.get("/v1/docs")
def docs() -> Response:
    response = send_from_directory(str(pages.static_folder), "docs.html")
    # Swagger UI sets styles on its elements, and draws some of its signs from data: addresses.
    return _guarded(response, "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'")


@pages.get("/v1/docs/<name>")
def docs_asset(name: str) -> Response:
    if name not in _SWAGGER:
        raise NightshiftError("not_found")
    with as_file(files("flask_swagger_ui") / "dist") as folder:
        return send_from_directory(folder, name, max_age=3600)


@pages.get("/")
def page() -> Response:
    response = send_from_directory(str(pages.static_folder), "index.html")
    media = " ".join(["'self'", *_file_origins()])
    return _guarded(response, f"style-src 'self'; img-src {media}; media-src {media}; connect-src 'self'")


def _file_origins() -> list[str]:
    """Where links to results lead, beside this service: the page shows pictures and plays audio from there."""
    settings = service().settings
    if not settings.s3_bucket:
        return []
    address = settings.s3_public_endpoint or settings.s3_endpoint
    if address is None:
        return ["https://*.amazonaws.com"]
    parts = urlsplit(address)
    return [f"{parts.scheme}://{parts.netloc}"]


def _guarded(response: Response, allowed: str) -> Response:
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'; {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.headers["Cache-Control"] = "no-cache"
    return response
