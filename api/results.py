"""What a job made, with links that need no key; and the files behind the links, where the store has none of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from flask import Response, request
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import FileWrapper

from api import schemas
from api.context import public_url, service
from api.job_view import cached_view, outputs_view
from api.jobs import find
from api.operations import Answer, Resource
from common.db.keys import Scope
from common.errors import NightshiftError
from common.jobs.job import Job
from common.states import State
from common.storage.keys import content_disposition

resource = Resource("results", "Results", "What jobs made")

CHUNK_BYTES = 1 << 18


@resource.operation(
    "GET",
    "/v1/jobs/{job_id}/results",
    "Get the results of a job",
    scope=Scope.READ,
    answers={200: Answer("The results", schemas.Results)},
    errors=("state_conflict",),
)
def get_results(job_id: str) -> Any:
    """The files that a job made, with links that work for a while without a key. Ask again for new links."""
    job = find(job_id)
    if job.state is not State.SUCCEEDED or job.result is None:
        raise NightshiftError(
            "state_conflict",
            f"The job is {job.state}; only one that succeeded has results.",
            hint="Follow its events, or set a callback." if not job.terminal else "Its `error` says why; retry it.",
            extra={"state": job.state},
        )
    return schemas.Results(
        job=job.id,
        engine=job.result.get("engine"),
        inputs=job.result.get("inputs") or [],
        outputs=linked(job),
        warnings=[schemas.Warning(**warning) for warning in job.result.get("warnings", [])],
        metrics=dict(job.result.get("metrics") or {}),
        cached_from=cached_view(job.result),
    )


@resource.operation(
    "GET",
    "/v1/files/{token}",
    "Get a file by its link",
    scope=None,
    answers={
        200: Answer("The file", media="*/*"),
        206: Answer("A part of the file", media="*/*"),
        304: Answer("The file is the one that the caller has"),
    },
    errors=("link_expired", "range_not_satisfiable", "storage_failed"),
)
def get_file(token: str) -> Any:
    """The links of results lead here, or straight to the storage. Ranges are served, so that players can seek."""
    try:
        key, filename = _serializer().loads(token, max_age=service().settings.link_seconds)
    except BadData as error:
        raise NightshiftError("link_expired", hint="Ask for the results again to get a new link.") from error
    found = service().store.stat(key)
    if found is None:
        raise NightshiftError("not_found", "The file was deleted.")
    stream = service().store.open(key)
    response = Response(FileWrapper(stream, CHUNK_BYTES), mimetype=found.content_type, direct_passthrough=True)
    response.call_on_close(stream.close)
    response.content_length = found.size
    response.last_modified = found.modified
    response.set_etag(f"{found.size:x}-{int(found.modified.timestamp() * 1e6):x}")
    response.headers["Content-Disposition"] = content_disposition(filename)
    response.headers["Cache-Control"] = "private, max-age=3600"
    # What a worker made is data: a browser that opens it runs nothing in our name.
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    try:
        return response.make_conditional(_conditions(), accept_ranges=True, complete_length=found.size)
    except RequestedRangeNotSatisfiable as error:
        stream.close()
        raise NightshiftError("range_not_satisfiable", f"The file has {found.size} bytes.") from error


def linked(job: Job) -> list[schemas.LinkedOutput]:
    """The outputs of a job that has succeeded, with links."""
    assert job.result is not None
    seconds = service().settings.link_seconds
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    stem = PurePosixPath(_filename(job.result) or job.id).stem
    keys = [output["key"] for output in job.result["outputs"]]
    return [
        schemas.LinkedOutput(
            **output.model_dump(), url=link(key, seconds, f"{stem}-{output.filename}"), expires_at=expires
        )
        for key, output in zip(keys, outputs_view(job.result), strict=True)
    ]


def _conditions() -> dict[str, Any]:
    """What the request asks of the file. A range that cannot be read, or not in bytes, is left alone (RFC 9110)."""
    environ = dict(request.environ)
    if request.range is None or request.range.units != "bytes":
        environ.pop("HTTP_RANGE", None)
    return environ


def link(key: str, seconds: int, filename: str) -> str:
    """An address that gives a stored file for a while to whoever has it, saved as `filename`."""
    own = service().store.link(key, seconds, filename)
    return own if own is not None else public_url(f"/v1/files/{_serializer().dumps([key, filename])}")


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(service().signing_key, salt="file")


def _filename(result: Mapping[str, Any]) -> str | None:
    """Of the only input."""
    inputs = result.get("inputs") or []
    return inputs[0]["filename"] if len(inputs) == 1 else None
