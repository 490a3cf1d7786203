"""The first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from common.db.types import Json, Timestamp

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256 of the token, hex"),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("max_waiting", sa.Integer(), nullable=True, comment="Quota of unfinished jobs; NULL: the setting"),
        sa.Column("weight", sa.Float(), server_default="1", nullable=False),
        sa.Column("callback_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("callback_previous_until", Timestamp(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("used_at", Timestamp(), nullable=True),
        sa.Column("revoked_at", Timestamp(), nullable=True),
        sa.CheckConstraint("weight > 0", name=op.f("ck_keys_weight_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_keys_hash")),
    )
    op.create_table(
        "processes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False, comment="worker, scheduler or deliverer"),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("lanes", Json, nullable=False),
        sa.Column("info", Json, nullable=False, comment="Device, engines and what each lacks"),
        sa.Column("control", sa.Text(), server_default="run", nullable=False),
        sa.Column("crashed_jobs", Json, nullable=False, comment="Jobs it died on since its last success"),
        sa.Column("quarantined_until", Timestamp(), nullable=True),
        sa.Column("started_at", Timestamp(), nullable=False),
        sa.Column("seen_at", Timestamp(), nullable=False),
        sa.CheckConstraint("control IN ('run', 'pause', 'drain')", name=op.f("ck_processes_control_known")),
        sa.CheckConstraint("role IN ('worker', 'scheduler', 'deliverer')", name=op.f("ck_processes_role_known")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_processes")),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="An object to delete, or ending with / all below it"),
        sa.Column("due_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index("ix_sweeps_due", "sweeps", ["due_at"], unique=False)
    op.create_table(
        "turns",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False, comment="A key, a batch, or what a key has outside of batches"),
        sa.Column("passed", sa.Float(), nullable=False, comment="Jobs released per weight"),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "priority", "holder", name=op.f("pk_turns")),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", Json, nullable=False, comment="Where its items come from"),
        sa.Column("template", Json, nullable=False, comment="What its items have in common"),
        sa.Column("window", sa.Text(), nullable=True, comment="When it may run; NULL: always"),
        sa.Column(
            "open_until", Timestamp(), nullable=True, comment="Its jobs may start and go on until then; NULL: not now"
        ),
        sa.Column("changes_at", Timestamp(), nullable=True, comment="When its window opens or closes next"),
        sa.Column("deadline", Timestamp(), nullable=True),
        sa.Column("on_error", sa.Text(), nullable=False),
        sa.Column("weight", sa.Float(), server_default="1", nullable=False),
        sa.Column("callback", Json, nullable=True),
        sa.Column(
            "told",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Per cent of its last callback of progress",
        ),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False, comment="Jobs made"),
        sa.Column(
            "rejected", sa.Integer(), server_default="0", nullable=False, comment="Items that could not become jobs"
        ),
        sa.Column(
            "skipped", sa.Integer(), server_default="0", nullable=False, comment="Items taken by an earlier batch"
        ),
        sa.Column("succeeded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default="0", nullable=False),
        sa.Column("expired", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "consumed",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Items of the source dealt with so far",
        ),
        sa.Column(
            "lengths",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Unfinished jobs whose length is expected",
        ),
        sa.Column(
            "length", sa.Float(), server_default="0", nullable=False, comment="Of these together, seconds of audio"
        ),
        sa.Column("longest", sa.Float(), server_default="0", nullable=False, comment="Of any of its jobs, as expected"),
        sa.Column("intake_until", Timestamp(), nullable=True, comment="Somebody takes its items in until then"),
        sa.Column("intake_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.Column("schedule_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("finished_at", Timestamp(), nullable=True),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.CheckConstraint(
            "(state IN ('finished', 'cancelled', 'failed')) = (finished_at IS NOT NULL)",
            name=op.f("ck_batches_end_is_dated"),
        ),
        sa.CheckConstraint("on_error IN ('skip', 'stop')", name=op.f("ck_batches_on_error_known")),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_batches_failed_has_error")),
        sa.CheckConstraint("state = 'active' OR open_until IS NULL", name=op.f("ck_batches_open_is_active")),
        sa.CheckConstraint(
            "state IN ('preparing', 'active', 'paused', 'cancelling', 'finished', 'cancelled', 'failed')",
            name=op.f("ck_batches_state_known"),
        ),
        sa.CheckConstraint(
            "succeeded + failed + cancelled + expired <= total", name=op.f("ck_batches_ends_within_total")
        ),
        sa.CheckConstraint(
            "succeeded >= 0 AND failed >= 0 AND cancelled >= 0 AND expired >= 0",
            name=op.f("ck_batches_counts_are_counts"),
        ),
        sa.CheckConstraint("weight > 0", name=op.f("ck_batches_weight_positive")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_batches_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("key_id", "idempotency_key", name=op.f("uq_batches_key_id_idempotency_key")),
    )
    op.create_index(
        "ix_batches_change",
        "batches",
        ["changes_at"],
        unique=False,
        postgresql_where=sa.text("changes_at IS NOT NULL"),
        sqlite_where=sa.text("changes_at IS NOT NULL"),
    )
    op.create_index("ix_batches_finished", "batches", ["finished_at"], unique=False)
    op.create_index("ix_batches_list", "batches", ["key_id", sa.literal_column("id DESC")], unique=False)
    op.create_index(
        "ix_batches_open",
        "batches",
        ["open_until"],
        unique=False,
        postgresql_where=sa.text("open_until IS NOT NULL"),
        sqlite_where=sa.text("open_until IS NOT NULL"),
    )
    op.create_index(
        "ix_batches_unfinished",
        "batches",
        ["state"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "callback_endpoints",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("failing_since", Timestamp(), nullable=True),
        sa.Column("disabled_at", Timestamp(), nullable=True),
        sa.Column("disabled_because", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_callback_endpoints_key_id")),
        sa.PrimaryKeyConstraint("key_id", "url", name=op.f("pk_callback_endpoints")),
    )
    op.create_table(
        "callbacks",
        sa.Column("id", sa.Text(), nullable=False, comment="The webhook-id, the same for every try"),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True, comment="Kept when the job is deleted"),
        sa.Column("batch_id", sa.Text(), nullable=True, comment="Of a message about a batch"),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column(
            "host",
            sa.Text(),
            nullable=False,
            comment="Of the url, with its port: what the tries at one time are counted by",
        ),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False, comment="The exact bytes that are signed and sent"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", Timestamp(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("delivered_at", Timestamp(), nullable=True),
        sa.CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name=op.f("ck_callbacks_pending_has_next")),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed', 'disabled')", name=op.f("ck_callbacks_state_known")
        ),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_callbacks_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callbacks")),
    )
    op.create_index("ix_callbacks_created", "callbacks", ["created_at"], unique=False)
    op.create_index(
        "ix_callbacks_due",
        "callbacks",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_callbacks_job", "callbacks", ["job_id"], unique=False)
    op.create_index("ix_callbacks_key", "callbacks", ["key_id", sa.literal_column("id DESC")], unique=False)
    op.create_table(
        "presets",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("work", Json, nullable=False, comment="kind, engine, params"),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column(
            "retired_at",
            Timestamp(),
            nullable=True,
            comment="When the name was given up; its versions stay for those who name them",
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_presets_version_positive")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_presets_key_id")),
        sa.PrimaryKeyConstraint("key_id", "name", "version", name=op.f("pk_presets")),
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False, comment="What becomes of ticks nobody acted on: once or skip"),
        sa.Column("batch", Json, nullable=False, comment="The request that each tick makes a batch of"),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("last_tick", Timestamp(), nullable=False, comment="Everything up to it has been dealt with"),
        sa.Column("next_at", Timestamp(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.CheckConstraint("missed IN ('once', 'skip')", name=op.f("ck_schedules_missed_known")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_schedules_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index("ix_schedules_key", "schedules", ["key_id", sa.literal_column("id DESC")], unique=False)
    op.create_index(
        "ix_schedules_next",
        "schedules",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("NOT paused"),
        sqlite_where=sa.text("NOT paused"),
    )
    op.create_table(
        "taken_items",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column(
            "mark", sa.Text(), nullable=False, comment="SHA-256 of where it came from, what it is and the work on it"
        ),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_taken_items_key_id")),
        sa.PrimaryKeyConstraint("key_id", "mark", name=op.f("pk_taken_items")),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="Declared bytes"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="Declared by the caller, or seen while the bytes passed"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'ready')", name=op.f("ck_uploads_state_known")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_uploads_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_created", "uploads", ["created_at"], unique=False)
    op.create_index("ix_uploads_key", "uploads", ["key_id", sa.literal_column("id DESC")], unique=False)
    op.create_table(
        "voices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "transcript",
            sa.Text(),
            nullable=True,
            comment="The exact words of the excerpt; drafted, or confirmed where ready",
        ),
        sa.Column("consent", Json, nullable=False, comment="Who gave it, when, for what; kept as long as the voice"),
        sa.Column("job_id", sa.Text(), nullable=False, comment="The job that prepares it; may be deleted before it"),
        sa.Column("transcription_id", sa.Text(), nullable=True, comment="The job that transcribes it for that one"),
        sa.Column("recording", sa.Text(), nullable=True, comment="Storage key; NULL until it is prepared"),
        sa.Column("excerpt", sa.Text(), nullable=True, comment="Storage key of what models get"),
        sa.Column("seconds", sa.Float(), nullable=True, comment="Of the recording"),
        sa.Column("excerpt_start", sa.Float(), nullable=True),
        sa.Column("excerpt_end", sa.Float(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.CheckConstraint(
            "state <> 'ready' OR (transcript IS NOT NULL AND excerpt IS NOT NULL)",
            name=op.f("ck_voices_ready_is_whole"),
        ),
        sa.CheckConstraint("state IN ('draft', 'ready')", name=op.f("ck_voices_state_known")),
        sa.CheckConstraint(
            "(excerpt IS NULL) = (excerpt_start IS NULL) AND (excerpt IS NULL) = (excerpt_end IS NULL)",
            name=op.f("ck_voices_excerpt_has_place"),
        ),
        sa.CheckConstraint("(recording IS NULL) = (excerpt IS NULL)", name=op.f("ck_voices_prepared_is_whole")),
        sa.CheckConstraint(
            "excerpt_end IS NULL OR excerpt_end > excerpt_start", name=op.f("ck_voices_excerpt_not_empty")
        ),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_voices_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_voices")),
    )
    op.create_index("ix_voices_key", "voices", ["key_id", sa.literal_column("id DESC")], unique=False)
    op.create_table(
        "batch_rejects",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False, comment="Its place among the items of the batch, from 1"),
        sa.Column("source", sa.Text(), nullable=True, comment="What it was, in short"),
        sa.Column("error", Json, nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_rejects_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "item", name=op.f("pk_batch_rejects")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("callback_id", sa.Text(), nullable=False),
        sa.Column("at", Timestamp(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("response", sa.Text(), nullable=True, comment="The first bytes of the answer"),
        sa.ForeignKeyConstraint(
            ["callback_id"], ["callbacks.id"], name=op.f("fk_deliveries_callback_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_callback", "deliveries", ["callback_id", "id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False, comment="Which workers may run it: cpu or gpu"),
        sa.Column("batch", sa.Text(), nullable=True, comment="A label; of a job of a batch, the batch's name"),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("batch_item", sa.Integer(), nullable=True, comment="Its place among the items of the batch, from 1"),
        sa.Column("item", Json, nullable=True, comment="What names its results: title, show, date, suffix"),
        sa.Column("expected", sa.Float(), nullable=True, comment="Seconds of audio, as its source says"),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("request", Json, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_at", Timestamp(), nullable=False, comment="Not released before"),
        sa.Column("deadline", Timestamp(), nullable=True),
        sa.Column("upstream", sa.Text(), nullable=True, comment="The job whose output this one still waits for"),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False, comment="Fencing number, one per claim"),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Attempts that failed; yields are none",
        ),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "losses",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Leases that ran out, whoever was to blame",
        ),
        sa.Column("crashed_at_block", sa.Integer(), nullable=True, comment="Finished blocks when its worker last died"),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", Timestamp(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("progress", Json, nullable=True),
        sa.Column("blocks_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("blocks_total", sa.Integer(), nullable=True),
        sa.Column("result", Json, nullable=True),
        sa.Column("result_attempt", sa.Integer(), nullable=True),
        sa.Column("length", sa.Float(), nullable=True, comment="Seconds of audio, or images, as its worker found them"),
        sa.Column("work_seconds", sa.Float(), nullable=True, comment="What all of it takes a worker; NULL: not known"),
        sa.Column("error", Json, nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("rung_at", Timestamp(), nullable=True, comment="When the bell was last rung for it"),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("started_at", Timestamp(), nullable=True),
        sa.Column("finished_at", Timestamp(), nullable=True),
        sa.Column("updated_at", Timestamp(), nullable=False),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_jobs_running_has_lease")),
        sa.CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name=op.f("ck_jobs_running_has_worker")),
        sa.CheckConstraint("(state = 'succeeded') = (result IS NOT NULL)", name=op.f("ck_jobs_succeeded_has_result")),
        sa.CheckConstraint(
            "(state = 'succeeded') = (result_attempt IS NOT NULL)", name=op.f("ck_jobs_succeeded_has_attempt")
        ),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'expired', 'failed', 'succeeded')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_terminal_is_finished"),
        ),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_jobs_failed_has_error")),
        sa.CheckConstraint("state <> 'running' OR attempt > 0", name=op.f("ck_jobs_running_has_attempt")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'expired', 'failed', 'queued', 'running', 'succeeded', 'waiting')",
            name=op.f("ck_jobs_state_known"),
        ),
        sa.CheckConstraint(
            "upstream IS NULL OR state = 'waiting' OR state IN ('cancelled', 'expired', 'failed', 'succeeded')",
            name=op.f("ck_jobs_upstream_waits"),
        ),
        sa.CheckConstraint("(batch_id IS NULL) = (batch_item IS NULL)", name=op.f("ck_jobs_item_of_a_batch")),
        sa.CheckConstraint(
            "result_attempt IS NULL OR result_attempt = attempt", name=op.f("ck_jobs_result_of_last_attempt")
        ),
        sa.CheckConstraint(
            "work_seconds IS NULL OR (length > 0 AND work_seconds > 0)", name=op.f("ck_jobs_speed_positive")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_jobs_batch_id")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_jobs_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key_id", "idempotency_key", name=op.f("uq_jobs_key_id_idempotency_key")),
    )
    op.create_index(
        "ix_jobs_active",
        "jobs",
        ["key_id", "finished_at", "id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["key_id", "batch", sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("batch IS NOT NULL"),
        sqlite_where=sa.text("batch IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_claim",
        "jobs",
        [sa.literal_column("priority DESC"), "run_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"),
        sqlite_where=sa.text("deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"),
    )
    op.create_index(
        "ix_jobs_finished",
        "jobs",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_forget",
        "jobs",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_item",
        "jobs",
        ["batch_id", "batch_item"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_item_state",
        "jobs",
        ["batch_id", "state", "batch_item"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_lease",
        "jobs",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index("ix_jobs_list", "jobs", ["key_id", sa.literal_column("id DESC")], unique=False)
    op.create_index(
        "ix_jobs_release",
        "jobs",
        ["key_id", "lane", "priority", "run_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NULL"),
        sqlite_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NULL"),
    )
    op.create_index(
        "ix_jobs_release_batch",
        "jobs",
        ["batch_id", "lane", "priority", "run_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NOT NULL"),
        sqlite_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_speed",
        "jobs",
        ["lane", "engine", "finished_at"],
        unique=False,
        postgresql_where=sa.text("work_seconds IS NOT NULL"),
        sqlite_where=sa.text("work_seconds IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_unsuccessful",
        "jobs",
        ["key_id", sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("state IN ('cancelled', 'expired', 'failed')"),
        sqlite_where=sa.text("state IN ('cancelled', 'expired', 'failed')"),
    )
    op.create_index(
        "ix_jobs_upstream",
        "jobs",
        ["upstream"],
        unique=False,
        postgresql_where=sa.text("upstream IS NOT NULL"),
        sqlite_where=sa.text("upstream IS NOT NULL"),
    )
    op.create_table(
        "schedule_ticks",
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("tick", Timestamp(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column(
            "missed", sa.Integer(), server_default="0", nullable=False, comment="Ticks before it that nobody acted on"
        ),
        sa.Column("error", Json, nullable=True),
        sa.Column("at", Timestamp(), nullable=False),
        sa.CheckConstraint(
            "(outcome IN ('made', 'by_hand')) = (batch_id IS NOT NULL)", name=op.f("ck_schedule_ticks_made_has_batch")
        ),
        sa.CheckConstraint(
            "outcome IN ('made', 'skipped', 'refused', 'by_hand')", name=op.f("ck_schedule_ticks_outcome_known")
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_schedule_ticks_schedule_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "tick", name=op.f("pk_schedule_ticks")),
    )
    op.create_table(
        "blocks",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False, comment="Of all that decides what the block holds"),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("files", Json, nullable=False, comment="Stem name to storage key"),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_blocks_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "fingerprint", "index", name=op.f("pk_blocks")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("at", Timestamp(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False, comment="state or log"),
        sa.Column("data", Json, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_job", "events", ["job_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_events_job", table_name="events")
    op.drop_table("events")
    op.drop_table("blocks")
    op.drop_table("schedule_ticks")
    op.drop_index(
        "ix_jobs_upstream",
        table_name="jobs",
        postgresql_where=sa.text("upstream IS NOT NULL"),
        sqlite_where=sa.text("upstream IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_unsuccessful",
        table_name="jobs",
        postgresql_where=sa.text("state IN ('cancelled', 'expired', 'failed')"),
        sqlite_where=sa.text("state IN ('cancelled', 'expired', 'failed')"),
    )
    op.drop_index(
        "ix_jobs_speed",
        table_name="jobs",
        postgresql_where=sa.text("work_seconds IS NOT NULL"),
        sqlite_where=sa.text("work_seconds IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_release_batch",
        table_name="jobs",
        postgresql_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NOT NULL"),
        sqlite_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_release",
        table_name="jobs",
        postgresql_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NULL"),
        sqlite_where=sa.text("state = 'waiting' AND upstream IS NULL AND batch_id IS NULL"),
    )
    op.drop_index("ix_jobs_list", table_name="jobs")
    op.drop_index(
        "ix_jobs_lease",
        table_name="jobs",
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.drop_index(
        "ix_jobs_item_state",
        table_name="jobs",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_item",
        table_name="jobs",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_forget",
        table_name="jobs",
        postgresql_where=sa.text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_finished",
        table_name="jobs",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_deadline",
        table_name="jobs",
        postgresql_where=sa.text("deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"),
        sqlite_where=sa.text("deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"),
    )
    op.drop_index(
        "ix_jobs_claim",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.drop_index(
        "ix_jobs_batch",
        table_name="jobs",
        postgresql_where=sa.text("batch IS NOT NULL"),
        sqlite_where=sa.text("batch IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_active",
        table_name="jobs",
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.drop_table("jobs")
    op.drop_index("ix_deliveries_callback", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_table("batch_rejects")
    op.drop_index("ix_voices_key", table_name="voices")
    op.drop_table("voices")
    op.drop_index("ix_uploads_key", table_name="uploads")
    op.drop_index("ix_uploads_created", table_name="uploads")
    op.drop_table("uploads")
    op.drop_table("taken_items")
    op.drop_index(
        "ix_schedules_next",
        table_name="schedules",
        postgresql_where=sa.text("NOT paused"),
        sqlite_where=sa.text("NOT paused"),
    )
    op.drop_index("ix_schedules_key", table_name="schedules")
    op.drop_table("schedules")
    op.drop_table("presets")
    op.drop_index("ix_callbacks_key", table_name="callbacks")
    op.drop_index("ix_callbacks_job", table_name="callbacks")
    op.drop_index(
        "ix_callbacks_due",
        table_name="callbacks",
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.drop_index("ix_callbacks_created", table_name="callbacks")
    op.drop_table("callbacks")
    op.drop_table("callback_endpoints")
    op.drop_index(
        "ix_batches_unfinished",
        table_name="batches",
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.drop_index(
        "ix_batches_open",
        table_name="batches",
        postgresql_where=sa.text("open_until IS NOT NULL"),
        sqlite_where=sa.text("open_until IS NOT NULL"),
    )
    op.drop_index("ix_batches_list", table_name="batches")
    op.drop_index("ix_batches_finished", table_name="batches")
    op.drop_index(
        "ix_batches_change",
        table_name="batches",
        postgresql_where=sa.text("changes_at IS NOT NULL"),
        sqlite_where=sa.text("changes_at IS NOT NULL"),
    )
    op.drop_table("batches")
    op.drop_table("turns")
    op.drop_index("ix_sweeps_due", table_name="sweeps")
    op.drop_table("sweeps")
    op.drop_table("processes")
    op.drop_table("keys")
