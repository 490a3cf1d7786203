"""Uploads: announced and sent to the store, or streamed through. Bytes are never held in memory as a whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, cast

from flask import request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.http import parse_options_header

from api import schemas
from api.context import caller, public_url, service
from api.intake import Intake, declared_digest
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from common.db import uploads
from common.db.keys import Scope
from common.db.uploads import Upload
from common.errors import NightshiftError
from common.jobs import quota, sweep
from common.storage import keys as layout
from common.storage.store import PresignedPut

resource = Resource("uploads", "Uploads", "Files to work on")

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}", re.IGNORECASE)
_RAW = ("application/octet-stream", "audio/*", "video/*", "image/*")
_STREAMED = dict.fromkeys(_RAW, "The file itself; Content-Length is needed")
_MULTIPART_OVERHEAD = 100_000


class NewUpload(BaseModel):
    """Announces a file that is sent afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: str = Field("upload", min_length=1, max_length=1000)
    size: int = Field(ge=0, le=2**53, description="Bytes")
    content_type: str = Field("application/octet-stream", pattern=f"^{_MEDIA_TYPE.pattern}$", max_length=130)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Of the whole file, hex")


class UploadQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    filename: str | None = Field(None, min_length=1, max_length=1000, description="For a file sent as the body itself")


class DigestHeaders(BaseModel):
    content_digest: str | None = Field(
        None, alias="Content-Digest", max_length=500, description="RFC 9530, `sha-256=:…:`; checked"
    )
    content_sha256: str | None = Field(
        None, alias="X-Content-SHA256", pattern="^[0-9a-fA-F]{64}$", description="Hex; checked"
    )


@resource.operation(
    "POST",
    "/v1/uploads",
    "Send a file, or announce one",
    scope=Scope.WRITE,
    query=UploadQuery,
    headers=DigestHeaders,
    body=NewUpload,
    media={**_STREAMED, "multipart/form-data": "One file, in the part `file`"},
    answers={201: Answer("The upload", schemas.Upload, headers={"Location": "Its address"})},
    errors=("empty_input", "length_required", "quota_exceeded", "storage_failed"),
)
def create_upload(query: UploadQuery, headers: DigestHeaders, body: NewUpload | None) -> Any:
    """With JSON, the upload is announced: the answer says where to PUT the bytes and with which headers.
    With any other content type, the body is the file, streamed straight to the storage."""
    if body is not None:
        return _announce(body)
    if request.mimetype == "multipart/form-data":
        return _from_form(declared_digest(headers.content_digest, headers.content_sha256))
    if not _MEDIA_TYPE.fullmatch(request.mimetype) or request.mimetype.startswith(("text/", "multipart/")):
        raise NightshiftError(
            "unsupported_media_type",
            f"A file cannot be sent as {request.mimetype[:100] or 'nothing'}.",
            hint="Send it as application/octet-stream, audio/…, video/… or image/…, or announce it with JSON.",
        )
    filename = query.filename or _disposition_filename() or "upload"
    size = _length()
    upload = _pending(filename, request.mimetype, size, None)
    intake = Intake(request.stream, size, declared_digest(headers.content_digest, headers.content_sha256))
    return _created(_take(upload, intake, keep_row=False))


@resource.operation(
    "PUT",
    "/v1/uploads/{upload_id}/content",
    "Send the bytes of an announced upload",
    scope=Scope.WRITE,
    headers=DigestHeaders,
    media={**_STREAMED, "*/*": "The file itself"},
    answers={200: Answer("The upload, ready", schemas.Upload)},
    errors=("empty_input", "length_required", "too_large", "state_conflict", "storage_failed"),
)
def put_upload_content(upload_id: str, headers: DigestHeaders) -> Any:
    """For services whose files lie in a folder; the address comes from the announcement. The length must be the one
    that was announced."""
    upload = find(upload_id)
    if upload.state == "ready":
        raise NightshiftError("state_conflict", "The upload has its content already.", hint="Announce another one.")
    size = _length()
    if size != upload.size:
        raise NightshiftError("invalid_request", f"{upload.size} bytes were announced, {size} are being sent.")
    expected = declared_digest(headers.content_digest, headers.content_sha256) or upload.sha256
    if upload.sha256 not in (None, expected):
        raise NightshiftError("invalid_request", "The digest sent is not the one that was announced.")
    return view(_take(upload, Intake(request.stream, size, expected), keep_row=True))


@resource.operation(
    "POST",
    "/v1/uploads/{upload_id}/complete",
    "Say that the bytes are there",
    scope=Scope.WRITE,
    answers={200: Answer("The upload, ready", schemas.Upload)},
    errors=("upload_incomplete", "storage_failed"),
)
def complete_upload(upload_id: str) -> Any:
    """Looks whether the bytes have arrived. Submitting a job with the upload does the same."""
    return view(settle(find(upload_id)))


@resource.operation(
    "GET",
    "/v1/uploads",
    "List uploads",
    scope=Scope.READ,
    query=PageQuery,
    answers={200: Answer("A page of uploads", schemas.UploadPage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_uploads(query: PageQuery) -> Any:
    """The key's uploads, newest first."""
    with service().database.read() as tx:
        found = uploads.page(tx, caller().id, before=query.before("uploads"), limit=query.limit + 1)
    items, cursor, link = cut("uploads", query, found)
    return schemas.UploadPage(items=[view(item) for item in items], next=cursor), 200, link


@resource.operation(
    "GET",
    "/v1/uploads/{upload_id}",
    "Get an upload",
    scope=Scope.READ,
    answers={200: Answer("The upload", schemas.Upload)},
)
def get_upload(upload_id: str) -> Any:
    """An upload of the key."""
    return view(find(upload_id))


@resource.operation(
    "DELETE",
    "/v1/uploads/{upload_id}",
    "Delete an upload",
    scope=Scope.WRITE,
    answers={204: Answer("It is deleted")},
)
def delete_upload(upload_id: str) -> Any:
    """Jobs that have not fetched it yet fail with `input_missing`."""
    upload = find(upload_id)
    with service().database.write() as tx:
        sweep.remove_upload(tx, upload.id, upload.storage_key)
    return None, 204


def find(upload_id: str) -> Upload:
    """An upload of the caller. Raises `not_found`, the same for others' uploads and none."""
    with service().database.read() as tx:
        upload = uploads.get(tx, upload_id, caller().id)
    if upload is None:
        raise NightshiftError("not_found", "There is no such upload.")
    return upload


def settle(upload: Upload) -> Upload:
    """The upload, ready: a pending one whose bytes have arrived becomes so. Raises `upload_incomplete`."""
    if upload.state == "ready":
        return upload
    found = service().store.stat(upload.storage_key)
    if found is None or found.size != upload.size:
        raise NightshiftError(
            "upload_incomplete",
            f"{upload.size} bytes were announced, {found.size if found else 'none'} are there.",
            hint="Send the bytes to the address that the announcement gave, then try again.",
        )
    with service().database.write() as tx:
        if uploads.get(tx, upload.id, upload.key_id) is None:
            raise NightshiftError("not_found", "There is no such upload.")
        return uploads.ready(tx, upload.id, found.size, upload.sha256)


def view(upload: Upload, target: schemas.UploadTarget | None = None) -> schemas.Upload:
    return schemas.Upload(
        id=upload.id,
        state="ready" if upload.state == "ready" else "pending",
        filename=upload.filename,
        content_type=upload.content_type,
        size=upload.size,
        sha256=upload.sha256,
        created_at=upload.created_at,
        expires_at=service().settings.retention.expires_at(upload.created_at),
        upload=target,
    )


def _announce(asked: NewUpload) -> Any:
    _check_size(asked.size, "/size")
    upload = _pending(asked.filename, asked.content_type, asked.size, asked.sha256)
    seconds = service().settings.upload_seconds
    put = service().store.upload_link(upload.storage_key, upload.size, upload.content_type, seconds)
    return _created(upload, _target(upload, put, seconds))


def _target(upload: Upload, put: PresignedPut | None, seconds: int) -> schemas.UploadTarget:
    if put is None:
        url = public_url(f"/v1/uploads/{upload.id}/content")
        headers = {"Content-Type": upload.content_type, "Content-Length": str(upload.size)}
        return schemas.UploadTarget(url=url, headers=headers, authorization=True, expires_at=None)
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    return schemas.UploadTarget(url=put.url, headers=put.headers, authorization=False, expires_at=expires)


def _from_form(expected: str | None) -> Any:
    """A file in a form, as browsers and `curl -F` send it. It is spooled to disk before it is stored."""
    limit = service().settings.max_upload_bytes
    if request.content_length is None:
        raise NightshiftError("length_required")
    if request.content_length > limit + _MULTIPART_OVERHEAD:
        raise _too_large()
    request.max_content_length = limit + _MULTIPART_OVERHEAD
    files = [file for _, file in request.files.items(multi=True)]
    if len(files) != 1:
        raise NightshiftError("invalid_request", f"The form holds {len(files)} files instead of one.")
    file = files[0]
    size = file.stream.seek(0, 2)
    file.stream.seek(0)
    _check_size(size)
    media = file.mimetype if _MEDIA_TYPE.fullmatch(file.mimetype or "") else "application/octet-stream"
    upload = _pending(file.filename or "upload", media, size, None)
    return _created(_take(upload, Intake(file.stream, size, expected), keep_row=False))


def _pending(filename: str, content_type: str, size: int, sha256: str | None) -> Upload:
    """The row comes before the bytes: what a crash leaves behind is found and swept by its row."""
    upload_id = uploads.new_id()
    key = layout.upload(caller().id, upload_id)
    with service().database.write() as tx:
        quota.check_bytes(tx, caller().id, caller().quotas(service().settings.quotas), more=size)
        return uploads.create(
            tx, upload_id, caller().id, key, filename=layout.download_name(filename, "upload"),
            content_type=content_type, size=size, sha256=sha256, ready=False,
        )  # fmt: skip


def _take(upload: Upload, intake: Intake, *, keep_row: bool) -> Upload:
    """Streams the bytes to the store. Of an upload that fails nothing is kept, but the row of an announced one."""
    try:
        service().store.put(upload.storage_key, cast(BinaryIO, intake), upload.content_type)
        intake.verify()
    except BaseException:
        if not keep_row:
            with service().database.write() as tx:
                sweep.remove_upload(tx, upload.id, upload.storage_key)
        raise
    with service().database.write() as tx:
        if uploads.get(tx, upload.id, upload.key_id) is None:
            raise NightshiftError("not_found", "The upload was deleted meanwhile.")
        return uploads.ready(tx, upload.id, intake.size, intake.sha256)


def _created(upload: Upload, target: schemas.UploadTarget | None = None) -> Any:
    return view(upload, target), 201, {"Location": f"/v1/uploads/{upload.id}"}


def _length() -> int:
    """The declared length, checked before a byte is read. Raises `length_required`, `too_large`, `empty_input`."""
    if request.content_length is None:
        raise NightshiftError("length_required", hint="Send Content-Length; chunked bodies are not taken.")
    _check_size(request.content_length)
    return request.content_length


def _check_size(size: int, pointer: str | None = None) -> None:
    if size > service().settings.max_upload_bytes:
        raise _too_large(pointer)
    if size == 0:
        raise NightshiftError("empty_input", "The file has no bytes.", pointer=pointer)


def _too_large(pointer: str | None = None) -> NightshiftError:
    limit = service().settings.max_upload_bytes
    return NightshiftError("too_large", f"A file has at most {limit} bytes.", pointer=pointer, extra={"limit": limit})


def _disposition_filename() -> str | None:
    return parse_options_header(request.headers.get("Content-Disposition", ""))[1].get("filename")
