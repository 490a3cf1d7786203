"""A running `nightshift up` for the session: everything embedded, on a free port, in a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.storage.s3_client import connect
from nightshift import Client
from nightshift.place import find
from tests import media
from tests.command import Command, processes_of
from tests.engines import ALL
from tests.house import QUICK, wait_for
from tests.servers.moto import MotoServer
from tests.servers.receiver import Receiver
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server

MAX_UPLOAD_BYTES = 2_000_000
MAX_DURATION_SECONDS = 100


@dataclass(frozen=True)
class Up:
    """command: in this process; shell: as a process.  receiver: an HTTP server on a private address that the operator
    has allowed.  s3: with the bucket `of-the-user`, that results may be delivered into."""

    home: Path
    url: str
    token: str
    command: Command
    shell: Command
    receiver: Receiver
    s3: S3Server
    log: Path

    def client(self) -> Client:
        return Client(self.url, self.token)


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    home, log = folder / "home", folder / "up.log"
    receiver = Receiver()
    receiver.start()
    moto = MotoServer()
    moto.start()
    s3 = moto.server
    connect(s3_settings(s3, "own", folder), s3.endpoint).create_bucket(Bucket="of-the-user")
    settings = {
        **QUICK,
        "cancel_poll_seconds": 1.0,
        "home": home,
        "extra_engines": ALL,
        "allow_private_hosts": receiver.host,
        "max_upload_bytes": MAX_UPLOAD_BYTES,
        "max_duration_seconds": MAX_DURATION_SECONDS,
        "fetch_timeout_seconds": 5,
        "max_attempts": 2,
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_output_buckets": "of-the-user",
    }
    shell = Command(folder, **settings)
    process = shell.start("up", "--port", 0, log=log)
    try:
        wait_for(lambda: "Nightshift is up." in log.read_text() or process.poll() is not None, 90)
        assert process.poll() is None, log.read_text()
        place = find(home=home)
        yield Up(home, place.url, place.api_key, Command(folder, inside=True, **settings), shell, receiver, s3, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        receiver.stop()
        moto.stop()
    assert process.returncode == 0, log.read_text()
    assert not processes_of(NIGHTSHIFT_HOME=home), "processes outlive `nightshift up`"


@pytest.fixture(scope="session")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of stereo, an odd number of samples."""
    samples = media.signal(44_100, 2, 3.0, "noise")[:, :-7]
    return media.write(tmp_path_factory.mktemp("episode") / "episode.wav", samples, 44_100)


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 seconds, which take the engine `slow` 9."""
    return media.make(tmp_path_factory.mktemp("long") / "long.wav", 8000, 1, 90.0)
