"""The models of every answer: what the OpenAPI document shows is what the views build."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from common.db.keys import Scope
from common.engines import Kind, Lane
from common.states import Reason, State

T = TypeVar("T")


class Model(BaseModel):
    """Unset members are given as null: a client need not ask whether a member is there."""

    model_config = ConfigDict(frozen=True)


class Page(Model, Generic[T]):
    """A page of a list, newest first."""

    items: list[T]
    next: str | None = Field(None, description="Cursor of the next page; null on the last one")


class FieldError(Model):
    """One thing that is wrong with a request."""

    pointer: str | None = Field(None, description="JSON pointer into the body")
    parameter: str | None = Field(None, description="Name of the query parameter")
    header: str | None = Field(None, description="Name of the header")
    detail: str


class Problem(BaseModel):
    """An error, after RFC 9457. Clients branch on `code`, which never changes its meaning."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = Field(description="A sentence about this case")
    code: str
    retryable: bool = Field(description="Whether the same request may succeed later")
    request_id: str = Field(description="Names this request in the operator's log")
    hint: str | None = Field(None, description="What to do next")
    pointer: str | None = Field(None, description="JSON pointer to the offending member of the body")
    errors: list[FieldError] | None = Field(None, description="All that is wrong, where it is more than one thing")


# --- Jobs ------------------------------------------------------------------------------------------------------------


class Progress(Model):
    """How far a job is. done, total: of the phase, in `unit`.  block: finished blocks."""

    phase: str | None = None
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    block: int | None = None
    blocks: int | None = None
    percent: float | None = Field(None, ge=0, le=100, description="Of the phase")
    eta_seconds: float | None = Field(None, description="Estimated time left; null where there is no ground for one")


class Queue(Model):
    """Where an unfinished job stands. ahead: jobs of the same key that come first, counted up to 1,000."""

    lane: Lane
    ahead: int
    workers: int = Field(description="Live workers of the lane")


class JobError(BaseModel):
    """Why a job failed, or what its last attempt failed of."""

    model_config = ConfigDict(extra="allow", frozen=True)

    code: str
    message: str
    retryable: bool = False
    hint: str | None = None


class Output(BaseModel):
    """A file of the result. Further members are figures of the file, by role."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    role: str
    filename: str
    content_type: str
    bytes: int
    sha256: str | None = None


class Warning(BaseModel):
    """Something about the input or the run that the caller should know."""

    model_config = ConfigDict(extra="allow", frozen=True)

    code: str
    message: str


class Job(Model):
    id: str
    kind: Kind
    engine: str
    state: State
    reason: Reason = Field(description="Why it is in that state")
    priority: Literal["interactive", "batch"]
    batch: str | None
    input: dict[str, Any] | None = Field(description="As it was submitted")
    inputs: list[dict[str, Any]] | None = Field(description="As they were submitted, where there may be several")
    params: dict[str, Any] = Field(description="As it was submitted, with the defaults")
    metadata: dict[str, str]
    callback_url: str | None
    upstream: str | None = Field(description="The job whose output this one waits for")
    attempt: int = Field(description="How often a worker has taken it up")
    failures: int = Field(description="How many attempts failed")
    worker: str | None = Field(description="Who runs it now")
    cancel_requested: bool
    progress: Progress | None
    queue: Queue | None = Field(None, description="While it is unfinished, in the answer for one job")
    error: JobError | None
    outputs: list[Output] | None = Field(description="What it made; links are in its results")
    warnings: list[Warning]
    metrics: dict[str, Any] | None
    deadline: datetime | None
    run_at: datetime = Field(description="Not started before: a retry waits until then")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class JobPage(Page[Job]):
    pass


class Event(Model):
    """A line of a job's log. type: `state` for a change of state, `log` for what the worker had to say."""

    id: int
    at: datetime
    type: Literal["state", "log"]
    data: dict[str, Any]


class EventList(Model):
    items: list[Event]
    next: int | None = Field(None, description="Pass as `after` for what follows; null where this is all for now")


class LinkedOutput(Output):
    """A file of the result with a link that needs no key."""

    url: str
    expires_at: datetime


class Results(Model):
    job: str
    engine: dict[str, Any] | None = Field(description="Name and version of the engine that ran")
    inputs: list[dict[str, Any]] = Field(description="What was processed: filename, bytes, sha256 of each")
    outputs: list[LinkedOutput]
    warnings: list[Warning]
    metrics: dict[str, Any]


# --- Uploads ---------------------------------------------------------------------------------------------------------


class UploadTarget(Model):
    """Where to send the bytes. headers: to be sent exactly so.

    authorization: whether the API key must be sent with the bytes; never send it where this is false.
    """

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    authorization: bool
    expires_at: datetime | None


class Upload(Model):
    id: str
    state: Literal["pending", "ready"]
    filename: str
    content_type: str
    size: int = Field(description="Bytes")
    sha256: str | None = Field(description="Hex; as declared, or as seen while the bytes passed through this service")
    created_at: datetime
    upload: UploadTarget | None = Field(None, description="Where to send the bytes of a pending upload")


class UploadPage(Page[Upload]):
    pass


# --- Engines, workers, queues ----------------------------------------------------------------------------------------


class Engine(Model):
    name: str
    kind: Kind
    lane: Lane
    summary: str
    licence: str
    default: bool = Field(description="Used where a request names no engine")
    ready: bool = Field(description="Whether a live worker runs it")
    missing: str | None = Field(description="What is missing where it is not ready")
    hint: str | None = Field(description="How to get it")
    spans: bool = Field(description="Whether it takes time spans")
    vocabulary: list[str] | None = Field(description="The descriptions it understands; null: any text")
    voices: list[str] = Field(description="Voices that a speaking engine brings")


class EngineList(Model):
    items: list[Engine]


class LaneDepth(Model):
    lane: Lane
    waiting: int
    queued: int
    running: int
    workers: int = Field(description="Live workers of the lane")


class Queues(Model):
    """whose: `own` jobs of the key, or `all` for an admin."""

    whose: Literal["own", "all"]
    lanes: list[LaneDepth]


class Worker(Model):
    """A worker process. Only an admin sees more than its name and whether it lives."""

    name: str
    alive: bool
    host: str | None = None
    pid: int | None = None
    lanes: list[str] | None = None
    control: Literal["run", "pause", "drain"] | None = None
    job: str | None = None
    device: Any = None
    engines: Any = None
    quarantined_until: datetime | None = None
    started_at: datetime | None = None
    seen_at: datetime | None = None


class WorkerList(Model):
    items: list[Worker]


# --- Keys and callbacks ----------------------------------------------------------------------------------------------


class Key(Model):
    id: str
    name: str
    scopes: list[Scope]
    max_waiting: int | None = Field(description="Quota of unfinished jobs; null: the service's default")
    weight: float = Field(description="Share of the workers, relative to other keys")
    created_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


class KeyList(Model):
    items: list[Key]


class NewKey(Key):
    token: str = Field(description="Shown this once; it cannot be read again")


class Try(Model):
    """One try to deliver a callback. status: the HTTP status; null without an answer, then `error` says why."""

    at: datetime
    status: int | None
    error: str | None
    duration_ms: int
    response: str | None = Field(description="The first bytes of the answer")


class CallbackLog(Model):
    """A callback's way. id: the `webhook-id`, the same at every try."""

    id: str
    event: str
    job: str | None
    url: str
    state: Literal["pending", "delivered", "failed", "disabled"]
    next_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    tries: list[Try]


class CallbackPage(Page[CallbackLog]):
    pass


class Secrets(Model):
    """Signing secrets of the key's callbacks, the newest first; two while one replaces the other."""

    secrets: list[str]


# --- Health ----------------------------------------------------------------------------------------------------------


class Alive(Model):
    status: Literal["ok"] = "ok"


class Check(Model):
    ok: bool
    detail: str | None = None
    hint: str | None = None


class Ready(Model):
    """checks: by name of what the service needs."""

    status: Literal["ok", "failing"]
    checks: dict[str, Check]
