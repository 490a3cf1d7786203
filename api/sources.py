"""What requests read: looked at before they are accepted, as far as that needs nobody else."""

from __future__ import annotations

from api import uploads
from api.context import caller, service
from common.db import uploads as upload_rows
from common.db.engine import Tx
from common.errors import NightshiftError
from common.params import Request


def check_addresses(request: Request) -> None:
    """Raises `url_forbidden`, `bucket_forbidden`: what can be told without asking anybody."""
    for pointer, source in request.sources().items():
        if source.url is not None:
            service().guard.check_url(source.url, f"{pointer}/url")
        if source.s3 is not None:
            _check_bucket(source.s3, f"{pointer}/s3")
    if request.callback is not None:
        service().guard.check_url(request.callback.url, "/callback/url")


def settle_uploads(request: Request) -> None:
    """Notes the arrival of pending uploads' bytes, before and outside of the transaction that submits."""
    for source in request.sources().values():
        if source.upload is None:
            continue
        with service().database.read() as tx:
            upload = upload_rows.get(tx, source.upload, caller().id)
        if upload is not None:
            try:
                uploads.settle(upload)
            except NightshiftError as error:
                if error.code not in ("upload_incomplete", "not_found"):
                    raise


def require_uploads(tx: Tx, request: Request) -> None:
    """Raises `input_missing`, `upload_incomplete`."""
    for pointer, source in request.sources().items():
        if source.upload is not None:
            _require_ready(tx, source.upload, f"{pointer}/upload")


def _check_bucket(uri: str, pointer: str) -> None:
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if bucket not in service().settings.s3_input_buckets:
        raise NightshiftError(
            "bucket_forbidden",
            f"The bucket {bucket} is not one that inputs may come from.",
            hint="The operator lists such buckets in NIGHTSHIFT_S3_INPUT_BUCKETS.",
            pointer=pointer,
        )


def _require_ready(tx: Tx, upload_id: str, pointer: str) -> None:
    upload = upload_rows.get(tx, upload_id, caller().id)
    if upload is None:
        raise NightshiftError("input_missing", "There is no such upload.", pointer=pointer)
    if upload.state != "ready":
        raise NightshiftError(
            "upload_incomplete",
            f"The {upload.size} bytes that were announced are not there.",
            hint="Send them to the address that the announcement gave, then submit again.",
            pointer=pointer,
        )
