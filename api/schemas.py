"""The models of every answer: what the OpenAPI document shows is what the views build."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from common.cron import Missed
from common.db.keys import Scope
from common.engines import Kind, Lane
from common.forecast import Risk, Why
from common.jobs.batch import BatchReason, BatchState, OnError
from common.jobs.bulk import Action
from common.jobs.schedules import Outcome
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
    held_until: datetime | None = Field(
        None, description="Its key has used its hours of audio of today, and the job waits until then"
    )


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


class Delivery(Model):
    """How the copies of a job's results in a bucket of the caller's are getting on. bytes: of all that lies there."""

    state: Literal["pending", "done", "failed"]
    tries: int
    next_at: datetime | None = Field(description="The next try; of one under way, when another would be made")
    bytes: int | None
    error: JobError | None = Field(description="Of the last try")
    ended_at: datetime | None


class Cached(Model):
    """Where a result was taken from. job: that computed it, which may have been deleted since.  finished_at: when."""

    job: str
    finished_at: datetime


class Job(Model):
    id: str
    kind: Kind
    engine: str
    state: State
    reason: Reason = Field(description="Why it is in that state")
    priority: Literal["interactive", "batch"]
    batch: str | None
    batch_id: str | None = Field(description="The batch it belongs to, where it is more than a label")
    preset: str | None = Field(description="The preset it was made from, with its version")
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
    delivery: Delivery | None = Field(
        None, description="Of a batch that delivers, in the answer for one job and among the items of the batch"
    )
    cached_from: Cached | None = Field(
        description="The job whose result this one took over, because its content, parameters and engine were the same"
    )
    deadline: datetime | None
    risk: Risk | None = Field(
        description="Of not starting by the deadline, as was told last; of jobs outside of batches, until they start"
    )
    run_at: datetime = Field(description="Not started before: a retry waits until then")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(
        description="Deleted with its results soon after; null while it is unfinished, and where it goes with its batch"
    )
    warned_at: datetime | None = Field(description="When its owner was told of that")
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
    cached_from: Cached | None = Field(description="The job it was taken from, if it was")


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
    expires_at: datetime | None = Field(
        description="Deleted soon after; where jobs read it, not before the last of them is deleted"
    )
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
    waiting: int = Field(description="May run, and wait for their turn")
    queued: int
    running: int
    later: int = Field(description="Not due yet, of a batch that is not open, or waiting for another job")
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
    jobs: list[str] | None = None
    device: Any = None
    engines: Any = None
    quarantined_until: datetime | None = None
    started_at: datetime | None = None
    seen_at: datetime | None = None


class WorkerList(Model):
    items: list[Worker]


# --- Voices ----------------------------------------------------------------------------------------------------------


class Excerpt(Model):
    """What models hear of a recording. start, end: seconds of it.  url: needs no key."""

    start: float
    end: float
    url: str
    expires_at: datetime


class VoiceConsent(Model):
    given_by: str
    date: str
    purpose: str
    recorded_at: datetime = Field(description="When it was told to this service")


class Voice(Model):
    id: str
    name: str
    state: Literal["draft", "ready"]
    needs: Literal["preparation", "transcript"] | None = Field(
        description="What a draft waits for: its job, or you to confirm what is said in its excerpt"
    )
    transcript: str | None = Field(description="What is said in the excerpt; of a draft, as it was heard")
    excerpt: Excerpt | None
    seconds: float | None = Field(description="Length of the recording")
    consent: VoiceConsent
    job: str = Field(description="The job that prepares it")
    transcription: str | None = Field(description="The job that transcribes the recording for that one")
    error: JobError | None = Field(description="Why it could not be prepared")
    created_at: datetime


class VoicePage(Page[Voice]):
    pass


# --- Keys and callbacks ----------------------------------------------------------------------------------------------


class Key(Model):
    id: str
    name: str
    scopes: list[Scope]
    max_waiting: int | None = Field(description="Quota of unfinished jobs; null: the service's default")
    max_audio_hours_per_day: float | None = Field(
        description="Quota of hours of audio, by UTC's days; null: the service's default"
    )
    max_bytes: int | None = Field(description="Quota of bytes in the store; null: the service's default")
    weight: float = Field(description="Share of the workers, relative to other keys")
    created_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


class Usage(Model):
    """What a key uses, beside what it may; null: any."""

    unfinished: int = Field(description="Jobs, counted up to the quota")
    max_waiting: int
    audio_hours_today: float = Field(
        description="Hours of audio: of jobs that have ended today, as found, and of those under way, as expected"
    )
    max_audio_hours_per_day: float | None
    held_until: datetime | None = Field(description="Its hours of today are used; its batches wait until then")
    bytes_stored: int = Field(description="Uploads, results and voices")
    max_bytes: int | None


class OwnKey(Key):
    usage: Usage


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


# --- Batches, presets, schedules --------------------------------------------------------------------------------------


class BatchCounts(Model):
    """total: jobs made of the items.  rejected: items that could not become jobs.  skipped: items left out, by wish."""

    total: int
    rejected: int
    skipped: int
    waiting: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class Share(Model):
    low: float
    likely: float
    high: float


class ForecastMissing(Model):
    """Why there is no forecast."""

    why: Why
    engine: str
    lane: str
    hint: str = Field(description="What to do about it")


class BatchForecast(Model):
    """From the speeds of finished jobs, what else waits, the workers that are there and the windows; the interval is
    meant to hold nine times in ten."""

    earliest: datetime | None
    likely: datetime | None = Field(description="When it will be done")
    latest: datetime | None
    worker_seconds: Share = Field(description="What is left takes, of all workers together")
    closes: datetime | None = Field(description="When its window closes that is open, or opens next")
    by_close: Share | None = Field(description="Share of what is left that is done by then, 0 to 1")
    nights: int | None = Field(description="How often its window is open until the likely end")
    workers: dict[str, int] = Field(description="Workers that take such jobs, by lane: on `gpu`, each is a card")
    risk: Risk | None = Field(description="Of missing the deadline")
    missing: list[ForecastMissing]


class BatchDelivery(Model):
    """The copies of the results in a bucket of the caller's. pending, done, failed: counted in jobs."""

    to: str
    overwrite: bool
    pictures: bool
    pending: int
    done: int
    failed: int = Field(description="`errors.jsonl` says why")


class BatchAudio(Model):
    """Seconds of audio. done: of the jobs that succeeded, as they were found.  left: of those that have not ended, as
    their source says, which says nothing of `unknown` of them."""

    done: float
    left: float
    unknown: int


class Batch(Model):
    id: str
    name: str
    state: BatchState
    reason: BatchReason = Field(description="Why it is in that state")
    counts: BatchCounts
    percent: float = Field(ge=0, le=100, description="Of its jobs that have ended")
    source: dict[str, Any] = Field(description="Where its items come from")
    preset: str | None = Field(description="With its version")
    kind: str | None
    engine: str | None
    params: dict[str, Any] = Field(description="What its items have in common")
    priority: Literal["interactive", "batch"]
    naming: str
    only_new: bool
    window: str | None
    open: bool = Field(description="Whether its jobs may start now")
    changes_at: datetime | None = Field(description="When its window opens or closes next")
    held_until: datetime | None = Field(
        description="Its key has used its hours of audio of today, and nothing more of it starts until then"
    )
    deadline: datetime | None
    risk: Risk | None = Field(description="Of missing the deadline, as was told last; null before, and when it is over")
    audio: BatchAudio | None = Field(description="Null for pictures")
    on_error: OnError
    weight: float
    callback_url: str | None
    schedule: str | None = Field(description="The schedule that made it")
    delivery: BatchDelivery | None = Field(description="Null where the results stay here")
    error: JobError | None = Field(description="Why it could not be prepared, or not yet")
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None = Field(
        description="Deleted with its jobs and their results soon after; null while it is not over"
    )
    warned_at: datetime | None = Field(description="When its owner was told of that")
    updated_at: datetime
    forecast: BatchForecast | None = Field(
        None, description="While it is not over; of one that is paused, as if it went on"
    )


class BatchPage(Page[Batch]):
    pass


class Rejected(Model):
    """An item that cannot become a job. item: its place, from 1; of a manifest, its line."""

    item: int
    source: str | None = Field(description="What it is, in short")
    error: JobError


class PlanResults(Model):
    """How large the results will be. jobs: finished ones of the engine and format that tell it; 0: a rule of thumb."""

    bytes: int | None = Field(description="Null where it cannot be told")
    jobs: int


class Plan(Model):
    """What a batch would be: nothing was made of it."""

    name: str
    jobs: int
    skipped: dict[str, int] = Field(description="Items left out, by reason")
    rejected: int
    rejects: list[Rejected] = Field(description="The first 100 of them")
    seconds: float | None = Field(description="Length of the media, where its source says; null where it says of none")
    seconds_known: int = Field(description="Of how many items the length is known")
    bytes: int | None = Field(description="Size of the media, where its source says; null where it says of none")
    names: list[str] = Field(description="Names of the first results")
    target: str | None = Field(description="Where the first of them would be delivered to")
    window: str | None
    opens_at: datetime | None = Field(description="When its jobs may start; null: at once")
    first_window_seconds: float | None = Field(description="How long that window is open; null without one")
    deadline: datetime | None
    results: PlanResults | None = Field(description="Null where there are no jobs")
    forecast: BatchForecast | None = Field(description="As if it were started now; null where there are no jobs")
    starts: bool = Field(description="False where an item is wrong and `on_error` is `stop`: no job would be made")


class BatchItem(Job):
    item: int = Field(description="Its place among the items of the batch, from 1")


class ItemPage(Page[BatchItem]):
    """A page of a batch's jobs, in the order of its items."""


class Retried(Model):
    """again: jobs that run again.  refused: those that cannot, because what they wait for is not there.
    deliveries: jobs whose results are to be delivered once more."""

    again: int
    refused: int
    deliveries: int
    batch: Batch


class Preset(Model):
    name: str
    version: int
    built_in: bool
    description: str
    kind: str | None
    engine: str | None
    params: dict[str, Any]


class PresetList(Model):
    items: list[Preset]


class Schedule(Model):
    id: str
    name: str
    cron: str
    timezone: str
    missed: Missed
    paused: bool
    batch: dict[str, Any] = Field(description="The request that each tick makes a batch of")
    deadline_after: timedelta | None = Field(description="From a tick to the deadline of its batch; null: it has none")
    next_at: datetime | None = Field(description="Its next tick; null while it is paused")
    created_at: datetime
    updated_at: datetime


class SchedulePage(Page[Schedule]):
    pass


class ScheduleTick(Model):
    """What became of a tick. missed: how many before it passed unnoticed."""

    tick: datetime
    outcome: Outcome
    batch: str | None
    missed: int
    error: JobError | None
    at: datetime


class TickList(Model):
    items: list[ScheduleTick]


class Bulk(Model):
    """What an action on many jobs did. done: a running job that is told to stop counts.  refused: jobs that could not
    be retried, because what they wait for is not there."""

    action: Action
    dry_run: bool = False
    matched: int = Field(description="Jobs that the filter means and the action fits, counted up to 100,000")
    done: int = 0
    refused: int = 0
    left: bool = Field(description="Whether there is more to do")
    sample: list[str] = Field(description="Ids of the newest of them")
