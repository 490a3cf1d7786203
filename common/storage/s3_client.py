"""Connections to the S3 server of the settings, and what its errors mean here."""

from __future__ import annotations

import base64
import functools
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import urllib3.exceptions
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from common.errors import NightshiftError
from common.settings import Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MISSING_KEY = frozenset({"NoSuchKey", "404", "NotFound"})
MISSING_BUCKET = frozenset({"NoSuchBucket"})
REFUSED = frozenset({"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


def connect(settings: Settings, endpoint: str | None) -> S3Client:
    """A client of the server at `endpoint` (None: Amazon's own); contacts nothing yet. Safe for threads."""
    with _MAKING:
        return _connect(settings, endpoint)


# A session reads the description of the service once, which takes most of the time of making a client; unlike its
# clients it is not safe for threads.
_session = functools.cache(boto3.session.Session)
_MAKING = threading.Lock()


def _connect(settings: Settings, endpoint: str | None) -> S3Client:
    client = _session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value() if settings.s3_access_key else None,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 3},
            # botocore's own default sends checksums in trailers, which many servers other than Amazon's refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    return client


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    # Deleting in bulk demands a digest; older servers know only this one, botocore sends only newer ones.
    body = params["body"]
    digest = hashlib.md5(body if isinstance(body, bytes) else body.encode(), usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")


def try_writing(client: S3Client, bucket: str) -> None:
    """Begins an upload into the bucket and takes it back: no object appears. Raises what boto3 raises."""
    begun = client.create_multipart_upload(Bucket=bucket, Key=".nightshift-check")
    client.abort_multipart_upload(Bucket=bucket, Key=".nightshift-check", UploadId=begun["UploadId"])


def error_code(error: ClientError) -> str:
    """The server's word for what is wrong; the HTTP status where an answer has no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def coded_errors(endpoint: str | None, bucket: str, key: str = "") -> Iterator[None]:
    """Turns what boto3 raises into `input_missing` for a missing key, else `storage_failed` with a way to mend it."""
    try:
        yield
    except ClientError as error:
        raise translate(error, endpoint, bucket, key) from error
    except (BotoCoreError, Boto3Error, urllib3.exceptions.HTTPError) as error:
        raise NightshiftError(
            "storage_failed",
            f"The S3 server did not answer as it should ({type(error).__name__}).",
            hint=f"See that {endpoint or 'Amazon S3'} is running and can be reached from here.",
        ) from error


def translate(error: ClientError, endpoint: str | None, bucket: str, key: str = "") -> NightshiftError:
    """The coded error for an error answer of the server."""
    code = error_code(error)
    if key and code in MISSING_KEY:
        return NightshiftError("input_missing", f"There is no object {key} in the storage.")
    if code in MISSING_BUCKET or code in MISSING_KEY:
        return NightshiftError(
            "storage_failed",
            f"The bucket {bucket} does not exist.",
            hint=f"Make the bucket {bucket} on the S3 server, or name one that exists in the settings.",
        )
    if code in REFUSED:
        return NightshiftError(
            "storage_failed",
            f"The S3 server refused the access to the bucket {bucket} ({code}).",
            hint="Set NIGHTSHIFT_S3_ACCESS_KEY and NIGHTSHIFT_S3_SECRET_KEY to a key that may list, read, write and "
            f"delete in {bucket}.",
        )
    if code == "RequestTimeTooSkewed":
        return NightshiftError(
            "storage_failed", "The S3 server's clock and this machine's differ.", hint="Set both clocks by NTP."
        )
    return NightshiftError(
        "storage_failed",
        f"The S3 server answered with an error ({code or 'unknown'}).",
        hint=f"See the log of the S3 server at {endpoint or 'Amazon S3'}.",
    )
