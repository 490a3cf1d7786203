"""Requests for batches: where the items come from, what is done to each, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from common.cron import Missed
from common.episodes import Wanted
from common.errors import NightshiftError
from common.globs import EXAMPLE, MAX_PATTERN, Selection
from common.jobs.batch import OnError
from common.naming import Template
from common.params.base import Callback, Deadline, Input, Metadata, Strict
from common.windows import Windows

MAX_ITEMS_INLINE = 1000
MAX_NAME = 120
# With a name of at most naming.MAX_NAME_BYTES, a key that S3 takes.
MAX_PREFIX_BYTES = 300

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, strip_whitespace=True)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _input(value: Any) -> Any:
    """`https://…`, `s3://…` and `upl_…` stand for the input they name."""
    if isinstance(value, str):
        starts = {"url": ("http://", "https://"), "s3": ("s3://",), "upload": ("upl_",)}
        return {next((name for name, begins in starts.items() if value.startswith(begins)), "url"): value}
    return value


AnInput = Annotated[Input, BeforeValidator(_input, json_schema_input_type=Input | str)]


class Item(Strict):
    """One item of a batch; a line of a manifest. What it says goes before what the batch says.

    id: tells it from the others where only new items are wanted.  title … number: fill the naming template.
    """

    input: AnInput | None = Field(None, description="An input, or its address as text")
    inputs: tuple[AnInput, ...] | None = Field(None, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict, description="In place of the batch's, member by member")
    metadata: Metadata = Field(default_factory=dict, max_length=32)
    deadline: datetime | None = Field(None, description="The job expires if it has not started by then")
    id: Text | None = None
    title: Text | None = None
    show: Text | None = None
    date: str | None = Field(None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    number: str | None = Field(None, pattern=r"^\d{1,9}$")

    @field_validator("number", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value


class S3Source(Strict):
    """Objects of a bucket that inputs may come from."""

    pattern: str = Field(
        max_length=MAX_PATTERN + 80,
        description="`s3://bucket/` and a prefix, or a pattern with * ? ** [] {}",
        examples=[EXAMPLE],
    )
    exclude: tuple[Annotated[str, StringConstraints(max_length=MAX_PATTERN)], ...] = Field((), max_length=20)

    @model_validator(mode="after")
    def _readable(self) -> S3Source:
        try:
            self.selection()
        except NightshiftError as error:
            raise ValueError(error.detail) from error
        return self

    def selection(self) -> Selection:
        return Selection.parse(self.pattern, self.exclude)


class FeedSource(Wanted):
    """A podcast's feed, and which of its episodes are wanted."""

    url: str = Field(max_length=4096, pattern=r"^https?://[^/\s]+")


class BatchCallback(Callback):
    """Gets a signed POST when the batch ends or stops, and on its way."""

    every_percent: int | None = Field(None, ge=1, le=50, description="Also tells each time so much more has ended")


class Deliver(Strict):
    """Copies of the results in a bucket of the caller's, under the names of the batch's template."""

    to: str = Field(
        max_length=400,
        description="`s3://bucket/prefix/` in a bucket the operator allowed",
        examples=["s3://mine/stems/"],
    )
    overwrite: bool = Field(False, description="Replaces other objects of the same names")
    pictures: bool = Field(False, description="Also the pictures of waveforms, and what they are drawn from")

    @field_validator("to")
    @classmethod
    def _a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/.*)?", value, re.DOTALL):
            raise ValueError("it does not read s3://bucket/prefix/")
        bucket, _, prefix = value.removeprefix("s3://").partition("/")
        prefix = prefix.removesuffix("/")
        if prefix and (not {"", ".", ".."}.isdisjoint(prefix.split("/")) or not prefix.isprintable()):
            raise ValueError("no part of the prefix is empty, '.' or '..', and it holds no control character")
        if len(prefix.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"the prefix has more than {MAX_PREFIX_BYTES} bytes")
        return f"s3://{bucket}/{prefix}/" if prefix else f"s3://{bucket}/"

    @property
    def bucket(self) -> str:
        return self.to.removeprefix("s3://").partition("/")[0]


class BatchWork(Strict):
    """What is done to each item, when, and what becomes of the results."""

    name: Name | None = Field(None, description="Shown wherever the batch is, and the label of its jobs")
    preset: str | None = Field(None, max_length=72, description="Named parameters, `name` or `name@version`")
    kind: str | None = Field(None, max_length=32)
    engine: str | None = Field(None, max_length=64)
    params: dict[str, Any] = Field(default_factory=dict, description="Of every item; an item's own go before")
    metadata: Metadata = Field(default_factory=dict, max_length=16, description="Kept with every job")
    priority: Literal["interactive", "batch"] = "batch"
    cache: bool = Field(True, description="Whether jobs may take over results that earlier ones have computed")
    job_callback: Callback | None = Field(None, description="Told of the end of every job")
    window: Windows | None = Field(None, description="When its jobs may run; left out: at any time")
    deadline: Deadline | None = Field(None, description="When it should be done: warned of, never enforced")
    on_error: OnError = Field(OnError.SKIP, description="Whether a wrong item, or one that fails, stops the batch")
    weight: float = Field(1.0, gt=0, le=1000, description="Share among the batches of the key")
    naming: str | None = Field(None, max_length=300, description="Template of the results' names")
    only_new: bool | None = Field(
        None, description="Leaves out what an earlier batch took from the same place for the same work; "
        "left out: so for feeds"
    )  # fmt: skip
    callback: BatchCallback | None = None
    deliver: Deliver | None = Field(None, description="Also copies the results into a bucket; left out: they stay here")

    @field_validator("naming")
    @classmethod
    def _nameable(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Template.parse(value)
            except NightshiftError as error:
                raise ValueError(error.detail) from error
        return value


class BatchRequest(BatchWork):
    """A batch, from exactly one of items, manifest, s3 and rss."""

    items: tuple[Item, ...] | None = Field(None, min_length=1, max_length=MAX_ITEMS_INLINE)
    manifest: str | None = Field(None, max_length=64, description="Id of an upload: a JSON object a line, each an item")
    s3: S3Source | None = None
    rss: FeedSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            given = [name for name in ("items", "manifest", "s3", "rss") if value.get(name) is not None]
            if len(given) != 1:
                raise ValueError("give exactly one of items, manifest, s3, rss")
        return value


class BatchChange(Strict):
    """What is to be another way from now on; what is not named stays."""

    window: Windows | None = Field(None, description="When its jobs may run; null: at any time")
    deadline: Deadline | None = Field(None, description="When it should be done; null: whenever")
    weight: float = Field(1.0, gt=0, le=1000, description="Share among the batches of the key")

    @model_validator(mode="after")
    def _something(self) -> BatchChange:
        if not self.model_fields_set:
            raise ValueError("give at least one of window, deadline, weight")
        return self


class ScheduleRequest(Strict):
    """A batch for each tick of a clock."""

    name: Name
    cron: str = Field(
        max_length=200, description="Minute, hour, day of month, month, day of week", examples=["0 21 * * *"]
    )
    timezone: str = Field(max_length=64, description="Name in the IANA database, such as Europe/Madrid")
    missed: Missed = Field(
        Missed.ONCE, description="What becomes of ticks nobody could act on: one batch for all of them, or none"
    )
    batch: BatchRequest
    deadline_after: timedelta | None = Field(
        None,
        gt=timedelta(0),
        le=timedelta(days=366),
        description="From a tick to the deadline of its batch: `PT9H`, or seconds",
    )
