"""Alembic's entry: runs the migrations on the database that `common.db.migrate` (or the settings) names."""

from __future__ import annotations

from alembic import context

from common import settings
from common.db.engine import Database
from common.db.tables import metadata


def run() -> None:
    database = context.config.attributes.get("database")
    if database is None:
        database = Database(context.config.get_main_option("sqlalchemy.url") or settings.load().database)
    with database.write() as tx:
        context.configure(
            connection=tx.connection,
            target_metadata=metadata,
            render_as_batch=tx.connection.dialect.name == "sqlite",
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
