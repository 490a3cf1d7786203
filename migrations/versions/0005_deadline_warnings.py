"""What was told of deadlines, the audio that batches have done, deadlines of schedules' batches"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from common.db.types import Timestamp

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OF = {
    "jobs": "Of not starting by its deadline, as last told; NULL: nothing was found yet",
    "batches": "Of missing its deadline, as last told; NULL: nothing was found yet",
}


def upgrade() -> None:
    for table, comment in _OF.items():
        _add(
            table, sa.Column("risk", sa.Text(), comment=comment), "risk_known", "risk IN ('on_time', 'at_risk', 'late')"
        )
        told = sa.Column("risk_at", Timestamp(), comment="When that was told")
        _add(table, told, "risk_dated", "(risk IS NULL) = (risk_at IS NULL)")
    done = "Seconds, of the jobs that succeeded"
    op.add_column("batches", sa.Column("audio_done", sa.Float(), server_default="0", nullable=False, comment=done))
    after = "Of its batches: seconds after the tick; NULL: they have no deadline"
    _add(
        "schedules", sa.Column("deadline_after", sa.Float(), comment=after), "deadline_after_tick", "deadline_after > 0"
    )


def _add(table: str, column: sa.Column[Any], check: str, condition: str) -> None:
    """A column that may be NULL, with its CHECK.

    On SQLite it comes with the column: added by itself, the table would have to be written anew, and its indexes that
    have an order could not be read back.
    """
    name = f"ck_{table}_{check}"
    if op.get_bind().dialect.name == "sqlite":
        kind = column.type.compile(op.get_bind().dialect)
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} {kind} CONSTRAINT {name} CHECK ({condition})")
    else:
        op.add_column(table, column)
        op.create_check_constraint(op.f(name), table, condition)


def downgrade() -> None:
    for table, column in (
        ("schedules", "deadline_after"), ("batches", "audio_done"), ("batches", "risk_at"), ("batches", "risk"),
        ("jobs", "risk_at"), ("jobs", "risk"),
    ):  # fmt: skip
        # A CHECK goes with the last of its columns.
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
