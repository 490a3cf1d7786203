"""An object of S3 as a seekable stream that survives a cut connection."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError

from common.errors import NightshiftError
from common.storage.atomic import CHUNK_BYTES
from common.storage.s3_client import coded_errors, error_code

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client

_RECONNECTS = 3


class ObjectStream(io.RawIOBase):
    """The bytes of one version of an object, over one GET and further ranged ones after a seek or a cut connection.

    Reading raises `storage_failed` when the server stays away, or when the object was overwritten meanwhile: a reader
    never sees parts of two versions. size: bytes.
    """

    def __init__(self, client: S3Client, bucket: str, key: str, endpoint: str | None) -> None:
        self._client, self._bucket, self._key, self._endpoint = client, bucket, key, endpoint
        with coded_errors(endpoint, bucket, key):
            answer = client.get_object(Bucket=bucket, Key=key)
        self._body: StreamingBody | None = answer["Body"]
        self._etag = answer["ETag"]
        self._position = 0
        self.size = answer["ContentLength"]
        self.content_type = answer.get("ContentType", "")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if target < 0:
            raise ValueError(f"negative seek position {target}")
        if target != self._position:
            self._drop()
            self._position = target
        return target

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self.size or not len(buffer):
            return 0
        with coded_errors(self._endpoint, self._bucket):
            for left in reversed(range(_RECONNECTS + 1)):
                try:
                    body = self._body = self._body or self._fetch()
                    data = body.read(min(len(buffer), self.size - self._position))
                    if not data:
                        raise urllib3.exceptions.ProtocolError("the answer ended early")
                except (BotoCoreError, urllib3.exceptions.HTTPError):
                    self._drop()
                    if not left:
                        raise
                else:
                    buffer[: len(data)] = data
                    self._position += len(data)
                    return len(data)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._drop()
        super().close()

    def _fetch(self) -> StreamingBody:
        try:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={self._position}-", IfMatch=self._etag
            )
        except ClientError as error:
            if error_code(error) in ("PreconditionFailed", "412", "NoSuchKey"):
                raise NightshiftError(
                    "storage_failed", f"The object {self._key} was changed or deleted while it was read."
                ) from error
            raise
        if not answer.get("ContentRange", "").startswith(f"bytes {self._position}-"):
            answer["Body"].close()
            raise NightshiftError(
                "storage_failed",
                "The S3 server gave another range than was asked for.",
                hint=f"See that {self._endpoint or 'Amazon S3'} and proxies before it serve ranges.",
            )
        return answer["Body"]

    def _drop(self) -> None:
        body, self._body = getattr(self, "_body", None), None
        if body is not None:
            body.close()


def open_stream(
    client: S3Client, bucket: str, key: str, endpoint: str | None
) -> tuple[ObjectStream, io.BufferedReader]:
    """The stream of an object, and the same behind a buffer of 1 MiB. Raises `input_missing`, `storage_failed`."""
    raw = ObjectStream(client, bucket, key, endpoint)
    return raw, io.BufferedReader(raw, CHUNK_BYTES)
