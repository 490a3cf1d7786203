"""The tables. Invariants that can be said in SQL are CHECK constraints: they hold whatever the code above does."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from common.db.types import Json, Timestamp
from common.states import TERMINAL, UNSUCCESSFUL, State

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column of exactly this type.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

INTERACTIVE, BATCH = 10, 0
PRIORITIES = {"interactive": INTERACTIVE, "batch": BATCH}


RISK_KNOWN = "risk IN ('on_time', 'at_risk', 'late')"
RISK_DATED = "(risk IS NULL) = (risk_at IS NULL)"


def among(column: str, states: frozenset[State]) -> str:
    """The condition that a column holds one of the states, as text."""
    return f"{column} IN ({', '.join(repr(str(s)) for s in sorted(states))})"


keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True, comment="SHA-256 of the token, hex"),
    Column("scopes", Json, nullable=False),
    Column("max_waiting", Integer, comment="Quota of unfinished jobs; NULL: the setting"),
    Column("max_audio_hours_per_day", Float, comment="Quota of hours of audio, by UTC's days; NULL: the setting"),
    Column("max_bytes", BigInteger, comment="Quota of bytes in the store; NULL: the setting"),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("callback_version", Integer, nullable=False, server_default="1"),
    Column("callback_previous_until", Timestamp),
    Column("created_at", Timestamp, nullable=False),
    Column("used_at", Timestamp),
    Column("revoked_at", Timestamp),
    CheckConstraint("weight > 0", name="weight_positive"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("lane", Text, nullable=False, comment="Which workers may run it: cpu or gpu"),
    Column("batch", Text, comment="A label; of a job of a batch, the batch's name"),
    Column("batch_id", Text, ForeignKey("batches.id")),
    Column("batch_item", Integer, comment="Its place among the items of the batch, from 1"),
    Column("item", Json, comment="What names its results: title, show, date, suffix"),
    Column("expected", Float, comment="Seconds of audio, as its source says"),
    Column("priority", SmallInteger, nullable=False),
    Column("request", Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("run_at", Timestamp, nullable=False, comment="Not released before"),
    Column("deadline", Timestamp),
    Column("risk", Text, comment="Of not starting by its deadline, as last told; NULL: nothing was found yet"),
    Column("risk_at", Timestamp, comment="When that was told"),
    Column("upstream", Text, comment="The job whose output this one still waits for"),
    Column("attempt", Integer, nullable=False, server_default="0", comment="Fencing number, one per claim"),
    Column("failures", Integer, nullable=False, server_default="0", comment="Attempts that failed; yields are none"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0", comment="Leases that ran out, whoever was to blame"),
    Column("company", Integer, comment="Jobs that its worker took together with it, itself included; NULL: it alone"),
    Column("crashed_at_block", Integer, comment="Finished blocks when its worker last died"),
    Column("worker", Text),
    Column("lease_until", Timestamp),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("progress", Json),
    Column("blocks_done", Integer, nullable=False, server_default="0"),
    Column("blocks_total", Integer),
    Column("result", Json),
    Column("result_attempt", Integer),
    Column("fingerprint", Text, comment="Of all that decides its result; NULL: no other job may take that over"),
    Column("length", Float, comment="Seconds of audio, or images, as its worker found them"),
    Column("work_seconds", Float, comment="What all of it takes a worker; NULL: not known"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0", comment="Of its outputs, in the store"),
    Column("error", Json),
    Column("idempotency_key", Text),
    Column("request_digest", Text, nullable=False),
    Column("rung_at", Timestamp, comment="When the bell was last rung for it"),
    Column("created_at", Timestamp, nullable=False),
    Column("started_at", Timestamp),
    Column("finished_at", Timestamp),
    Column("expiry_told_at", Timestamp, comment="When its owner was told that it will be deleted"),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("key_id", "idempotency_key"),
    CheckConstraint(among("state", frozenset(State)), name="state_known"),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="running_has_lease"),
    CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name="running_has_worker"),
    CheckConstraint("(state = 'succeeded') = (result_attempt IS NOT NULL)", name="succeeded_has_attempt"),
    CheckConstraint("(state = 'succeeded') = (result IS NOT NULL)", name="succeeded_has_result"),
    CheckConstraint("result_attempt IS NULL OR result_attempt = attempt", name="result_of_last_attempt"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
    CheckConstraint(f"({among('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="terminal_is_finished"),
    CheckConstraint("upstream IS NULL OR state = 'waiting' OR " + among("state", TERMINAL), name="upstream_waits"),
    CheckConstraint("state <> 'running' OR attempt > 0", name="running_has_attempt"),
    CheckConstraint("(batch_id IS NULL) = (batch_item IS NULL)", name="item_of_a_batch"),
    CheckConstraint("work_seconds IS NULL OR (length > 0 AND work_seconds > 0)", name="speed_positive"),
    CheckConstraint(RISK_KNOWN, name="risk_known"),
    CheckConstraint(RISK_DATED, name="risk_dated"),
    CheckConstraint("company > 1", name="company_of_more"),
    Index(
        "ix_jobs_claim",
        text("priority DESC"),
        "run_at",
        "id",
        postgresql_where=text("state = 'queued'"),
        sqlite_where=text("state = 'queued'"),
    ),
    Index(
        "ix_jobs_release",
        "key_id",
        "lane",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'waiting' AND upstream IS NULL AND batch_id IS NULL"),
        sqlite_where=text("state = 'waiting' AND upstream IS NULL AND batch_id IS NULL"),
    ),
    # By batch, so that what waits in a batch that is not open costs a release nothing.
    Index(
        "ix_jobs_release_batch",
        "batch_id",
        "lane",
        "priority",
        "run_at",
        "id",
        postgresql_where=text("state = 'waiting' AND upstream IS NULL AND batch_id IS NOT NULL"),
        sqlite_where=text("state = 'waiting' AND upstream IS NULL AND batch_id IS NOT NULL"),
    ),
    Index(
        "ix_jobs_item",
        "batch_id",
        "batch_item",
        unique=True,
        postgresql_where=text("batch_id IS NOT NULL"),
        sqlite_where=text("batch_id IS NOT NULL"),
    ),
    Index(
        "ix_jobs_item_state",
        "batch_id",
        "state",
        "batch_item",
        postgresql_where=text("batch_id IS NOT NULL"),
        sqlite_where=text("batch_id IS NOT NULL"),
    ),
    Index(
        "ix_jobs_lease",
        "lease_until",
        postgresql_where=text("state = 'running'"),
        sqlite_where=text("state = 'running'"),
    ),
    Index(
        "ix_jobs_upstream",
        "upstream",
        postgresql_where=text("upstream IS NOT NULL"),
        sqlite_where=text("upstream IS NOT NULL"),
    ),
    Index(
        "ix_jobs_deadline",
        "deadline",
        postgresql_where=text("deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"),
        sqlite_where=text("deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"),
    ),
    # With all that counting towards a quota asks for, so that it reads no row; SQLite asks for finished_at again.
    Index(
        "ix_jobs_active",
        "key_id",
        "finished_at",
        "id",
        postgresql_where=text("finished_at IS NULL"),
        sqlite_where=text("finished_at IS NULL"),
    ),
    Index("ix_jobs_list", "key_id", text("id DESC")),
    # Few among many that succeeded: a page of them must not read all.
    Index(
        "ix_jobs_unsuccessful",
        "key_id",
        text("id DESC"),
        postgresql_where=text(among("state", UNSUCCESSFUL)),
        sqlite_where=text(among("state", UNSUCCESSFUL)),
    ),
    Index(
        "ix_jobs_batch",
        "key_id",
        "batch",
        text("id DESC"),
        postgresql_where=text("batch IS NOT NULL"),
        sqlite_where=text("batch IS NOT NULL"),
    ),
    Index(
        "ix_jobs_finished",
        "finished_at",
        postgresql_where=text("finished_at IS NOT NULL"),
        sqlite_where=text("finished_at IS NOT NULL"),
    ),
    # Of those that are told and deleted by themselves; what is of a batch goes with it.
    Index(
        "ix_jobs_expiry",
        "expiry_told_at",
        "finished_at",
        postgresql_where=text("finished_at IS NOT NULL AND batch_id IS NULL"),
        sqlite_where=text("finished_at IS NOT NULL AND batch_id IS NULL"),
    ),
    # The latest of an engine tell how fast it is.
    Index(
        "ix_jobs_speed",
        "lane",
        "engine",
        "finished_at",
        postgresql_where=text("work_seconds IS NOT NULL"),
        sqlite_where=text("work_seconds IS NOT NULL"),
    ),
    # The latest result that another job of the key may take over.
    Index(
        "ix_jobs_fingerprint",
        "key_id",
        "fingerprint",
        "finished_at",
        postgresql_where=text("fingerprint IS NOT NULL"),
        sqlite_where=text("fingerprint IS NOT NULL"),
    ),
    Index(
        "ix_jobs_forget",
        "finished_at",
        postgresql_where=text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
        sqlite_where=text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
    ),
)  # fmt: skip

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Json, nullable=False, comment="Where its items come from"),
    Column("template", Json, nullable=False, comment="What its items have in common"),
    Column("window", Text, comment="When it may run; NULL: always"),
    Column("open_until", Timestamp, comment="Its jobs may start and go on until then; NULL: not now"),
    Column("changes_at", Timestamp, comment="When its window opens or closes next"),
    Column("deadline", Timestamp),
    Column("risk", Text, comment="Of missing its deadline, as last told; NULL: nothing was found yet"),
    Column("risk_at", Timestamp, comment="When that was told"),
    Column("on_error", Text, nullable=False),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("callback", Json),
    Column("told", Integer, nullable=False, server_default="0", comment="Per cent of its last callback of progress"),
    Column("total", Integer, nullable=False, server_default="0", comment="Jobs made"),
    Column("rejected", Integer, nullable=False, server_default="0", comment="Items that could not become jobs"),
    Column("skipped", Integer, nullable=False, server_default="0", comment="Items taken by an earlier batch"),
    Column("succeeded", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("cancelled", Integer, nullable=False, server_default="0"),
    Column("expired", Integer, nullable=False, server_default="0"),
    Column("consumed", Integer, nullable=False, server_default="0", comment="Items of the source dealt with so far"),
    Column("lengths", Integer, nullable=False, server_default="0", comment="Unfinished jobs whose length is expected"),
    Column("length", Float, nullable=False, server_default="0", comment="Of these together, seconds of audio"),
    Column("longest", Float, nullable=False, server_default="0", comment="Of any of its jobs, as expected"),
    Column("audio_done", Float, nullable=False, server_default="0", comment="Seconds, of the jobs that succeeded"),
    Column("intake_until", Timestamp, comment="Somebody takes its items in until then"),
    Column("intake_failures", Integer, nullable=False, server_default="0"),
    Column("error", Json),
    Column("schedule_id", Text),
    Column("idempotency_key", Text),
    Column("request_digest", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("finished_at", Timestamp),
    Column("expiry_told_item", Integer, comment="The last of its jobs whose owner was told that it will be deleted"),
    Column("expiry_told_at", Timestamp, comment="When all was told of it"),
    Column("updated_at", Timestamp, nullable=False),
    Column("deliver", Json, comment="Where its results are copied to, and how; NULL: nowhere"),
    Column("delivering", Integer, nullable=False, server_default="0"),
    Column("delivered", Integer, nullable=False, server_default="0"),
    Column("undelivered", Integer, nullable=False, server_default="0"),
    UniqueConstraint("key_id", "idempotency_key"),
    CheckConstraint(
        "state IN ('preparing', 'active', 'paused', 'cancelling', 'finished', 'cancelled', 'failed')",
        name="state_known",
    ),
    CheckConstraint("(state IN ('finished', 'cancelled', 'failed')) = (finished_at IS NOT NULL)", name="end_is_dated"),
    CheckConstraint("state = 'active' OR open_until IS NULL", name="open_is_active"),
    CheckConstraint("on_error IN ('skip', 'stop')", name="on_error_known"),
    CheckConstraint("weight > 0", name="weight_positive"),
    CheckConstraint(RISK_KNOWN, name="risk_known"),
    CheckConstraint(RISK_DATED, name="risk_dated"),
    CheckConstraint("succeeded >= 0 AND failed >= 0 AND cancelled >= 0 AND expired >= 0", name="counts_are_counts"),
    CheckConstraint("succeeded + failed + cancelled + expired <= total", name="ends_within_total"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
    CheckConstraint("delivering >= 0 AND delivered >= 0 AND undelivered >= 0", name="deliveries_are_counts"),
    Index("ix_batches_list", "key_id", text("id DESC")),
    Index(
        "ix_batches_open",
        "open_until",
        postgresql_where=text("open_until IS NOT NULL"),
        sqlite_where=text("open_until IS NOT NULL"),
    ),
    Index(
        "ix_batches_change",
        "changes_at",
        postgresql_where=text("changes_at IS NOT NULL"),
        sqlite_where=text("changes_at IS NOT NULL"),
    ),
    Index(
        "ix_batches_unfinished",
        "state",
        postgresql_where=text("finished_at IS NULL"),
        sqlite_where=text("finished_at IS NULL"),
    ),
    Index("ix_batches_finished", "finished_at"),
)

batch_rejects = Table(
    "batch_rejects",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("item", Integer, primary_key=True, comment="Its place among the items of the batch, from 1"),
    Column("source", Text, comment="What it was, in short"),
    Column("error", Json, nullable=False),
)

# What batches of a key have taken, so that a feed read again gives only what is new. Kept longer than its batch.
taken_items = Table(
    "taken_items",
    metadata,
    Column("key_id", Text, ForeignKey("keys.id"), primary_key=True),
    Column("mark", Text, primary_key=True, comment="SHA-256 of where it came from, what it is and the work on it"),
    Column("batch_id", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)

# Results on their way into a bucket of their owner's: one row a job, written with its end.
transfers = Table(
    "transfers",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("batch_id", Text, nullable=False, comment="The job's"),
    Column("item", Integer, nullable=False, comment="The job's place among the items of the batch"),
    Column("bucket", Text, nullable=False, comment="What the tries at one time are counted by"),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_at", Timestamp, comment="Not tried before; while it is tried, when another may take it over"),
    Column("bytes", BigInteger, comment="Of all that lies there now"),
    Column("error", Json, comment="Of its last try"),
    Column("created_at", Timestamp, nullable=False),
    Column("ended_at", Timestamp),
    CheckConstraint("state IN ('pending', 'done', 'failed')", name="state_known"),
    CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name="pending_has_next"),
    CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="end_is_dated"),
    CheckConstraint("(state = 'done') = (bytes IS NOT NULL)", name="done_has_bytes"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
    Index(
        "ix_transfers_due",
        "bucket",
        "next_at",
        "job_id",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index(
        "ix_transfers_failed",
        "batch_id",
        "item",
        postgresql_where=text("state = 'failed'"),
        sqlite_where=text("state = 'failed'"),
    ),
)

presets = Table(
    "presets",
    metadata,
    Column("key_id", Text, ForeignKey("keys.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("description", Text, nullable=False),
    Column("work", Json, nullable=False, comment="kind, engine, params"),
    Column("created_at", Timestamp, nullable=False),
    Column("retired_at", Timestamp, comment="When the name was given up; its versions stay for those who name them"),
    CheckConstraint("version > 0", name="version_positive"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("missed", Text, nullable=False, comment="What becomes of ticks nobody acted on: once or skip"),
    Column("deadline_after", Float, comment="Of its batches: seconds after the tick; NULL: they have no deadline"),
    Column("batch", Json, nullable=False, comment="The request that each tick makes a batch of"),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("last_tick", Timestamp, nullable=False, comment="Everything up to it has been dealt with"),
    Column("next_at", Timestamp, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    CheckConstraint("missed IN ('once', 'skip')", name="missed_known"),
    CheckConstraint("deadline_after > 0", name="deadline_after_tick"),
    Index("ix_schedules_key", "key_id", text("id DESC")),
    Index(
        "ix_schedules_next",
        "next_at",
        postgresql_where=text("NOT paused"),
        sqlite_where=text("NOT paused"),
    ),
)

schedule_ticks = Table(
    "schedule_ticks",
    metadata,
    Column("schedule_id", Text, ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True),
    Column("tick", Timestamp, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("batch_id", Text),
    Column("missed", Integer, nullable=False, server_default="0", comment="Ticks before it that nobody acted on"),
    Column("error", Json),
    Column("at", Timestamp, nullable=False),
    CheckConstraint("outcome IN ('made', 'skipped', 'refused', 'by_hand')", name="outcome_known"),
    CheckConstraint("(outcome IN ('made', 'by_hand')) = (batch_id IS NOT NULL)", name="made_has_batch"),
)

turns = Table(
    "turns",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("priority", SmallInteger, primary_key=True),
    Column("holder", Text, primary_key=True, comment="A key, a batch, or what a key has outside of batches"),
    Column("passed", Float, nullable=False, comment="Jobs released per weight"),
    Column("updated_at", Timestamp, nullable=False),
)

blocks = Table(
    "blocks",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("fingerprint", Text, primary_key=True, comment="Of all that decides what the block holds"),
    Column("index", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("files", Json, nullable=False, comment="Stem name to storage key"),
    Column("created_at", Timestamp, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("type", Text, nullable=False, comment="state or log"),
    Column("data", Json, nullable=False),
    Index("ix_events_job", "job_id", "id"),
)

callbacks = Table(
    "callbacks",
    metadata,
    Column("id", Text, primary_key=True, comment="The webhook-id, the same for every try"),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("job_id", Text, comment="Kept when the job is deleted"),
    Column("batch_id", Text, comment="Of a message about a batch"),
    Column("url", Text, nullable=False),
    Column(
        "host", Text, nullable=False, comment="Of the url, with its port: what the tries at one time are counted by"
    ),
    Column("event", Text, nullable=False),
    Column("body", Text, nullable=False, comment="The exact bytes that are signed and sent"),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_at", Timestamp),
    Column("created_at", Timestamp, nullable=False),
    Column("delivered_at", Timestamp),
    CheckConstraint("state IN ('pending', 'delivered', 'failed', 'disabled')", name="state_known"),
    CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name="pending_has_next"),
    Index(
        "ix_callbacks_due",
        "next_at",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
    Index("ix_callbacks_key", "key_id", text("id DESC")),
    Index("ix_callbacks_job", "job_id"),
    Index("ix_callbacks_created", "created_at"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("callback_id", Text, ForeignKey("callbacks.id", ondelete="CASCADE"), nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("duration_ms", Integer, nullable=False),
    Column("response", Text, comment="The first bytes of the answer"),
    Index("ix_deliveries_callback", "callback_id", "id"),
)

callback_endpoints = Table(
    "callback_endpoints",
    metadata,
    Column("key_id", Text, ForeignKey("keys.id"), primary_key=True),
    Column("url", Text, primary_key=True),
    Column("failing_since", Timestamp),
    Column("disabled_at", Timestamp),
    Column("disabled_because", Text),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("storage_key", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False, comment="Declared bytes"),
    Column("sha256", Text, comment="Declared by the caller, or seen while the bytes passed"),
    Column("state", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    CheckConstraint("state IN ('pending', 'ready')", name="state_known"),
    Index("ix_uploads_key", "key_id", text("id DESC")),
    Index("ix_uploads_created", "created_at"),
    Index(
        "ix_uploads_pending",
        "created_at",
        postgresql_where=text("state = 'pending'"),
        sqlite_where=text("state = 'pending'"),
    ),
)

# Which jobs read an upload: it is kept as long as one of them is there.
upload_uses = Table(
    "upload_uses",
    metadata,
    Column("upload_id", Text, primary_key=True, comment="May have been deleted by its owner"),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_upload_uses_job", "job_id"),
)

usage = Table(
    "usage",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("bytes", BigInteger, nullable=False, comment="Came into the store; below 0: went out of it"),
    Column("audio_ms", BigInteger, nullable=False, comment="Milliseconds of audio that were worked on"),
    Index("ix_usage_key", "key_id", "at"),
)

voices = Table(
    "voices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, ForeignKey("keys.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("transcript", Text, comment="The exact words of the excerpt; drafted, or confirmed where ready"),
    Column("consent", Json, nullable=False, comment="Who gave it, when, for what; kept as long as the voice"),
    Column("job_id", Text, nullable=False, comment="The job that prepares it; may be deleted before it"),
    Column("transcription_id", Text, comment="The job that transcribes it for that one"),
    Column("recording", Text, comment="Storage key; NULL until it is prepared"),
    Column("excerpt", Text, comment="Storage key of what models get"),
    Column("seconds", Float, comment="Of the recording"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0", comment="Of both, in the store"),
    Column("excerpt_start", Float),
    Column("excerpt_end", Float),
    Column("created_at", Timestamp, nullable=False),
    CheckConstraint("state IN ('draft', 'ready')", name="state_known"),
    CheckConstraint("state <> 'ready' OR (transcript IS NOT NULL AND excerpt IS NOT NULL)", name="ready_is_whole"),
    CheckConstraint("(recording IS NULL) = (excerpt IS NULL)", name="prepared_is_whole"),
    CheckConstraint(
        "(excerpt IS NULL) = (excerpt_start IS NULL) AND (excerpt IS NULL) = (excerpt_end IS NULL)",
        name="excerpt_has_place",
    ),
    CheckConstraint("excerpt_end IS NULL OR excerpt_end > excerpt_start", name="excerpt_not_empty"),
    Index("ix_voices_key", "key_id", text("id DESC")),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("prefix", Text, nullable=False, comment="An object to delete, or ending with / all below it"),
    Column("due_at", Timestamp, nullable=False),
    Index("ix_sweeps_due", "due_at"),
)

processes = Table(
    "processes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False, comment="worker, scheduler or deliverer"),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("lanes", Json, nullable=False),
    Column("info", Json, nullable=False, comment="Device, engines and what each lacks"),
    Column("control", Text, nullable=False, server_default="run"),
    Column("crashed_jobs", Json, nullable=False, comment="Jobs it died on since its last success"),
    Column("quarantined_until", Timestamp),
    Column("started_at", Timestamp, nullable=False),
    Column("seen_at", Timestamp, nullable=False),
    CheckConstraint("role IN ('worker', 'scheduler', 'deliverer')", name="role_known"),
    CheckConstraint("control IN ('run', 'pause', 'drain')", name="control_known"),
)
