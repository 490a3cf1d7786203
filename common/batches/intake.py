"""Taking a batch in: its request accepted, its items read, judged and made jobs of, its results named.

Any process may do it, and go on with what another left. Memory holds a few hundred items, but for the naming, which
needs some twenty bytes for each.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast

from pydantic import ValidationError

from common import naming
from common.batches import outputs, sources
from common.batches.sources import Found, Harvest
from common.batches.template import Template, fields, shown
from common.db import presets, uploads
from common.db.engine import Database
from common.episodes import Episode
from common.errors import NightshiftError
from common.jobs import batch_query, batches, quota
from common.jobs.batch import Batch, OnError
from common.jobs.batches import CHUNK, Entry, IntakeLost, NewBatch
from common.naming import Item as Named
from common.outbound.guard import Guard, Remembering
from common.params import TO_COME, Input
from common.params.batch import BatchRequest, BatchWork, FeedSource, Item, S3Source
from common.pointers import located
from common.settings import Settings
from common.storage import keys as layout
from common.storage.store import Store

LEASE_SECONDS = 60.0
RETRY_SECONDS = 30.0
# Names of outputs do not matter to whether two items' names meet, where all have the same.
_ANY_STEM = ("stem",)
_PROBE = Item.model_validate({"input": "https://example.com/probe.wav"})


@dataclass(frozen=True)
class Intake:
    """The intake of one installation."""

    settings: Settings
    database: Database
    store: Store

    # --- Accepting ----------------------------------------------------------------------------------------------------

    def make(
        self,
        key_id: str,
        request: BatchWork,
        *,
        body: BinaryIO | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Batch, bool]:
        """A batch of a request, to be prepared by `run`; False where the Idempotency-Key had made it before.

        body: a manifest that came with the request. Raises what `template` and `check` raise, `idempotency_mismatch`,
        `quota_exceeded` and `storage_failed`.
        """
        self.check(request)
        template = self.template(key_id, request)
        batch_id = batches.new_id()
        source, digest = self._source(key_id, batch_id, request, body)
        new = new_batch(request, template, source, digest)
        made = False
        try:
            with self.database.write() as tx:
                batch, fresh = batches.create(tx, key_id, new, idempotency_key=idempotency_key, batch_id=batch_id)
                if fresh:
                    quota.check_bytes(tx, key_id, quota.of(tx, key_id, self.settings.quotas))
            made = fresh
        finally:
            if not made:
                self.store.delete_prefix(layout.batch_folder(batch_id))
        return batch, made

    def check(self, request: BatchWork) -> None:
        """What can be told without asking anybody. Raises `url_forbidden` and `bucket_forbidden`."""
        guard = Guard(self.settings.allow_private_hosts)
        if request.callback is not None:
            guard.check_url(request.callback.url, "/callback/url")
        if request.job_callback is not None:
            guard.check_url(request.job_callback.url, "/job_callback/url")
        if request.deliver is not None:
            outputs.check_bucket(self.settings, request.deliver.bucket, "/deliver/to")
        if isinstance(request, BatchRequest):
            if request.rss is not None:
                guard.check_url(request.rss.url, "/rss/url")
            if request.s3 is not None:
                self._check_bucket(request.s3.selection().bucket, "/s3/pattern")

    def template(self, key_id: str, request: BatchWork) -> Template:
        """Raises `unknown_preset`, `unknown_engine`, `engine_unsupported` and `invalid_request` for what no item of the
        batch could mend."""
        given = request.model_dump(mode="json", include={"preset", "kind", "engine", "params"}, exclude_none=True)
        with self.database.read() as tx:
            work = presets.resolve(tx, key_id, given)
        template = Template.of(request, work, request.name or _name(request))
        # Of these sources, items say nothing of what is to be done with them.
        _probe(template, final=isinstance(request, BatchRequest) and (request.rss or request.s3) is not None)
        return template

    def _source(
        self, key_id: str, batch_id: str, request: BatchWork, body: BinaryIO | None
    ) -> tuple[dict[str, Any], str]:  # fmt: skip
        """Where the items are, and a digest of all that was asked for."""
        asked = hashlib.sha256(request.model_dump_json(exclude_none=True).encode())
        key = layout.manifest(batch_id)
        if body is not None:
            self.store.put(key, cast(BinaryIO, _Hashed(body, asked)), "application/x-ndjson")
            return {"type": "manifest", "key": key}, asked.hexdigest()
        assert isinstance(request, BatchRequest)
        if request.items is not None:
            self._write(key, sources.from_items(request.items))
            return {"type": "items", "key": key}, asked.hexdigest()
        if request.manifest is not None:
            with self.database.read() as tx:
                upload = uploads.get(tx, request.manifest, key_id)
            if upload is None:
                raise NightshiftError("input_missing", "There is no such upload.", pointer="/manifest")
            if upload.state != "ready":
                raise NightshiftError(
                    "upload_incomplete", hint="Send the bytes that were announced, then try again.", pointer="/manifest"
                )
            return {"type": "manifest", "key": upload.storage_key, "upload": upload.id}, asked.hexdigest()
        return source_of(request), asked.hexdigest()

    # --- Taking in ----------------------------------------------------------------------------------------------------

    def run(self, batch_id: str, seconds: float | None = None) -> Batch | None:
        """Takes a batch's items in, for about `seconds`, and leaves the rest to whoever comes next; None where somebody
        else does it already, or it needs none."""
        with self.database.write() as tx:
            batch = batches.prepare(tx, batch_id, LEASE_SECONDS)
        if batch is None:
            return None
        ends = time.monotonic() + seconds if seconds is not None else None
        try:
            return self._run(batch, ends)
        except IntakeLost:
            return None
        except NightshiftError as error:
            try:
                return self._failed(batch, error)
            except IntakeLost:
                return None

    def _failed(self, batch: Batch, error: NightshiftError) -> Batch:
        said = error.as_job_error()
        with self.database.write() as tx:
            if error.retryable and error.code != "quota_exceeded":
                return batches.stumbled(tx, batch, said, RETRY_SECONDS)
            return batches.refuse(tx, batch, said)

    def _run(self, batch: Batch, ends: float | None) -> Batch:
        if "key" not in batch.source:
            batch = self._write_down(batch)
        template = Template(**batch.template)
        judge = Judge(self, batch.key_id, template)
        stream = self.store.open(batch.source["key"])
        with stream:
            found = (
                sources.from_manifest(stream) if batch.source["type"] == "manifest" else sources.from_written(stream)
            )
            rest = (one for one in found if one.line > batch.consumed)
            while chunk := list(islice(rest, CHUNK)):
                entries = judge.entries(chunk)
                wrong = next((_placed(entry) for entry in entries if entry.error is not None), None)
                with self.database.write() as tx:
                    if wrong is not None and batch.on_error is OnError.STOP:
                        return batches.refuse(tx, batch, wrong)
                    batch = batches.take_in(
                        tx,
                        batch,
                        entries,
                        default_quota=self.settings.quotas,
                        lease_seconds=LEASE_SECONDS,
                    )
                if ends is not None and time.monotonic() > ends:
                    with self.database.write() as tx:
                        batches.leave(tx, batch.id)
                    return batch
        self._name(batch, template)
        with self.database.write() as tx:
            return batches.activate(tx, batch)

    def _write_down(self, batch: Batch) -> Batch:
        harvest = self.harvest(batch.key_id, batch.source, Template(**batch.template))
        key = layout.manifest(batch.id)
        self._write(key, harvest.found)
        source = {**batch.source, "key": key, "skipped": dict(harvest.skipped)}
        with self.database.write() as tx:
            return batches.sourced(tx, batch, source, harvest.skipped.total())

    def harvest(self, key_id: str, source: Mapping[str, Any], template: Template) -> Harvest:
        """What a feed or a bucket gives now. Raises what reading them raises."""
        if source["type"] == "rss":
            feed = FeedSource.model_validate(source["rss"])

            def known(found: Iterable[Episode]) -> set[str]:
                return self._known(key_id, template, found)

            return sources.from_feed(feed, self.settings, known)
        return sources.from_s3(S3Source.model_validate(source["s3"]), self.settings)

    def _known(self, key_id: str, template: Template, found: Iterable[Episode]) -> set[str]:
        """Guids of the episodes that were taken before."""
        if not template.only_new:
            return set()
        marks: dict[str, str] = {}
        for episode in found:
            item = sources.item_of(episode)
            try:
                mark = template.mark(item, template.request(item))
            except (ValidationError, NightshiftError):
                continue
            if mark is not None:
                marks[mark] = episode.guid
        with self.database.read() as tx:
            return {marks[mark] for mark in batches.taken(tx, key_id, list(marks))}

    def _write(self, key: str, found: Iterable[Found]) -> None:
        """A manifest of our own, by way of a file: a store wants to know how much there is."""
        self.settings.scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.settings.scratch, prefix="batch-") as folder:
            path = Path(folder) / "manifest.jsonl"
            with path.open("wb") as file:
                file.writelines(sources.written(found))
            self.store.put(key, path, "application/x-ndjson")

    def _name(self, batch: Batch, template: Template) -> None:
        """Gives items whose results would have the same names what tells them apart."""
        if "{index" in template.naming:
            return
        suffixes = naming.suffixes(
            naming.Template.parse(template.naming), _Items(self.database, batch), _ANY_STEM, "flac"
        )
        while part := list(islice(suffixes, CHUNK)):
            with self.database.write() as tx:
                batch_query.suffix(tx, batch.id, {int(item): text for item, text in part})

    def _check_bucket(self, bucket: str, pointer: str) -> None:
        if bucket not in self.settings.s3_input_buckets:
            raise NightshiftError(
                "bucket_forbidden",
                f"The bucket {bucket} is not one that inputs may come from.",
                hint="The operator lists such buckets in NIGHTSHIFT_S3_INPUT_BUCKETS.",
                pointer=pointer,
            )


class Judge:
    """Makes entries of items: each with a request that could be submitted, or with what is wrong with it."""

    def __init__(self, intake: Intake, key_id: str, template: Template) -> None:
        self._intake, self._key_id, self._template = intake, key_id, template
        self._guard = Remembering(Guard(intake.settings.allow_private_hosts))

    def entries(self, chunk: list[Found]) -> list[Entry]:
        ready = self._ready(chunk)
        return [self._entry(found, ready) for found in chunk]

    def _entry(self, found: Found, ready: Mapping[str, str]) -> Entry:
        if found.item is None:
            return Entry(found.line, error=found.error, source=found.source)
        source = found.source or shown(found.item)
        try:
            request = self._template.request(found.item)
            wanted = request.sources()
            self._check(wanted, ready)
        except ValidationError as error:
            return Entry(found.line, error=_error(error, found.item), source=source)
        except NightshiftError as error:
            return Entry(found.line, error=error.as_job_error(), source=source)
        named = fields(found.item)
        first = next(iter(wanted.values()), None)
        if first is not None and first.upload is not None:
            named["name"] = Path(ready[first.upload]).stem or named["name"]
        mark = self._template.mark(found.item, request)
        return Entry(found.line, request, mark=mark, fields=named, source=source, seconds=found.seconds or None)

    def _check(self, wanted: Mapping[str, Input], ready: Mapping[str, str]) -> None:
        for pointer, source in wanted.items():
            if source.url is not None:
                self._guard.check_url(source.url, f"{pointer}/url")
            if source.s3 is not None:
                self._intake._check_bucket(source.s3.removeprefix("s3://").partition("/")[0], f"{pointer}/s3")
            if source.upload is not None and source.upload not in ready:
                raise NightshiftError(
                    "input_missing",
                    f"There is no upload {source.upload}, or its bytes are not there.",
                    pointer=f"{pointer}/upload",
                )

    def _ready(self, chunk: list[Found]) -> dict[str, str]:
        """File names of the uploads that these items name and that are there."""
        wanted = [found.item for found in chunk if found.item is not None]
        ids = {s.upload for item in wanted for s in (item.input, *(item.inputs or ())) if s and s.upload}
        if not ids:
            return {}
        with self._intake.database.read() as tx:
            return uploads.ready_names(tx, self._key_id, sorted(ids))


class _Items(Collection[Named]):
    """The items of a batch as the naming wants them: walked through more than once, never held."""

    def __init__(self, database: Database, batch: Batch) -> None:
        self._database, self._batch = database, batch

    def __iter__(self) -> Iterator[Named]:
        after = 0
        while True:
            with self._database.read() as tx:
                found = batch_query.named(tx, self._batch.id, after=after, limit=CHUNK)
            for item, given in found:
                yield Named(str(item), {**given, "batch": self._batch.name, "index": str(item)})
            if len(found) < CHUNK:
                return
            after = found[-1][0]

    def __len__(self) -> int:
        return self._batch.total

    def __contains__(self, item: object) -> bool:
        return any(item == one for one in self)


class _Hashed(io.RawIOBase):
    """A body on its way to the store, added to a digest while it passes."""

    def __init__(self, source: BinaryIO, digest: Any) -> None:
        self._source, self._digest = source, digest

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        data = self._source.read(count)
        self._digest.update(data)
        return data

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def source_of(request: BatchRequest) -> dict[str, Any]:
    """A feed or a bucket as it is kept with a batch."""
    if request.rss is not None:
        return {"type": "rss", "rss": request.rss.model_dump(mode="json", exclude_none=True)}
    assert request.s3 is not None
    return {"type": "s3", "s3": request.s3.model_dump(mode="json", exclude_none=True)}


def new_batch(request: BatchWork, template: Template, source: Mapping[str, Any], digest: str) -> NewBatch:
    return NewBatch(
        name=template.work["batch"],
        source=source,
        template=template.stored(),
        digest=digest,
        window=str(request.window) if request.window is not None else None,
        deadline=request.deadline,
        on_error=request.on_error,
        weight=request.weight,
        callback=request.callback.model_dump(exclude_none=True) if request.callback is not None else None,
        deliver=request.deliver.model_dump() if request.deliver is not None else None,
    )


def _probe(template: Template, final: bool) -> None:
    """Raises for what is wrong with every item, whatever an item says itself. final: what is missing, no item will say
    either."""
    try:
        template.request(_PROBE)
    except ValidationError as error:
        given = dict(template.work)
        wrong = [
            item
            for item in error.errors()
            if (final or item["type"] not in TO_COME) and "input" not in item["loc"][-1:]
        ]
        if wrong:
            where = located(wrong[0]["loc"], given)
            raise NightshiftError(
                "invalid_request",
                f"{where}: {wrong[0]['msg'].removeprefix('Value error, ')}",
                pointer=where,
                hint="Name a preset that says it, or say it in params (--preset, --prompt)."
                if wrong[0]["type"] in TO_COME
                else "",
            ) from error


def _placed(entry: Entry) -> dict[str, Any]:
    """What is wrong with an item, by itself: its message names the line."""
    error, line = dict(entry.error or {}), f"Line {entry.position}: "
    return {**error, "message": line + str(error["message"]).removeprefix(line)}


def _error(error: ValidationError, item: Item) -> dict[str, Any]:
    body = item.model_dump(mode="json", exclude_none=True)
    problems = [
        {"pointer": located(one["loc"], body), "detail": one["msg"].removeprefix("Value error, ")}
        for one in error.errors()[:5]
    ]
    first = problems[0]
    return {
        "code": "invalid_request",
        "message": f"{first['pointer']}: {first['detail']}",
        "retryable": False,
        "pointer": first["pointer"],
        "errors": problems,
    }


def _name(request: BatchWork) -> str:
    """For a batch that was given none."""
    if isinstance(request, BatchRequest):
        if request.rss is not None:
            return request.rss.url[:120]
        if request.s3 is not None:
            return request.s3.pattern[:120]
    return "batch"
