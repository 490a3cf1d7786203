"""What a job leaves in the store: finished blocks as it goes, artifacts at its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.db.engine import Database
from common.engines import Kind
from common.jobs import running
from common.jobs.job import Job
from common.storage import keys as layout
from common.storage.store import Store
from worker.engine import Artifact, BlockDone, Voice
from worker.media.probe import sha256_file

_BLOCK_TYPE = "application/octet-stream"


def fingerprint(job: Job, engine_version: str, inputs: Sequence[str], block_seconds: float | None) -> str:
    """Of everything that decides what a block holds: blocks under another fingerprint are not used.

    inputs: SHA-256 of each, and of each voice.
    """
    decides = {
        "kind": job.kind,
        "engine": job.engine,
        "version": engine_version,
        "params": job.request["params"],
        "inputs": list(inputs),
        "block_seconds": block_seconds,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def digest(voice: Voice) -> str:
    """Of a voice as engines hear it, in hexadecimal."""
    return hashlib.sha256(f"{sha256_file(voice.audio)} {voice.transcript}".encode()).hexdigest()


def folder_of(job: Job) -> str:
    """Where this attempt's artifacts go: a voice's audio belongs to the voice, and outlives the job."""
    if job.kind == Kind.VOICE:
        return layout.voice_folder(job.key_id, job.request["params"]["voice"], job.attempt)
    return layout.attempt_folder(job.id, job.attempt)


class StoredBlocks:
    """The blocks of earlier attempts, brought from the store when they are asked for."""

    def __init__(self, store: Store, found: Mapping[int, Mapping[str, str]], folder: Path) -> None:
        self._store = store
        self._found = found
        self._folder = folder

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self._found)

    def fetch(self, index: int) -> Mapping[str, Path]:
        files = {}
        for stem, key in self._found[index].items():
            path = self._folder / f"resumed-{index:06d}-{key.rsplit('/', 1)[-1]}"
            if not path.exists():
                self._store.download(key, path)
            files[stem] = path
        return files


@dataclass(frozen=True)
class Publisher:
    """Stores a running job's files. Each file is in the store before the database speaks of it.

    folder: where the artifacts go.
    """

    store: Store
    database: Database
    job: Job
    fingerprint: str
    lease_seconds: float
    check: Callable[[], None]
    folder: str

    def block(self, done: BlockDone) -> None:
        """Stores a finished block and records it. Raises LeaseLost."""
        files = {}
        for stem, path in done.files.items():
            self.check()
            key = layout.block(self.job.id, self.fingerprint, done.index, stem, path.suffix.lstrip("."))
            self.store.put(key, path, _BLOCK_TYPE)
            files[stem] = key
        self.database.run(
            running.checkpoint,
            self.job.lease,
            self.lease_seconds,
            self.fingerprint,
            done.index,
            done.total,
            files,
        )

    def artifact(self, artifact: Artifact) -> dict[str, Any]:
        """Stores an artifact in the folder; returns its entry in the result."""
        self.check()
        key = layout.check_key(self.folder + artifact.path.name)
        stat = self.store.put(key, artifact.path, artifact.content_type)
        return {
            "name": artifact.name,
            "role": artifact.role,
            "filename": artifact.path.name,
            "content_type": artifact.content_type,
            "bytes": stat.size,
            "sha256": sha256_file(artifact.path),
            "key": key,
            **artifact.meta,
        }
