"""Results that are there already: the same content with the same parameters is not computed twice.

A job takes over the files of the latest job of its key whose result was decided by the same: each is copied inside the
store into the job's own folder, so that either is deleted without the other. Other keys' results are private to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.db.engine import Database
from common.engines import NAMES_INPUTS, EngineSpec
from common.errors import NightshiftError
from common.jobs import query
from common.jobs.job import Job
from common.jobs.speeds import LENGTHS
from common.storage import keys as layout
from common.storage.store import Store
from worker.engine import Source

RESULT_VERSION = "1"
"""To be raised when the same blocks would become another result: files encoded, named, tagged or drawn otherwise."""


def fingerprint(spec: EngineSpec, blocks: str, sources: Sequence[Source]) -> str | None:
    """Of all that decides a result; None for an engine whose results are of its own job alone.

    blocks: the fingerprint of the job's blocks.
    """
    if not spec.repeatable:
        return None
    names = [source.filename for source in sources] if spec.kind in NAMES_INPUTS else []
    decides = {"blocks": blocks, "names": names, "version": RESULT_VERSION}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


class Incomplete(Exception):
    """The result that would do has lost a file. Its message is a sentence."""


@dataclass(frozen=True)
class Taken:
    """A result taken over. outputs: as a result tells them.  cached: `job` that computed it, and `finished_at`.
    metrics: what there was to do, and that nothing was computed."""

    outputs: Sequence[Mapping[str, Any]]
    warnings: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    cached: Mapping[str, str]


def taken(earlier: Job, outputs: Sequence[Mapping[str, Any]]) -> Taken:
    """What a result tells that took over `outputs` from an earlier job. A job that had taken them over itself computed
    nothing, so the one before it is named."""
    result = earlier.result or {}
    told = result.get("metrics") or {}
    assert earlier.finished_at is not None
    return Taken(
        outputs,
        result.get("warnings") or [],
        {name: told[name] for name in LENGTHS if name in told} | {"cached": True},
        result.get("cached") or {"job": earlier.id, "finished_at": earlier.finished_at.isoformat()},
    )


@dataclass(frozen=True)
class Cache:
    """The results of a job's key. moved: told of outputs copied and in all, before each; raises when the job must
    stop."""

    store: Store
    database: Database
    job: Job
    moved: Callable[[int, int], None]

    def take(self, mark: str | None) -> Taken | None:
        """The result under this fingerprint, its files copied; None where there is none, or the job wants its own.

        Raises Incomplete, `storage_failed`, and what `moved` raises.
        """
        if mark is None or not self.job.request.get("cache", True):
            return None
        with self.database.read() as tx:
            earlier = query.latest(tx, self.job.key_id, mark)
        if earlier is None or earlier.result is None:
            return None
        outputs = earlier.result["outputs"]
        copied = []
        for number, output in enumerate(outputs):
            self.moved(number, len(outputs))
            copied.append({**output, "key": self._copy(earlier, output)})
        return taken(earlier, copied)

    def _copy(self, earlier: Job, output: Mapping[str, Any]) -> str:
        key = layout.artifact(self.job.id, self.job.attempt, output["filename"])
        try:
            size = self.store.copy(output["key"], key).size
        except NightshiftError as error:
            if error.code != "input_missing":
                raise
            raise Incomplete(
                f"The result of {earlier.id} has lost {output['filename']}; it is computed anew."
            ) from error
        if size != output["bytes"]:
            raise Incomplete(
                f"The file {output['filename']} of {earlier.id} has {size} bytes instead of {output['bytes']}; it is "
                "computed anew."
            )
        return key
