"""Bringing a job's input to this machine: from an upload, a public address, an allowed bucket, or another job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common.db import uploads
from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import query
from common.jobs.job import Job
from common.outbound.fetch import fetch
from common.params import Input
from common.settings import Settings
from common.storage.store import Store
from worker.media.probe import sha256_file

_CHUNK = 1 << 20

Tell = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Source:
    """A job's input on this machine. size: bytes.  sha256: hex."""

    path: Path
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Inputs:
    """Fetches inputs. tell: bytes so far and in all; check: raises when the job must stop."""

    settings: Settings
    database: Database
    store: Store

    def bring(self, job: Job, folder: Path, tell: Tell, check: Callable[[], None]) -> Source:
        """The input in `folder`.

        Raises `input_*`, `too_large`, `empty_input`, `url_forbidden`, `bucket_forbidden`, `storage_failed`.
        """
        wanted = Input.model_validate(job.request["input"])
        target = folder / "input"
        declared: str | None = None
        if wanted.url is not None:
            name = self._from_url(wanted.url, target, tell, check)
        elif wanted.s3 is not None:
            name = self._from_bucket(wanted.s3, target, tell, check)
        elif wanted.upload is not None:
            name, declared = self._from_upload(job, wanted.upload, target, tell, check)
        else:
            name = self._from_job(job, wanted, target, tell, check)
        size = target.stat().st_size
        if size == 0:
            raise NightshiftError(
                "empty_input", "The input has no bytes.", hint="Send the file again.", pointer="/input"
            )
        digest = sha256_file(target)
        if declared is not None and digest != declared:
            raise NightshiftError(
                "input_altered",
                f"The upload's SHA-256 is {digest}, not the declared {declared}.",
                hint="Upload the file again.",
                pointer="/input/upload",
            )
        return Source(target, name, size, digest)

    def _from_url(self, url: str, target: Path, tell: Tell, check: Callable[[], None]) -> str:
        fetched = fetch(
            url,
            target,
            max_bytes=self.settings.max_upload_bytes,
            deadline_seconds=self.settings.fetch_timeout_seconds,
            allow_hosts=self.settings.allow_private_hosts,
            check=check,
            on_progress=tell,
        )
        return fetched.filename or "input"

    def _from_bucket(self, uri: str, target: Path, tell: Tell, check: Callable[[], None]) -> str:
        # boto3 is only needed here; the embedded stack does without.
        from common.storage.s3_inputs import S3Inputs

        with S3Inputs(self.settings).open(uri) as found:
            self._copy(found.stream, found.size, target, tell, check)
        return found.key.rsplit("/", 1)[-1]

    def _from_upload(
        self, job: Job, upload_id: str, target: Path, tell: Tell, check: Callable[[], None]
    ) -> tuple[str, str | None]:
        with self.database.read() as tx:
            upload = uploads.get(tx, upload_id, job.key_id)
        if upload is None:
            raise NightshiftError("input_missing", f"The upload {upload_id} is gone.", pointer="/input/upload")
        self._from_store(upload.storage_key, target, tell, check)
        return upload.filename, upload.sha256

    def _from_job(self, job: Job, wanted: Input, target: Path, tell: Tell, check: Callable[[], None]) -> str:
        assert wanted.job is not None
        with self.database.read() as tx:
            other = query.get(tx, wanted.job, job.key_id)
        found = output(other.result, wanted.output) if other is not None and other.result else None
        if found is None:
            raise NightshiftError(
                "input_missing", f"The job {wanted.job} has no output {wanted.output!r}.", pointer="/input/output"
            )
        self._from_store(found["key"], target, tell, check)
        return str(found["filename"])

    def _from_store(self, key: str, target: Path, tell: Tell, check: Callable[[], None]) -> None:
        stat = self.store.stat(key)
        if stat is None:
            raise NightshiftError("input_missing", "The input's file is gone from the storage.", pointer="/input")
        with self.store.open(key) as stream:
            self._copy(stream, stat.size, target, tell, check)

    def _copy(self, stream: BinaryIO, size: int, target: Path, tell: Tell, check: Callable[[], None]) -> None:
        limit = self.settings.max_upload_bytes
        if size > limit:
            raise NightshiftError(
                "too_large", f"The input has {size} bytes; at most {limit} are allowed.", pointer="/input"
            )
        if shutil.disk_usage(target.parent).free < size + (256 << 20):
            raise NightshiftError("unavailable", "The worker's disk is full.", hint="Free space in its scratch folder.")
        done = 0
        with target.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                check()
                tell(done, size)


def output(result: Mapping[str, Any], name: str | None) -> Mapping[str, Any] | None:
    """The output of that name in a job's result; None where there is none."""
    return next((entry for entry in result["outputs"] if entry["name"] == name), None)
