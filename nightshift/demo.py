"""The demo: the whole service for one real job, with nothing left behind but the results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from common import tether
from nightshift.client import Client
from nightshift.errors import NightshiftClientError
from nightshift.place import find
from nightshift.up import wait_until_ready
from worker.media.measure import si_sdr
from worker.media.synthesis import demo_mix

SECONDS = 30.0
SNR_DB = 0.0


@dataclass(frozen=True)
class Mixed:
    """The demo's own input. path: the mix.  clean: the speech in it, float32 [channels, samples]."""

    path: Path
    clean: np.ndarray


def mix(folder: Path) -> Mixed:
    """A spoken passage over generated music and noise, written as 16-bit FLAC.

    Raises `engine_not_ready` where the speech synthesiser is not installed.
    """
    samples, clean, rate = demo_mix(SECONDS, seed=1, snr_db=SNR_DB)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mix.flac"
    draft = folder / ".mix.part"
    try:
        soundfile.write(draft, samples.T, rate, subtype="PCM_16", format="FLAC")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Mixed(path, clean)


def gain_db(mixed: Mixed, stem: Path) -> tuple[float, float]:
    """SI-SDR against the clean speech, dB: of the mix, and of the stem."""
    before, _ = soundfile.read(mixed.path, dtype="float32", always_2d=True)
    after, _ = soundfile.read(stem, dtype="float32", always_2d=True)
    if after.T.shape != mixed.clean.shape:
        raise NightshiftClientError(f"{stem.name} has {after.shape[0]} samples instead of {mixed.clean.shape[1]}")
    return si_sdr(mixed.clean, before.T), si_sdr(mixed.clean, after.T)


@contextmanager
def service() -> Iterator[Client]:
    """The embedded service in a folder of its own, which is gone afterwards with every process."""
    with tempfile.TemporaryDirectory(prefix="nightshift-demo-") as home:
        log = Path(home) / "log"
        # A service of one's own: nothing that is configured for another may reach it.
        env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
        env |= {
            "NIGHTSHIFT_HOME": home,
            "NIGHTSHIFT_PORT": "0",
            "NIGHTSHIFT_POLL_SECONDS": "0.1",
            # Whoever interrupts the demo wants no block finished first: nobody will go on with the job.
            "NIGHTSHIFT_DRAIN_SECONDS": "0.1",
            "NIGHTSHIFT_CANCEL_POLL_SECONDS": "0.2",
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                # -I: the folder of tether.py must not stand before the standard library.
                [
                    sys.executable,
                    "-I",
                    "-S",
                    tether.__file__,
                    str(os.getpid()),
                    sys.executable,
                    "-m",
                    "nightshift",
                    "up",
                ],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield _connect(Path(home), process, log)
        finally:
            _end(process)


def _connect(home: Path, process: subprocess.Popen[bytes], log: Path) -> Client:
    deadline = time.monotonic() + 60
    while not (home / "client.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise NightshiftClientError(f"The service did not start:\n{_tail(log)}")
        time.sleep(0.05)
    place = find(home=home)
    if not wait_until_ready(place, alive=lambda: process.poll() is None):
        raise NightshiftClientError(f"The service did not become ready:\n{_tail(log)}")
    return Client(place.url, place.api_key)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])
