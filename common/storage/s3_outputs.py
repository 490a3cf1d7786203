"""Results copied into buckets of their owners, with the service's own access key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from common.errors import NightshiftError
from common.settings import Settings
from common.storage.s3_client import (
    MISSING_BUCKET,
    MISSING_KEY,
    REFUSED,
    coded_errors,
    connect,
    error_code,
    try_writing,
)
from common.storage.store import Store

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_MIB = 1 << 20
# Where a copy's metadata keeps the digest of its content, in hexadecimal.
DIGEST = "sha256"


class S3Outputs:
    """Copies over one client. Safe for threads; contacts nothing until a result is copied.

    An object appears whole or not at all. Memory: two parts of 8 MiB for a result that lies in a local folder; what
    lies on the S3 server is copied there, in parts of `part_bytes`, and nothing of it passes through here.
    """

    def __init__(self, settings: Settings, store: Store, *, part_bytes: int = 64 * _MIB) -> None:
        self._store, self._own_bucket, self._endpoint = store, settings.s3_bucket, settings.s3_endpoint
        self._client: S3Client = connect(settings, settings.s3_endpoint)
        # In this thread alone: many copies run beside each other anyway.
        self._sending = TransferConfig(multipart_threshold=8 * _MIB, multipart_chunksize=8 * _MIB, use_threads=False)
        self._copying = TransferConfig(
            multipart_threshold=part_bytes, multipart_chunksize=part_bytes, use_threads=False
        )  # fmt: skip

    def bring(self, output: Mapping[str, Any], target: str, *, overwrite: bool) -> None:
        """Sees to it that the `s3://` address `target` holds an output of a job; what lies there already is not copied
        again. output: its entry in the job's result.

        Raises `target_exists`, `delivery_refused`, `input_missing` where the result is gone, and `storage_failed`.
        """
        bucket, _, key = target.removeprefix("s3://").partition("/")
        with self._coded(bucket):
            there = self._look(bucket, key)
        wanted = (output["bytes"], output["sha256"])
        if there == wanted:
            return
        if there is not None and not overwrite:
            raise NightshiftError(
                "target_exists",
                f"Another object lies at {target}.",
                hint="Move it away and have the delivery tried again, or start a batch with `overwrite`.",
            )
        if self._store.stat(output["key"]) is None:
            raise NightshiftError("input_missing", f"The result {output['key']} is no longer in the storage.")
        with self._coded(bucket):
            self._copy(output, bucket, key)
            if self._look(bucket, key) != wanted:
                raise NightshiftError("storage_failed", f"What lies at {target} now is not what was sent.")

    def check(self, bucket: str) -> None:
        """Whether results can be written into the bucket. Raises `delivery_refused` and `storage_failed`."""
        with self._coded(bucket):
            try_writing(self._client, bucket)

    def _copy(self, output: Mapping[str, Any], bucket: str, key: str) -> None:
        told: dict[str, Any] = {"ContentType": output["content_type"], "Metadata": {DIGEST: output["sha256"]}}
        if self._own_bucket is None:
            with self._store.open(output["key"]) as stream:
                self._client.upload_fileobj(stream, bucket, key, ExtraArgs=told, Config=self._sending)
            return
        source = {"Bucket": self._own_bucket, "Key": output["key"]}
        self._client.copy(
            source,  # type: ignore[arg-type]
            bucket,
            key,
            ExtraArgs={**told, "MetadataDirective": "REPLACE"},
            Config=self._copying,
        )

    def _look(self, bucket: str, key: str) -> tuple[int, str] | None:
        """Size and digest of the object there; None where there is none."""
        try:
            found = self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # The answer does not tell a missing bucket from a missing object; writing will.
            if error_code(error) not in MISSING_KEY:
                raise
            return None
        return found["ContentLength"], found["Metadata"].get(DIGEST, "")

    @contextmanager
    def _coded(self, bucket: str) -> Iterator[None]:
        try:
            with coded_errors(self._endpoint, bucket):
                yield
        except NightshiftError as error:
            cause = error.__cause__
            code = error_code(cause) if isinstance(cause, ClientError) else ""
            if code in REFUSED | MISSING_BUCKET | MISSING_KEY:
                raise _refused(bucket, code) from cause
            raise


def _refused(bucket: str, code: str) -> NightshiftError:
    if code in REFUSED:
        return NightshiftError(
            "delivery_refused",
            f"The S3 server refused to let this service write into the bucket {bucket} ({code}).",
            hint=f"Let the service's access key list {bucket}, and read and write its objects; then have the delivery "
            "tried again.",
        )
    return NightshiftError(
        "delivery_refused",
        f"The bucket {bucket} does not exist.",
        hint=f"Make the bucket {bucket}, and have the delivery tried again.",
    )
