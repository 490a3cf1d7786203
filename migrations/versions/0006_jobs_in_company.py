"""Jobs that a worker took together"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COMMENT = "Jobs that its worker took together with it, itself included; NULL: it alone"


def upgrade() -> None:
    # On SQLite the CHECK comes with the column: added by itself, the table would have to be written anew, and its
    # indexes that have an order could not be read back.
    if op.get_bind().dialect.name == "sqlite":
        op.execute("ALTER TABLE jobs ADD COLUMN company INTEGER CONSTRAINT ck_jobs_company_of_more CHECK (company > 1)")
        return
    op.add_column("jobs", sa.Column("company", sa.Integer(), comment=_COMMENT))
    op.create_check_constraint(op.f("ck_jobs_company_of_more"), "jobs", "company > 1")


def downgrade() -> None:
    # The CHECK goes with it.
    op.execute("ALTER TABLE jobs DROP COLUMN company")
