"""Voices: recordings of people who consented, each with the excerpt that models get and its exact words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Row, delete, insert, select, update
from ulid import ULID

from common.db import usage
from common.db.engine import Tx
from common.db.tables import jobs, voices
from common.errors import NightshiftError


@dataclass(frozen=True)
class Voice:
    """A voice of a key.

    transcript: the exact words of the excerpt; while the voice is a draft, what was heard there, or None.
    consent: `given_by`, `date`, `purpose`, and when it was `recorded_at`.  job_id: prepares it, after
    `transcription_id` where there is one.  recording, excerpt: storage keys, None until it is prepared.
    seconds: of the recording.  stored_bytes: of both.  excerpt_start, excerpt_end: seconds into the recording.
    error: why it could not be prepared, as that job has it.
    """

    id: str
    key_id: str
    name: str
    state: Literal["draft", "ready"]
    transcript: str | None
    consent: Mapping[str, str]
    job_id: str
    transcription_id: str | None
    recording: str | None
    excerpt: str | None
    seconds: float | None
    stored_bytes: int
    excerpt_start: float | None
    excerpt_end: float | None
    created_at: datetime
    error: Mapping[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return self.state == "ready"


@dataclass(frozen=True)
class Prepared:
    """What the preparation found. bytes: of both files.  transcript: of the excerpt.  exact: whether it is known to be,
    word for word."""

    recording: str
    excerpt: str
    bytes: int
    seconds: float
    start: float
    end: float
    transcript: str | None
    exact: bool


def new_id() -> str:
    return f"voi_{ULID()}"


def create(
    tx: Tx, voice_id: str, key_id: str, *, name: str, consent: Mapping[str, str], job_id: str,
    transcription_id: str | None,
) -> Voice:  # fmt: skip
    row = tx.execute(
        insert(voices)
        .values(
            id=voice_id,
            key_id=key_id,
            name=name,
            state="draft",
            consent=dict(consent),
            job_id=job_id,
            transcription_id=transcription_id,
            created_at=tx.now(),
        )
        .returning(voices)
    ).one()
    return _from_row(row)


_WITH_ERROR = select(voices, jobs.c.error).outerjoin(jobs, jobs.c.id == voices.c.job_id)


def get(tx: Tx, voice_id: str, key_id: str) -> Voice | None:
    row = tx.execute(_WITH_ERROR.where(voices.c.id == voice_id, voices.c.key_id == key_id)).one_or_none()
    return _from_row(row) if row is not None else None


def page(tx: Tx, key_id: str, *, before: str | None, limit: int) -> list[Voice]:
    """A key's voices, newest first, before the id `before`."""
    query = _WITH_ERROR.where(voices.c.key_id == key_id)
    if before is not None:
        query = query.where(voices.c.id < before)
    return [_from_row(row) for row in tx.execute(query.order_by(voices.c.id.desc()).limit(limit))]


def require(tx: Tx, key_id: str, named: Mapping[str, str]) -> dict[str, Voice]:
    """The voices of a key that a request names, by their id. named: ids by the JSON pointer to each.

    Raises `voice_missing`, the same for others' voices and none, and `voice_not_ready`.
    """
    found: dict[str, Voice] = {}
    for pointer, voice_id in named.items():
        voice = get(tx, voice_id, key_id)
        if voice is None:
            raise NightshiftError(
                "voice_missing",
                f"There is no voice {voice_id}.",
                hint="GET /v1/voices lists yours; a deleted one has to be made again.",
                pointer=pointer,
            )
        if not voice.ready:
            raise NightshiftError(
                "voice_not_ready",
                f"The voice {voice_id} is a draft.",
                hint="Wait until it is prepared." if voice.excerpt is None
                else "Confirm the words of its excerpt: PATCH /v1/voices/{id}, or nightshift voice confirm.",
                pointer=pointer,
            )  # fmt: skip
        found[voice_id] = voice
    return found


def rename(tx: Tx, voice_id: str, name: str) -> None:
    tx.execute(update(voices).where(voices.c.id == voice_id).values(name=name))


def confirm(tx: Tx, voice_id: str, transcript: str) -> bool:
    """draft or ready -> ready, with these words of its excerpt. False where it is not prepared yet, or gone."""
    confirmed = (
        update(voices)
        .where(voices.c.id == voice_id, voices.c.excerpt.is_not(None))
        .values(state="ready", transcript=transcript)
    )
    return bool(tx.execute(confirmed).rowcount == 1)


def prepared(tx: Tx, voice_id: str, found: Prepared) -> bool:
    """Takes over what the preparation found: ready where the words are exact, else a draft. False where it is gone."""
    taken = (
        update(voices)
        .where(voices.c.id == voice_id)
        .values(
            recording=found.recording,
            excerpt=found.excerpt,
            seconds=found.seconds,
            stored_bytes=found.bytes,
            excerpt_start=found.start,
            excerpt_end=found.end,
            transcript=found.transcript,
            state="ready" if found.exact and found.transcript else "draft",
        )
    )
    row = tx.execute(taken.returning(voices.c.key_id)).one_or_none()
    if row is None:
        return False
    usage.add(tx, row.key_id, bytes=found.bytes)
    return True


def remove(tx: Tx, voice_id: str) -> None:
    row = tx.execute(
        delete(voices).where(voices.c.id == voice_id).returning(voices.c.key_id, voices.c.stored_bytes)
    ).one_or_none()
    if row is not None:
        usage.add(tx, row.key_id, bytes=-row.stored_bytes)


def _from_row(row: Row[Any]) -> Voice:
    return Voice(**row._mapping)
