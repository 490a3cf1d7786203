"""Alembic migrations, for PostgreSQL and SQLite alike."""
