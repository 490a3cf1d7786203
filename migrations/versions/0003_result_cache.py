"""Results that other jobs may take over"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=True,
            comment="Of all that decides its result; NULL: no other job may take that over",
        ),
    )
    op.create_index(
        "ix_jobs_fingerprint",
        "jobs",
        ["key_id", "fingerprint", "finished_at"],
        unique=False,
        postgresql_where=sa.text("fingerprint IS NOT NULL"),
        sqlite_where=sa.text("fingerprint IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_fingerprint", table_name="jobs")
    op.drop_column("jobs", "fingerprint")
