"""What every test may ask for: servers, their databases and buckets, and the profile of the property tests."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from common import engines
from tests.databases import (
    database,
    database_url,
    emptied_postgres_url,
    postgres_database,
    shared_postgres_url,
    sqlite_database,
    sqlite_template,
    sqlite_url,
)
from tests.house import house, sqlite_house
from tests.servers.availability import in_ci
from tests.servers.moto import moto_s3
from tests.servers.postgres import postgres_databases, postgres_template, postgres_url, private_postgres
from tests.servers.receiver import receiver
from tests.servers.redis import private_redis
from tests.servers.s3 import bucket
from tests.servers.swift import s3_server

__all__ = [
    "bucket",
    "database",
    "database_url",
    "emptied_postgres_url",
    "house",
    "moto_s3",
    "postgres_database",
    "postgres_databases",
    "postgres_template",
    "postgres_url",
    "private_postgres",
    "private_redis",
    "receiver",
    "s3_server",
    "shared_postgres_url",
    "sqlite_database",
    "sqlite_house",
    "sqlite_template",
    "sqlite_url",
]

# A shared machine makes single examples slow now and then; that says nothing about the code.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), print_blob=True)
settings.load_profile("ci" if in_ci() else "default")


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A shell starts what runs in the background deaf to Ctrl-C, and whatever that starts inherits it: the commands
    that tests interrupt too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _undisturbed() -> Iterator[None]:
    """What belongs to the whole process is left as it was found: the engines it knows, and where its log goes."""
    known, root, lines = dict(engines.REGISTRY), logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.configure(**lines)
    engines.REGISTRY.clear()
    engines.REGISTRY.update(known)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def migrate_database() -> Callable[[str], None]:
    """Brings the empty database at an address to the newest schema."""
    from common.db.migrate import upgrade

    return upgrade
