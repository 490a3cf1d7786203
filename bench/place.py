"""Where benchmarks take place: installations of their own, on the servers that the tests use too."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import soundfile

from common.db.migrate import upgrade
from common.settings import Settings
from tests.house import QUICK, House
from tests.servers.postgres import PrivatePostgres, postgres_programs
from tests.servers.redis import PrivateRedis

# The house of the tests runs with short times; here those count that an installation has by default.
AS_SHIPPED = {name: Settings.model_fields[name].default for name in QUICK}


class Missing(Exception):
    """A server that a benchmark needs is not installed; the message says which."""


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as made:
        yield Path(made)


@contextmanager
def redis() -> Iterator[PrivateRedis]:
    """A Redis server without persistence, for one benchmark."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server is not installed")
    with folder() as at:
        server = PrivateRedis(program, at)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a migrated database on a PostgreSQL server for one benchmark.

    Its commits do not wait for the disk (`fsync=off`): that wait would hide what the code costs, on both sides of a
    ratio.
    """
    programs = postgres_programs()
    if programs is None:
        raise Missing("PostgreSQL's server programs are not installed")
    with folder() as at:
        server = PrivatePostgres(programs, at)
        server.start()
        try:
            upgrade(server.url)
            yield server.url
        finally:
            server.kill()


@contextmanager
def sqlite() -> Iterator[str]:
    """The address of a migrated SQLite file."""
    with folder() as at:
        url = f"sqlite:///{at}/nightshift.db"
        upgrade(url)
        yield url


@contextmanager
def house(database_url: str, **members: Any) -> Iterator[House]:
    """An installation with an empty store on a database; members: its settings."""
    with folder() as at:
        made = House(at / "home", database_url, **{**AS_SHIPPED, **members})
        try:
            yield made
        finally:
            made.database.dispose()


def run_statement(url: str, statement: str) -> None:
    """Runs what belongs in no transaction, such as VACUUM, on PostgreSQL."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def recording(path: Path, seconds: float, *, rate: int = 44_100, equal_channels: bool = False) -> Path:
    """A stereo FLAC or WAV of 16 bits: a minute of noise and a tone over and over, so that length costs no memory."""
    minute = round(min(60.0, seconds) * rate)
    time = np.arange(minute) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (2, minute))
    tones = np.stack([0.2 * np.sin(2 * np.pi * 220 * time), 0.2 * np.sin(2 * np.pi * 330 * time)])
    samples = (noise + tones).astype(np.float32)
    if equal_channels:
        samples[1] = samples[0]
    left = round(seconds * rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", rate, 2, "PCM_16") as file:
        while left:
            piece = samples[:, : min(left, minute)]
            file.write(piece.T)
            left -= piece.shape[1]
    return path
