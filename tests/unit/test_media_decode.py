from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import NightshiftError
from tests import media
from worker.engine import Limits
from worker.media.decode import AudioReader, Shortfall

LIMITS = Limits()


def read(path: Path, limits: Limits = LIMITS, chunk_seconds: float = 10.0) -> tuple[np.ndarray, AudioReader]:
    with AudioReader(path, limits, chunk_seconds) as reader:
        blocks = list(reader)
    return np.concatenate(blocks, axis=1), reader


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (11_025, 2), (44_100, 1), (48_000, 2), (96_000, 2)])
@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_lossless_files_give_their_own_samples(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    path = media.make(tmp_path / name, rate, channels, 1.2345, "noise", "24")
    samples, reader = read(path)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    assert reader.info.sample_rate == rate
    np.testing.assert_array_equal(samples, expected)
    assert reader.samples_read == expected.shape[1]
    assert reader.shortfall is None


@pytest.mark.parametrize("depth", ["u8", "16", "24", "32", "float", "double"])
def test_every_depth_of_wav(tmp_path: Path, depth: str) -> None:
    path = media.make(tmp_path / "a.wav", content="noise", depth=depth, seconds=0.7)
    samples, _ = read(path)
    np.testing.assert_array_equal(samples, soundfile.read(path, dtype="float32", always_2d=True)[0].T)


@pytest.mark.parametrize("name", ["a.mp3", "a.opus", "a.ogg", "a.m4a", "a.mp4", "a.mkv"])
@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_compressed_files_give_the_signal_and_nothing_beside_it(tmp_path: Path, name: str, rate: int) -> None:
    original = media.signal(rate, 2, 3.0, "sweep")
    samples, reader = read(media.write(tmp_path / name, original, rate))
    if reader.info.sample_rate != rate:  # Opus is decoded at 48 kHz
        assert name == "a.opus"
        samples = samples[:, ::2]
    # AAC ends with a full frame of 1,024.
    spare = 1024 if reader.info.codec == "aac" else 0
    assert 0 <= samples.shape[1] - original.shape[1] <= spare
    wrong = samples[:, : original.shape[1]] - original
    assert np.sqrt(np.mean(wrong**2)) < 0.1 * np.sqrt(np.mean(original**2))


@pytest.mark.parametrize("name", ["a.mp3", "a.opus", "a.m4a"])
def test_decoding_twice_gives_the_same_samples(tmp_path: Path, name: str) -> None:
    path = media.make(tmp_path / name, content="noise", seconds=2)
    np.testing.assert_array_equal(read(path)[0], read(path, chunk_seconds=0.1)[0])


def test_six_channels_keep_their_order(tmp_path: Path) -> None:
    original = media.signal(48_000, 6, 0.5)
    samples, reader = read(media.write(tmp_path / "a.flac", original, depth="24"))
    assert reader.info.channels == 6
    np.testing.assert_allclose(samples, original, atol=2**-22)


def test_chunks_have_the_length_asked_for(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.wav", 8_000, 1, 2.55, "noise")
    with AudioReader(path, LIMITS, chunk_seconds=0.5) as reader:
        blocks = list(reader)
    assert [block.shape for block in blocks] == [(1, 4000)] * 5 + [(1, 400)]
    assert all(block.dtype == np.float32 for block in blocks)
    assert len({id(block.base if block.base is not None else block) for block in blocks}) == len(blocks)


def test_a_truncated_mp3_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = media.truncate(media.make(tmp_path / "a.mp3", seconds=20, content="noise"), 0.5)
    samples, reader = read(path)
    assert isinstance(reader.shortfall, Shortfall)
    assert reader.shortfall.declared_seconds == pytest.approx(20, abs=0.01)
    assert reader.shortfall.decoded_seconds == pytest.approx(samples.shape[1] / 48_000, abs=1e-5)
    assert 8 < reader.shortfall.decoded_seconds < 12


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_truncated_lossless_file_is_read_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    path = media.make(tmp_path / name, seconds=4, content="noise")
    whole = read(path)[0]
    samples, reader = read(media.truncate(path, 0.5))
    assert reader.shortfall is not None
    assert reader.shortfall.declared_seconds == 4
    assert 1.5 < samples.shape[1] / 48_000 < 2.2
    np.testing.assert_array_equal(samples, whole[:, : samples.shape[1]])


def test_a_hole_in_an_mp3_costs_only_itself(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.mp3", seconds=10, content="noise")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    samples, _ = read(path)
    assert 9.5 < samples.shape[1] / 48_000 <= 10.1


def test_a_stream_of_unknown_length_has_no_shortfall(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.wav", seconds=2)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    samples, reader = read(path)
    assert samples.shape[1] == 96_000
    assert reader.info.duration is None
    assert reader.shortfall is None


def test_an_mp3_joined_of_stereo_and_mono_at_another_rate_becomes_one_signal(tmp_path: Path) -> None:
    first = media.make(tmp_path / "a.mp3", 48_000, 2, 2).read_bytes()
    second = media.make(tmp_path / "b.mp3", 24_000, 1, 2).read_bytes()
    joined = tmp_path / "c.mp3"
    joined.write_bytes(first + second)
    samples, reader = read(joined)
    assert samples.shape[0] == 2
    assert samples.shape[1] / 48_000 == pytest.approx(4, abs=0.15)
    tail = samples[:, -24_000:-4_800]
    assert np.sqrt(np.mean(tail**2)) > 0.1
    assert reader.info.sample_rate == 48_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    samples = media.signal(48_000, 2, 3)
    samples[1, 72_000] = value
    path = media.write(tmp_path / "a.wav", samples, depth="float")
    with pytest.raises(NightshiftError) as caught:
        read(path)
    assert caught.value.code == "non_finite_samples"
    assert caught.value.extra["position_seconds"] == 1.5
    assert "1.500 s" in caught.value.detail


def test_a_double_too_large_for_a_float_is_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((100, 1), 1e200), 8_000, subtype="DOUBLE")
    with pytest.raises(NightshiftError, match="non_finite_samples"):
        read(path)


def test_the_duration_is_held_to_while_decoding(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.wav", seconds=3)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    with AudioReader(path, Limits(duration_seconds=2), 0.5) as reader:
        with pytest.raises(NightshiftError) as caught:
            list(reader)
        assert reader.samples_read <= 2 * 48_000
    assert caught.value.code == "too_long"


def test_a_decoder_that_dies_costs_the_job_only(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.wav", seconds=200, rate=48_000)
    with AudioReader(path, LIMITS, 1.0) as reader:
        blocks = iter(reader)
        next(blocks)
        os.kill(reader.pid, signal.SIGSEGV)
        with pytest.raises(NightshiftError) as caught:
            for _ in blocks:
                pass
    assert caught.value.code == "decoder_crashed"
    assert "SIGSEGV" in caught.value.detail


def test_leaving_early_ends_the_sandbox(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.wav", seconds=200)
    with AudioReader(path, LIMITS, 1.0) as reader:
        next(iter(reader))
        os.kill(reader.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(reader.pid, 0)
    reader.close()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="/proc is Linux's")
def test_the_sandbox_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SECRET_KEY", "shown-to-nobody")
    path = media.make(tmp_path / "a.wav", seconds=200)
    with AudioReader(path, Limits(duration_seconds=1000), 1.0) as reader:
        proc = Path(f"/proc/{reader.pid}")
        limits = {line[:26].strip(): line[26:47].strip() for line in (proc / "limits").read_text().splitlines()}
        assert b"shown-to-nobody" not in (proc / "environ").read_bytes()
        assert not [fd for fd in (proc / "fd").iterdir() if "socket" in str(fd.readlink())]
    assert limits["Max address space"] == str(2 << 30)
    assert limits["Max cpu time"] == "110"
    assert limits["Max core file size"] == "0"
    assert limits["Max file size"] == "0"
