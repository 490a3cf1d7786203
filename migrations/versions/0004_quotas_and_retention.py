"""Quotas of hours and bytes, and a warning before anything is deleted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from common.db.types import Timestamp

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LOOSE = sa.text("finished_at IS NOT NULL AND batch_id IS NULL")
_PENDING = sa.text("state = 'pending'")

# What is there already counts: bytes of outputs, and which jobs read which uploads.
_OUTPUTS = {
    "postgresql": "(SELECT coalesce(sum((o->>'bytes')::bigint), 0) FROM jsonb_array_elements(j.result->'outputs') o)",
    "sqlite": "(SELECT coalesce(sum(json_extract(o.value, '$.bytes')), 0) FROM json_each(j.result, '$.outputs') o)",
}
_USES = {
    "postgresql": (
        "SELECT request->'input'->>'upload', id FROM jobs WHERE request->'input'->>'upload' IS NOT NULL UNION"
        " SELECT i->>'upload', id FROM jobs, jsonb_array_elements(CASE WHEN jsonb_typeof(request->'inputs') = 'array'"
        " THEN request->'inputs' ELSE '[]'::jsonb END) i WHERE i->>'upload' IS NOT NULL"
    ),
    "sqlite": (
        "SELECT json_extract(request, '$.input.upload'), id FROM jobs"
        " WHERE json_extract(request, '$.input.upload') IS NOT NULL UNION"
        " SELECT json_extract(i.value, '$.upload'), jobs.id FROM jobs, json_each(jobs.request, '$.inputs') i"
        " WHERE i.type = 'object' AND json_extract(i.value, '$.upload') IS NOT NULL"
    ),
}


def upgrade() -> None:
    op.add_column(
        "keys",
        sa.Column(
            "max_audio_hours_per_day",
            sa.Float(),
            nullable=True,
            comment="Quota of hours of audio, by UTC's days; NULL: the setting",
        ),
    )
    op.add_column(
        "keys",
        sa.Column(
            "max_bytes", sa.BigInteger(), nullable=True, comment="Quota of bytes in the store; NULL: the setting"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "stored_bytes", sa.BigInteger(), server_default="0", nullable=False, comment="Of its outputs, in the store"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "expiry_told_at", Timestamp(), nullable=True, comment="When its owner was told that it will be deleted"
        ),
    )
    op.create_index(
        "ix_jobs_expiry",
        "jobs",
        ["expiry_told_at", "finished_at"],
        unique=False,
        postgresql_where=_LOOSE,
        sqlite_where=_LOOSE,
    )
    op.add_column(
        "batches",
        sa.Column(
            "expiry_told_item",
            sa.Integer(),
            nullable=True,
            comment="The last of its jobs whose owner was told that it will be deleted",
        ),
    )
    op.add_column("batches", sa.Column("expiry_told_at", Timestamp(), nullable=True, comment="When all was told of it"))
    op.add_column(
        "voices",
        sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False, comment="Of both, in the store"),
    )
    op.create_index(
        "ix_uploads_pending",
        "uploads",
        ["created_at"],
        unique=False,
        postgresql_where=_PENDING,
        sqlite_where=_PENDING,
    )
    op.create_table(
        "upload_uses",
        sa.Column("upload_id", sa.Text(), nullable=False, comment="May have been deleted by its owner"),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_upload_uses_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("upload_id", "job_id", name=op.f("pk_upload_uses")),
    )
    op.create_index("ix_upload_uses_job", "upload_uses", ["job_id"], unique=False)
    op.create_table(
        "usage",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("at", Timestamp(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="Came into the store; below 0: went out of it"),
        sa.Column("audio_ms", sa.BigInteger(), nullable=False, comment="Milliseconds of audio that were worked on"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_usage_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage")),
    )
    op.create_index("ix_usage_key", "usage", ["key_id", "at"], unique=False)
    _count_what_is_there()


def _count_what_is_there() -> None:
    kind = op.get_bind().dialect.name
    outputs = _OUTPUTS[kind]
    op.execute(f"UPDATE jobs AS j SET stored_bytes = {outputs} WHERE j.state = 'succeeded' AND j.kind <> 'voice'")
    op.execute(
        f"UPDATE voices SET stored_bytes = coalesce((SELECT {outputs} FROM jobs j WHERE j.id = voices.job_id"
        " AND j.state = 'succeeded'), 0) WHERE excerpt IS NOT NULL"
    )
    op.execute(f"INSERT INTO upload_uses (upload_id, job_id) {_USES[kind]}")
    op.execute(
        "INSERT INTO usage (key_id, at, bytes, audio_ms)"
        " SELECT key_id, max(at), sum(bytes), 0 FROM ("
        "SELECT key_id, created_at AS at, stored_bytes AS bytes FROM jobs"
        " UNION ALL SELECT key_id, created_at, size FROM uploads"
        " UNION ALL SELECT key_id, created_at, stored_bytes FROM voices"
        ") AS what GROUP BY key_id HAVING sum(bytes) > 0"
    )


def downgrade() -> None:
    op.drop_index("ix_usage_key", table_name="usage")
    op.drop_table("usage")
    op.drop_index("ix_upload_uses_job", table_name="upload_uses")
    op.drop_table("upload_uses")
    op.drop_index("ix_uploads_pending", table_name="uploads", postgresql_where=_PENDING, sqlite_where=_PENDING)
    op.drop_column("voices", "stored_bytes")
    op.drop_column("batches", "expiry_told_at")
    op.drop_column("batches", "expiry_told_item")
    op.drop_index("ix_jobs_expiry", table_name="jobs", postgresql_where=_LOOSE, sqlite_where=_LOOSE)
    op.drop_column("jobs", "expiry_told_at")
    op.drop_column("jobs", "stored_bytes")
    op.drop_column("keys", "max_bytes")
    op.drop_column("keys", "max_audio_hours_per_day")
