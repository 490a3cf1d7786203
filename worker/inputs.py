"""Bringing a job's input to this machine: from an upload, a public address, an allowed bucket, or another job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common.db import uploads, voices
from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import query
from common.jobs.job import Job
from common.outbound.fetch import fetch
from common.params import Input, parse_request, sources_of
from common.settings import Settings
from common.storage.store import Store
from worker.engine import Source, Voice
from worker.media.probe import sha256_file

_CHUNK = 1 << 20

Tell = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Inputs:
    """Fetches inputs. tell: bytes so far and in all; check: raises when the job must stop."""

    settings: Settings
    database: Database
    store: Store

    def bring(self, job: Job, folder: Path, tell: Tell, check: Callable[[], None]) -> tuple[Source, ...]:
        """The job's inputs in `folder`, in the request's order.

        Raises `input_*`, `too_large`, `empty_input`, `url_forbidden`, `bucket_forbidden`, `storage_failed`.
        """
        wanted = sources_of(job.request)
        return tuple(
            _Fetch(self, job, pointer, source, folder / f"input-{number}", tell, check).run()
            for number, (pointer, source) in enumerate(wanted.items())
        )

    def bring_voices(self, job: Job, folder: Path, check: Callable[[], None]) -> dict[str, Voice]:
        """The voices that the job names, by their id, their excerpts in `folder`.

        Raises `voice_missing`, `voice_not_ready`, `storage_failed`.
        """
        named = parse_request(dict(job.request)).voices()
        with self.database.read() as tx:
            found = voices.require(tx, job.key_id, named)
        brought = {}
        for pointer, voice_id in named.items():
            check()
            voice = found[voice_id]
            assert voice.excerpt is not None and voice.transcript is not None
            target = folder / f"{voice_id}.flac"
            try:
                self.store.download(voice.excerpt, target)
            except NightshiftError as error:
                if error.code != "input_missing":
                    raise
                raise NightshiftError(
                    "voice_missing", f"The audio of the voice {voice_id} is gone from the storage.", pointer=pointer
                ) from error
            brought[voice_id] = Voice(voice_id, voice.name, target, voice.transcript)
        return brought


@dataclass(frozen=True)
class _Fetch:
    """One input on its way."""

    inputs: Inputs
    job: Job
    pointer: str
    wanted: Input
    target: Path
    tell: Tell
    check: Callable[[], None]

    def run(self) -> Source:
        wanted, target = self.wanted, self.target
        declared: str | None = None
        if wanted.url is not None:
            name = self._from_url(wanted.url)
        elif wanted.s3 is not None:
            name = self._from_bucket(wanted.s3)
        elif wanted.upload is not None:
            name, declared = self._from_upload(wanted.upload)
        else:
            name = self._from_job()
        size = target.stat().st_size
        if size == 0:
            raise NightshiftError(
                "empty_input", "The input has no bytes.", hint="Send the file again.", pointer=self.pointer
            )
        digest = sha256_file(target)
        if declared is not None and digest != declared:
            raise NightshiftError(
                "input_altered",
                f"The upload's SHA-256 is {digest}, not the declared {declared}.",
                hint="Upload the file again.",
                pointer=f"{self.pointer}/upload",
            )
        return Source(target, name, size, digest)

    def _from_url(self, url: str) -> str:
        settings = self.inputs.settings
        fetched = fetch(
            url,
            self.target,
            max_bytes=settings.max_upload_bytes,
            deadline_seconds=settings.fetch_timeout_seconds,
            allow_hosts=settings.allow_private_hosts,
            check=self.check,
            on_progress=self.tell,
        )
        return fetched.filename or "input"

    def _from_bucket(self, uri: str) -> str:
        # boto3 is only needed here; the embedded stack does without.
        from common.storage.s3_inputs import S3Inputs

        with S3Inputs(self.inputs.settings).open(uri) as found:
            self._copy(found.stream, found.size)
        return found.key.rsplit("/", 1)[-1]

    def _from_upload(self, upload_id: str) -> tuple[str, str | None]:
        with self.inputs.database.read() as tx:
            upload = uploads.get(tx, upload_id, self.job.key_id)
        if upload is None:
            raise NightshiftError("input_missing", f"The upload {upload_id} is gone.", pointer=f"{self.pointer}/upload")
        self._from_store(upload.storage_key)
        return upload.filename, upload.sha256

    def _from_job(self) -> str:
        wanted = self.wanted
        assert wanted.job is not None
        with self.inputs.database.read() as tx:
            other = query.get(tx, wanted.job, self.job.key_id)
        found = output(other.result, wanted.output) if other is not None and other.result else None
        if found is None:
            raise NightshiftError(
                "input_missing",
                f"The job {wanted.job} has no output {wanted.output!r}.",
                pointer=f"{self.pointer}/output",
            )
        self._from_store(found["key"])
        return str(found["filename"])

    def _from_store(self, key: str) -> None:
        store = self.inputs.store
        stat = store.stat(key)
        if stat is None:
            raise NightshiftError("input_missing", "The input's file is gone from the storage.", pointer=self.pointer)
        with store.open(key) as stream:
            self._copy(stream, stat.size)

    def _copy(self, stream: BinaryIO, size: int) -> None:
        limit = self.inputs.settings.max_upload_bytes
        if size > limit:
            raise NightshiftError(
                "too_large", f"The input has {size} bytes; at most {limit} are allowed.", pointer=self.pointer
            )
        if shutil.disk_usage(self.target.parent).free < size + (256 << 20):
            raise NightshiftError("unavailable", "The worker's disk is full.", hint="Free space in its scratch folder.")
        done = 0
        with self.target.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                self.check()
                self.tell(done, size)


def output(result: Mapping[str, Any], name: str | None) -> Mapping[str, Any] | None:
    """The output of that name in a job's result; None where there is none."""
    return next((entry for entry in result["outputs"] if entry["name"] == name), None)
