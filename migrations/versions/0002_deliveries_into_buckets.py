"""Deliveries of results into buckets"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from common.db.types import Json, Timestamp

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COUNTS = "delivering >= 0 AND delivered >= 0 AND undelivered >= 0"


def upgrade() -> None:
    where = "Where its results are copied to, and how; NULL: nowhere"
    op.add_column("batches", sa.Column("deliver", Json, nullable=True, comment=where))
    for name in ("delivering", "delivered"):
        op.add_column("batches", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    # The CHECK comes with the last of its columns: SQLite cannot add one to a table that is there.
    op.execute(
        "ALTER TABLE batches ADD COLUMN undelivered INTEGER DEFAULT '0' NOT NULL"
        f" CONSTRAINT ck_batches_deliveries_are_counts CHECK ({_COUNTS})"
    )
    op.create_table(
        "transfers",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False, comment="The job's"),
        sa.Column("item", sa.Integer(), nullable=False, comment="The job's place among the items of the batch"),
        sa.Column("bucket", sa.Text(), nullable=False, comment="What the tries at one time are counted by"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "next_at",
            Timestamp(),
            nullable=True,
            comment="Not tried before; while it is tried, when another may take it over",
        ),
        sa.Column("bytes", sa.BigInteger(), nullable=True, comment="Of all that lies there now"),
        sa.Column("error", Json, nullable=True, comment="Of its last try"),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("ended_at", Timestamp(), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'done', 'failed')", name=op.f("ck_transfers_state_known")),
        sa.CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name=op.f("ck_transfers_pending_has_next")),
        sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name=op.f("ck_transfers_end_is_dated")),
        sa.CheckConstraint("(state = 'done') = (bytes IS NOT NULL)", name=op.f("ck_transfers_done_has_bytes")),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_transfers_failed_has_error")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_transfers_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_transfers")),
    )
    for name, columns, state in (
        ("ix_transfers_due", ["bucket", "next_at", "job_id"], "pending"),
        ("ix_transfers_failed", ["batch_id", "item"], "failed"),
    ):
        where_state = sa.text(f"state = '{state}'")
        op.create_index(name, "transfers", columns, postgresql_where=where_state, sqlite_where=where_state)


def downgrade() -> None:
    op.drop_table("transfers")
    # The one with the CHECK first.
    for name in ("undelivered", "delivered", "delivering", "deliver"):
        op.drop_column("batches", name)
