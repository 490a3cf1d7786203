"""`nightshift demo` as on a fresh machine: real results, of any input, and nothing left behind."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import soundfile
from PIL import Image

from tests import media
from tests.command import Command, descendants, interrupt
from tests.house import wait_for

# Name: sample rate, channels. What is decoded is the same for every way in; `test_media_decode.py` has all formats.
FILES = {"a.m4a": (44_100, 2), "b.wav": (8_000, 1), "c.mp4": (48_000, 2)}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    made = Command(tmp_path, home=tmp_path / "none")
    made.environment["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    return made


def decoded(path: Path) -> tuple[int, int, int]:
    """What FFmpeg makes of a file: its samples, channels and rate."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        return sum(frame.samples for frame in file.decode(stream)), stream.channels, stream.rate


def shape(path: Path) -> tuple[int, int, int]:
    info = soundfile.info(path)
    return info.frames, info.channels, info.samplerate


def left_behind(command: Command) -> list[Path]:
    """Folders of services that are over, and files that were never finished."""
    return [*(command.folder / "tmp").iterdir(), *command.folder.rglob("*.part")]


def test_the_default_demo_takes_speech_out_of_music_and_measures_it(command: Command) -> None:
    found = command("demo", "--json").json
    paths = {name: command.folder / path for name, path in found["outputs"].items()}
    assert found["si_sdr"]["gain_db"] > 2.0
    mix = command.folder / "nightshift-demo" / "mix.flac"
    assert shape(paths["speech"]) == shape(paths["residual"]) == shape(mix) == (30 * 48_000, 2, 48_000)
    stems = [soundfile.read(path)[0] for path in (paths["speech"], paths["residual"])]
    np.testing.assert_allclose(sum(stems), soundfile.read(mix)[0], atol=2 / 32768)
    with Image.open(paths["waveform.png"]) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 300
    assert not left_behind(command)


def test_any_audio_or_video_with_sound_will_do(command: Command) -> None:
    for name, (rate, channels) in FILES.items():
        media.make(command.folder / name, rate, channels, 1.5, "sweep")
    with ThreadPoolExecutor(3) as pool:
        said = dict(zip(FILES, pool.map(lambda name: command("demo", name).out, FILES), strict=True))
    for name, (rate, channels) in FILES.items():
        expected = decoded(command.folder / name)
        assert expected[1:] == (channels, rate) and expected[0] > rate
        for stem in ("speech", "residual"):
            path = f"nightshift-demo/{Path(name).stem}/{stem}.flac"
            assert f" {path}\n" in said[name]
            assert shape(command.folder / path) == expected, name
    assert not left_behind(command)


def test_a_file_that_is_no_audio_is_refused_in_words(command: Command) -> None:
    (command.folder / "notes.mp3").write_text("These are notes, not sound.\n" * 50)
    done = command("demo", "notes.mp3", status=1)
    assert "unsupported_media" in done.err and "Traceback" not in done.err
    assert "absent.mp3: There is no such file" in command("demo", "absent.mp3", status=2).err
    assert not left_behind(command)


def started(command: Command, log: Path, phase: str) -> tuple[object, list[psutil.Process]]:
    """A demo that is in the middle of its work, and all its processes."""
    process = command.start("demo", "long.flac", log=log)
    wait_for(lambda: phase in log.read_text() or process.poll() is not None, 90)
    assert process.poll() is None, log.read_text()
    return process, descendants(process.pid)


@pytest.mark.parametrize(
    ("group", "phase"),
    [(True, "running separate"), (False, "running separate"), (False, "Starting API")],
    ids=["ctrl-c", "kill-int", "kill-int-at-the-start"],
)
def test_an_interrupt_leaves_nothing(command: Command, group: bool, phase: str) -> None:
    media.make(command.folder / "long.flac", 48_000, 2, 120.0, "noise")
    log = command.folder / "log"
    process, family = started(command, log, phase)
    interrupt(process, group=group)
    assert process.wait(150) == 130, log.read_text()
    family = [*family, *descendants(process.pid)]
    _gone, alive = psutil.wait_procs(family, 20)
    assert not alive
    assert "Interrupted." in log.read_text() and "Traceback" not in log.read_text()
    assert not left_behind(command)
    assert not list(command.folder.glob("nightshift-demo/*"))


def test_killing_the_demo_ends_all_its_processes(command: Command) -> None:
    media.make(command.folder / "long.flac", 48_000, 2, 120.0, "noise")
    process, family = started(command, command.folder / "log", "running separate")
    assert len(family) >= 6  # up, API and its process, scheduler, deliverer, launcher, worker, decoder
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _gone, alive = psutil.wait_procs(family, 30)
    assert not alive
