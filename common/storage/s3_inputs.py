"""Inputs named `s3://bucket/key`, read with the service's own access key, and so only from buckets set for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from common.errors import NightshiftError
from common.globs import Listed, Lister
from common.settings import Settings
from common.storage.s3_client import coded_errors, connect
from common.storage.s3_stream import open_stream

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@dataclass(frozen=True)
class ExternalObject:
    """An object of a foreign bucket. size: bytes.  stream: seekable."""

    bucket: str
    key: str
    size: int
    content_type: str
    stream: BinaryIO


def parse_s3_uri(settings: Settings, uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` address that may be read. Contacts nothing, so a request can be refused at once.

    Raises `bucket_forbidden`, and `invalid_request` for what is no such address. The service's own bucket is never
    allowed, even where it is listed: it holds the files of every API key.
    """
    bucket, slash, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not slash or not key or key.endswith("/"):
        raise NightshiftError("invalid_request", "Not the address of an object: it reads s3://bucket/key.")
    # Such a key can exist, but a proxy may fold the dots on the way and so reach another bucket.
    if {".", ".."} & set(key.split("/")) or not key.isprintable():
        raise NightshiftError(
            "invalid_request", "The key of an s3:// input has no part '.' or '..' and no control sign."
        )
    _check_bucket(settings, bucket)
    return bucket, key


def _check_bucket(settings: Settings, bucket: str) -> None:
    if bucket not in settings.s3_input_buckets or bucket == settings.s3_bucket:
        raise NightshiftError(
            "bucket_forbidden",
            f"This service may not read inputs from the bucket {bucket}.",
            hint="The operator allows a bucket by naming it in NIGHTSHIFT_S3_INPUT_BUCKETS.",
        )


@dataclass(frozen=True)
class _Lister:
    client: S3Client
    bucket: str
    endpoint: str | None

    def list(self, prefix: str) -> Iterator[Listed]:
        """By key, a page of a thousand at a time. Raises `storage_failed`."""
        with coded_errors(self.endpoint, self.bucket):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for found in page.get("Contents", []):
                    yield Listed(found["Key"], found["Size"])


class S3Inputs:
    """Opens `s3://` inputs over one client. Safe for threads; contacts nothing until an input is opened."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings, settings.s3_endpoint)

    def lister(self, bucket: str) -> Lister:
        """What lists the objects of a bucket that may be read. Raises `bucket_forbidden`."""
        _check_bucket(self._settings, bucket)
        return _Lister(self._client, bucket, self._settings.s3_endpoint)

    @contextmanager
    def open(self, uri: str) -> Iterator[ExternalObject]:
        """The object at an `s3://` address, open inside the `with`.

        Raises `bucket_forbidden`, `invalid_request`, `input_missing`, `storage_failed`; reading the stream raises
        `storage_failed` when the server stays away.
        """
        bucket, key = parse_s3_uri(self._settings, uri)
        raw, stream = open_stream(self._client, bucket, key, self._settings.s3_endpoint)
        with stream:
            yield ExternalObject(bucket, key, raw.size, raw.content_type, stream)
