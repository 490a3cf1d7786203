"""Voices: made from a recording, confirmed, renamed, deleted with their audio."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from datetime import date as Day
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from api import jobs, results, schemas, sources
from api.context import caller, service
from api.engines import ready_anywhere
from api.operations import Answer, Resource
from api.paging import PageQuery, cut
from common.db import voices
from common.db.engine import Tx
from common.db.keys import Scope
from common.db.voices import Voice
from common.engines import DEFAULTS, Kind, lookup
from common.errors import NightshiftError
from common.jobs import submit as submitting
from common.jobs import sweep
from common.params import Input, TranscriptionRequest, VoiceParams, VoiceRequest
from common.params.voice import Transcript

resource = Resource("voices", "Voices", "Whose voice speech may have")

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]


class Consent(BaseModel):
    """What the person who speaks agreed to. It is kept with the voice, and goes with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    given_by: Name = Field(description="Who speaks, and agreed")
    date: Day
    purpose: Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True)] = Field(
        description="What the voice may be used for"
    )

    @field_validator("date")
    @classmethod
    def _given(cls, value: Day) -> Day:
        # A day of grace: it may be tomorrow already where the caller is.
        if value > datetime.now(UTC).date() + timedelta(days=1):
            raise ValueError("consent that has not been given yet is none")
        return value


class NewVoice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    input: Input = Field(description="5 to 180 seconds of one person speaking")
    transcript: Transcript | None = Field(
        None, description="The exact words of the whole recording; empty: drafted by `transcriber`, for you to confirm"
    )
    transcriber: str | None = Field(
        DEFAULTS[Kind.TRANSCRIPTION],
        max_length=64,
        description="Engine that writes down what is said and when. With a transcript it is asked only where you name "
        "it: it finds the words of the excerpt where the recording is longer than 15 s. Null: none",
    )
    consent: Consent


class VoiceChange(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = None
    transcript: Transcript | None = Field(
        None, description="The exact words of the excerpt, as you hear them there; makes the voice ready"
    )


@resource.operation(
    "POST",
    "/v1/voices",
    "Make a voice",
    scope=Scope.WRITE,
    body=NewVoice,
    answers={201: Answer("The voice, a draft until it is prepared", schemas.Voice, headers={"Location": "Address"})},
    errors=(
        "unknown_engine", "engine_not_ready", "input_missing", "upload_incomplete", "upstream_failed", "url_forbidden",
        "bucket_forbidden", "quota_exceeded", "storage_failed",
    ),
)  # fmt: skip
def create_voice(body: NewVoice) -> Any:
    """Keeps a recording, with the consent of who speaks there, and makes a job that finds the 5 to 15 seconds models
    are to hear. With its transcript, a recording of up to 15 seconds becomes ready by that; a longer one where
    `transcriber` is named. Every other voice stays a draft until you confirm the words of its excerpt."""
    voice_id = voices.new_id()
    transcription = _transcription(body)
    inputs = (body.input,)
    preparation = VoiceRequest(inputs=inputs, params=VoiceParams(voice=voice_id, transcript=body.transcript))
    try:
        sources.check_addresses(preparation)
        sources.settle_uploads(preparation)
        made, bells = _made(body, voice_id, transcription, preparation)
    except NightshiftError as error:
        # The job's only source is the body's.
        if error.pointer is not None:
            error.pointer = error.pointer.replace("/inputs/0", "/input")
        raise
    service().ringer.ring(bells)
    return view(made), 201, {"Location": f"/v1/voices/{made.id}"}


@resource.operation(
    "GET",
    "/v1/voices",
    "List voices",
    scope=Scope.READ,
    query=PageQuery,
    answers={200: Answer("A page of voices", schemas.VoicePage, headers={"Link": "The next page"})},
    errors=("invalid_cursor",),
)
def list_voices(query: PageQuery) -> Any:
    """The key's voices, newest first."""
    with service().database.read() as tx:
        found = voices.page(tx, caller().id, before=query.before("voices"), limit=query.limit + 1)
    items, cursor, link = cut("voices", query, found)
    return schemas.VoicePage(items=[view(item) for item in items], next=cursor), 200, link


@resource.operation(
    "GET",
    "/v1/voices/{voice_id}",
    "Get a voice",
    scope=Scope.READ,
    answers={200: Answer("The voice", schemas.Voice)},
)
def get_voice(voice_id: str) -> Any:
    """A voice of the key, with a link to listen to its excerpt."""
    with service().database.read() as tx:
        return view(_find(tx, voice_id))


@resource.operation(
    "PATCH",
    "/v1/voices/{voice_id}",
    "Confirm or rename a voice",
    scope=Scope.WRITE,
    body=VoiceChange,
    answers={200: Answer("The voice", schemas.Voice)},
    errors=("voice_not_ready",),
)
def change_voice(voice_id: str, body: VoiceChange) -> Any:
    """With `transcript`, the words of the excerpt are as given and the voice is ready: send the drafted ones back where
    they are right. Listen to the excerpt first: words that are not said there, or are missing, spoil what is spoken."""
    with service().database.write() as tx:
        voice = _find(tx, voice_id)
        if body.name is not None:
            voices.rename(tx, voice.id, body.name)
        if body.transcript is not None and not voices.confirm(tx, voice.id, body.transcript):
            raise NightshiftError(
                "voice_not_ready",
                "The voice has no excerpt yet whose words could be confirmed.",
                hint=f"Wait until its job {voice.job_id} has succeeded."
                if voice.error is None
                else "Its `error` says why: mend that and retry the job, or make the voice anew.",
                pointer="/transcript",
            )
        return view(_find(tx, voice_id))


@resource.operation(
    "DELETE",
    "/v1/voices/{voice_id}",
    "Delete a voice",
    scope=Scope.WRITE,
    answers={204: Answer("It is deleted; its audio follows at once")},
)
def delete_voice(voice_id: str) -> Any:
    """Deletes a voice with its audio, the upload it was made from and the jobs that prepared it. Jobs that are to speak
    in it and have not begun fail with `voice_missing`; what was spoken before stays."""
    with service().database.write() as tx:
        sweep.remove_voice(tx, _find(tx, voice_id))
    return None, 204


def view(voice: Voice) -> schemas.Voice:
    excerpt = None
    if voice.excerpt is not None:
        assert voice.excerpt_start is not None and voice.excerpt_end is not None
        seconds = service().settings.link_seconds
        excerpt = schemas.Excerpt(
            start=voice.excerpt_start,
            end=voice.excerpt_end,
            url=results.link(voice.excerpt, seconds, f"{voice.name}-excerpt.flac"),
            expires_at=datetime.now(UTC) + timedelta(seconds=seconds),
        )
    return schemas.Voice(
        id=voice.id,
        name=voice.name,
        state=voice.state,
        needs=None if voice.ready else "preparation" if excerpt is None else "transcript",
        transcript=voice.transcript,
        excerpt=excerpt,
        seconds=voice.seconds,
        consent=schemas.VoiceConsent(**voice.consent),
        job=voice.job_id,
        transcription=voice.transcription_id,
        error=schemas.JobError(**voice.error) if voice.error and excerpt is None else None,
        created_at=voice.created_at,
    )


def _find(tx: Tx, voice_id: str) -> Voice:
    """A voice of the caller. Raises `not_found`, the same for others' voices and none."""
    voice = voices.get(tx, voice_id, caller().id)
    if voice is None:
        raise NightshiftError("not_found", "There is no such voice.")
    return voice


def _transcription(body: NewVoice) -> TranscriptionRequest | None:
    """Raises `unknown_engine`, and `engine_not_ready` where nobody could draft what the caller has not written down."""
    named = "transcriber" in body.model_fields_set
    if body.transcriber is None or (body.transcript is not None and not named):
        return None
    spec = lookup(body.transcriber, Kind.TRANSCRIPTION, "/transcriber")
    if not ready_anywhere(spec):
        raise NightshiftError(
            "engine_not_ready",
            f"No worker has the engine {spec.name}, which is to write down what is said.",
            hint="Give the `transcript`; or send `transcriber: null`, and write down the words of the excerpt when it "
            "is found.",
            retryable=False,
            pointer="/transcriber",
        )
    return TranscriptionRequest(engine=spec.name, input=body.input)


def _made(
    body: NewVoice, voice_id: str, transcription: TranscriptionRequest | None, preparation: VoiceRequest
) -> tuple[Voice, list[Any]]:
    quota = service().settings.quotas
    recorded = datetime.now(UTC).replace(microsecond=0).isoformat()
    with service().database.write() as tx:
        sources.require_uploads(tx, preparation)
        first = None
        if transcription is not None:
            first = submitting.submit(tx, caller().id, transcription, default_quota=quota).job
            words = Input(job=first.id, output="transcript")
            preparation = preparation.model_copy(update={"inputs": (*preparation.inputs, words)})
        job = submitting.submit(tx, caller().id, preparation, default_quota=quota).job
        voice = voices.create(
            tx,
            voice_id,
            caller().id,
            name=body.name,
            consent={**body.consent.model_dump(mode="json"), "recorded_at": recorded},
            job_id=job.id,
            transcription_id=first.id if first else None,
        )
        bells = [bell for lane in {made.lane for made in (first, job) if made} for bell in jobs.fill(tx, lane)]
    return voice, bells
