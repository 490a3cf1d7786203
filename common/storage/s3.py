"""The store in a bucket of an S3 server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from common.errors import NightshiftError
from common.settings import Settings
from common.storage.atomic import save
from common.storage.keys import check_folder, check_key, check_prefix, content_disposition
from common.storage.s3_client import MISSING_BUCKET, MISSING_KEY, coded_errors, connect, error_code, try_writing
from common.storage.s3_stream import open_stream
from common.storage.store import PresignedPut, Stat

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_MIB = 1 << 20
_LONGEST_LINK = 7 * 24 * 3600  # the limit of signature version 4, seconds


class S3Store:
    """A store in one bucket. Uploads hold at most eight parts of 8 MiB in memory; objects up to 78 GiB.

    client: for the store's own work.  link_client: signs links; its endpoint is the one that callers reach.
    page_size: objects per page of a listing and per bulk delete, at most 1000.
    """

    def __init__(
        self,
        client: S3Client,
        link_client: S3Client,
        bucket: str,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        page_size: int = 1000,
    ) -> None:
        self._client, self._link_client, self._bucket = client, link_client, bucket
        self._endpoint, self._region, self._page_size = endpoint, region, page_size
        self._transfer = TransferConfig(multipart_threshold=8 * _MIB, multipart_chunksize=8 * _MIB, max_concurrency=4)
        self._transfer.max_in_memory_upload_chunks = 4
        # No bytes come here; but the server must answer before the connection counts as dead.
        self._copying = TransferConfig(multipart_threshold=256 * _MIB, multipart_chunksize=256 * _MIB)

    @classmethod
    def from_settings(cls, settings: Settings, *, page_size: int = 1000) -> S3Store:
        """The store that the settings name; contacts nothing."""
        if not settings.s3_bucket:
            raise ValueError("s3_bucket is not set")
        client = connect(settings, settings.s3_endpoint)
        public = settings.s3_public_endpoint or settings.s3_endpoint
        link_client = client if public == settings.s3_endpoint else connect(settings, public)
        return cls(
            client,
            link_client,
            settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            page_size=page_size,
        )

    def put(self, key: str, source: Path | BinaryIO, content_type: str = "application/octet-stream") -> Stat:
        check_key(key)
        with ExitStack() as stack:
            stream = _Source(stack.enter_context(source.open("rb")) if isinstance(source, Path) else source)
            stack.enter_context(self._coded(key))
            self._client.upload_fileobj(
                stream,  # type: ignore[arg-type]
                self._bucket,
                key,
                ExtraArgs={"ContentType": content_type},
                Config=self._transfer,
            )
            found = self.stat(key)
        if found is None:
            raise NightshiftError("input_missing", f"The object {key} was deleted while it was stored.")
        return found

    def copy(self, source: str, target: str) -> Stat:
        check_key(target)
        found = self.stat(source)
        if found is None:
            raise NightshiftError("input_missing", f"There is no object {source} in the storage.")
        with self._coded(source):
            # A copy in parts takes over no content type by itself.
            self._client.copy(
                {"Bucket": self._bucket, "Key": source},
                self._bucket,
                target,
                ExtraArgs={"ContentType": found.content_type, "MetadataDirective": "REPLACE"},
                Config=self._copying,
            )
            copied = self.stat(target)
        if copied is None:
            raise NightshiftError("input_missing", f"The object {target} was deleted while it was stored.")
        return copied

    def open(self, key: str) -> BinaryIO:
        return open_stream(self._client, self._bucket, check_key(key), self._endpoint)[1]

    def download(self, key: str, target: Path) -> None:
        with self.open(key) as source:
            save(source, target)

    def stat(self, key: str) -> Stat | None:
        check_key(key)
        with self._coded(key):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if error_code(error) not in MISSING_KEY:
                    raise
                # The answer to a HEAD does not say whether key or bucket is missing, and a job must not fail for good
                # because the bucket's name is wrong.
                self._require_bucket()
                return None
        return Stat(key, found["ContentLength"], found.get("ContentType", ""), found["LastModified"].astimezone(UTC))

    def list(self, prefix: str) -> Iterator[Stat]:
        """As the protocol says; `content_type` is empty, since S3 does not list it."""
        check_prefix(prefix)
        with self._coded():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": self._page_size}
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    yield Stat(found["Key"], found["Size"], "", found["LastModified"].astimezone(UTC))

    def delete(self, key: str) -> None:
        check_key(key)
        with self._coded():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_prefix(self, prefix: str) -> int:
        check_folder(prefix)
        deleted = 0
        batch: list[str] = []
        for found in self.list(prefix):
            batch.append(found.key)
            if len(batch) == self._page_size:
                deleted += self._delete_batch(batch)
                batch = []
        return deleted + self._delete_batch(batch)

    def link(self, key: str, seconds: int, filename: str) -> str | None:
        """As the protocol says; at most seven days, the limit of S3's signatures."""
        check_key(key)
        with self._coded():
            return self._link_client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentDisposition": content_disposition(filename),
                },
                ExpiresIn=min(seconds, _LONGEST_LINK),
            )

    def upload_link(self, key: str, size: int, content_type: str, seconds: int) -> PresignedPut | None:
        check_key(key)
        with self._coded():
            url = self._link_client.generate_presigned_url(
                "put_object",
                Params={"Bucket": self._bucket, "Key": key, "ContentLength": size, "ContentType": content_type},
                ExpiresIn=min(seconds, _LONGEST_LINK),
            )
        return PresignedPut(url, {"Content-Type": content_type, "Content-Length": str(size)})

    def check(self) -> None:
        """As the protocol says."""
        self._require_bucket()
        with self._coded():
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
            try_writing(self._client, self._bucket)

    def ensure_bucket(self) -> None:
        """Makes the bucket where it does not exist. Raises `storage_failed`."""
        with self._coded():
            try:
                self._client.head_bucket(Bucket=self._bucket)
                return
            except ClientError as error:
                if error_code(error) not in MISSING_KEY | MISSING_BUCKET:
                    raise
            try:
                if self._endpoint is None and self._region != "us-east-1":
                    self._client.create_bucket(
                        Bucket=self._bucket,
                        CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                    )
                else:
                    self._client.create_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error_code(error) != "BucketAlreadyOwnedByYou":
                    raise

    def sweep(self, older_than_seconds: float) -> int:
        """Aborts uploads that writers that died left half-done, if begun so long ago; returns how many."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        swept = 0
        with self._coded():
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket):
                for begun in page.get("Uploads", ()):
                    if begun["Initiated"] <= before:
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=begun["Key"], UploadId=begun["UploadId"]
                        )
                        swept += 1
        return swept

    def _coded(self, key: str = "") -> AbstractContextManager[None]:
        return coded_errors(self._endpoint, self._bucket, key)

    def _require_bucket(self) -> None:
        with self._coded():
            self._client.head_bucket(Bucket=self._bucket)

    def _delete_batch(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        with self._coded():
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        if errors := answer.get("Errors"):
            first = errors[0]
            raise NightshiftError(
                "storage_failed",
                f"{len(errors)} of {len(keys)} objects could not be deleted, first {first.get('Key')} "
                f"({first.get('Code')}).",
                hint=f"Let the access key delete in the bucket {self._bucket}.",
            )
        return len(keys)


class _Source:
    """A source as a thing that can only be read: boto3 closes what it is given, and a source belongs to its caller."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)
