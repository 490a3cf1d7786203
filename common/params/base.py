"""What the requests of every kind have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from common.engines import EngineSpec, Kind, Lane, lookup


class Strict(BaseModel):
    """Unknown members are refused: a typing mistake must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Description = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


def slug(text: str) -> str:
    """A stem's name from its description: `Man speaking!` becomes `man-speaking`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64].strip("-") or "stem"


class Input(Strict):
    """Where the media is: exactly one of the members."""

    upload: str | None = Field(None, max_length=64, description="Id of an upload")
    url: str | None = Field(None, max_length=4096, description="Public http(s) address")
    s3: str | None = Field(None, max_length=2048, description="`s3://bucket/key` in a bucket the operator allowed")
    job: str | None = Field(None, max_length=64, description="Id of another job; with `output`")
    output: str | None = Field(None, max_length=80, description="Name of that job's output")

    @model_validator(mode="after")
    def _one(self) -> Input:
        given = [name for name in ("upload", "url", "s3", "job") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of upload, url, s3, job")
        if (self.job is None) != (self.output is None):
            raise ValueError("job and output go together")
        if self.url is not None and not re.match(r"^https?://[^/\s]+", self.url, re.IGNORECASE):
            raise ValueError("url must be an absolute http or https address")
        if self.s3 is not None and not re.match(r"^s3://[^/]+/.+", self.s3):
            raise ValueError("s3 must look like s3://bucket/key")
        return self


class Previous(Strict):
    """A turn of a conversation: the job that made it."""

    job: str = Field(max_length=64, description="Id of a job of the kind `conversation`")


class Callback(Strict):
    url: str = Field(max_length=2048, pattern=r"^https?://[^/\s]+", description="Gets a signed POST when the job ends")


def _instant(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("give the deadline a time zone, Z or +02:00 for instance")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the deadline lies outside the calendar") from error


Deadline = Annotated[datetime, AfterValidator(_instant)]
"""An instant; kept in UTC."""

Metadata = dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]]


class Params(Strict):
    """What an engine is to do."""

    def check(self, spec: EngineSpec) -> None:
        """Raises `engine_unsupported` for what the engine cannot do, naming the engines that can."""


class Request(Strict):
    """A job's request. The subclass of a kind narrows `kind` and `params`, and gives `engine` its default."""

    kind: str
    engine: str = Field(max_length=64)
    params: Params
    priority: Literal["interactive", "batch"] = "interactive"
    batch: str | None = Field(None, min_length=1, max_length=120, description="A label that groups jobs")
    metadata: Metadata = Field(
        default_factory=dict, max_length=32, description="Kept with the job and sent with its callback"
    )
    deadline: Deadline | None = Field(None, description="The job expires if it has not started by then")
    cache: bool = Field(
        True,
        description="Whether the result may be taken over from an earlier job of the key with the same content, "
        "parameters and engine; false: computes anew",
    )
    callback: Callback | None = None
    preset: str | None = Field(
        None,
        max_length=72,
        description="Named parameters, `name` or `name@version`: what the request does not say itself comes from "
        "there, and the version is kept with the job",
    )

    def sources(self) -> dict[str, Input]:
        """The media the job reads, in its order, each by the JSON pointer to where the request names it."""
        return sources_of({name: getattr(self, name, None) for name in ("input", "inputs", "previous")})

    def voices(self) -> dict[str, str]:
        """Ids of the voices the job speaks in, each by the JSON pointer to where the request names it."""
        return {}

    def spec(self) -> EngineSpec:
        """The engine asked for. Raises `unknown_engine`, `engine_unsupported`."""
        spec = lookup(self.engine, Kind(self.kind))
        self.params.check(spec)
        return spec

    def lane(self) -> Lane:
        """Which workers may run the job."""
        return self.spec().lane


class MediaRequest(Request):
    """A request with exactly one input."""

    input: Input


def sources_of(body: Mapping[str, Any]) -> dict[str, Input]:
    """The media that a request's body names, by JSON pointer: in `input`, `inputs`, both or neither, whatever its kind;
    and of a conversation's earlier turn what was said, then how.

    For stored requests, which an older version of the service may have accepted.
    """
    named: dict[str, Any] = {}
    if body.get("input") is not None:
        named["/input"] = body["input"]
    named |= {f"/inputs/{i}": value for i, value in enumerate(body.get("inputs") or ())}
    if body.get("previous") is not None:
        job = Previous.model_validate(body["previous"]).job
        named["/previous"] = {"job": job, "output": "conversation"}
        named["/previous/speech"] = {"job": job, "output": "speech"}
    return {pointer: Input.model_validate(value) for pointer, value in named.items()}
