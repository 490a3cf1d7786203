from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from common.errors import NightshiftError
from tests import media
from worker.engine import Limits
from worker.media.decode import AudioReader
from worker.media.encode import AudioWriter, quantize
from worker.media.formats import EXTENSIONS, MP3_RATES, OPUS_RATES, Format, mp3_bitrates


def read(path: Path) -> np.ndarray:
    with AudioReader(path, Limits()) as reader:
        return np.concatenate(list(reader), axis=1)


def decoded_count(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


def write(path: Path, samples: np.ndarray, rate: int, step: int = 30_011, **options: object) -> AudioWriter:
    with AudioWriter(path, rate, samples.shape[0], path.suffix[1:], **options) as writer:  # type: ignore[arg-type]
        for start in range(0, samples.shape[1], step):
            writer.write(samples[:, start : start + step])
    return writer


@pytest.mark.parametrize("name", ["flac", "wav"])
@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_integers_come_back_as_they_were(tmp_path: Path, name: str, bits: int, channels: int) -> None:
    scale = 2 ** (bits - 1)
    integers = np.random.default_rng(0).integers(-scale, scale, (channels, 40_000))
    samples = (integers / scale).astype(np.float32)
    path = tmp_path / f"a.{name}"
    writer = write(path, samples, 44_100, bit_depth=bits)
    assert (writer.written, writer.clipped) == (40_000, 0)
    np.testing.assert_array_equal(read(path), samples)
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32", always_2d=True)[0].T, samples)
    assert soundfile.info(path).subtype == f"PCM_{bits}"


def test_floats_come_back_as_they_were(tmp_path: Path) -> None:
    samples = (4 * np.random.default_rng(0).standard_normal((2, 50_000))).astype(np.float32)
    writer = write(tmp_path / "a.wav", samples, 96_000, floating=True)
    assert writer.clipped == 0
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), samples)
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"


@pytest.mark.parametrize("count", [1151, 1153, 30_011])
@pytest.mark.parametrize("rate", MP3_RATES)
def test_an_mp3_gives_back_its_exact_count(tmp_path: Path, rate: int, count: int) -> None:
    samples = media.signal(rate, 2, 1, "noise")[:, :1]
    samples = np.resize(samples, (2, count))
    for kbps in (mp3_bitrates(rate)[0], mp3_bitrates(rate)[-1]):
        write(tmp_path / "a.mp3", samples, rate, bitrate_kbps=kbps)
        with av.open(str(tmp_path / "a.mp3")) as container:
            assert container.streams.audio[0].rate == rate
        assert decoded_count(tmp_path / "a.mp3") == count
    if count < 1152:  # the shortest is the hardest to recognise without a name
        assert read(tmp_path / "a.mp3").shape == (2, count)


@pytest.mark.parametrize("count", [1, 961, 30_011])
@pytest.mark.parametrize("rate", OPUS_RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_an_opus_file_gives_back_its_exact_count(tmp_path: Path, rate: int, channels: int, count: int) -> None:
    write(tmp_path / "a.opus", media.signal(rate, channels, 5, "noise")[:, :count], rate)
    assert decoded_count(tmp_path / "a.opus") * rate == count * 48_000


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_lossy_files_hold_the_signal_in_its_place(tmp_path: Path, name: str) -> None:
    original = media.signal(48_000, 2, 2, "sweep")
    write(tmp_path / f"a.{name}", original, 48_000)
    samples = read(tmp_path / f"a.{name}")
    assert samples.shape == original.shape
    assert np.sqrt(np.mean((samples - original) ** 2)) < 0.05 * np.sqrt(np.mean(original**2))


@pytest.mark.parametrize(("name", "kbps"), [("mp3", 64), ("mp3", 128), ("mp3", 320), ("opus", 48), ("opus", 192)])
def test_the_bit_rate_is_the_one_asked_for(tmp_path: Path, name: str, kbps: int) -> None:
    path = tmp_path / f"a.{name}"
    write(path, media.signal(48_000, 2, 10, "noise"), 48_000, bitrate_kbps=kbps)
    assert path.stat().st_size * 8 / 10 / 1000 == pytest.approx(kbps, rel=0.15)


def test_what_is_beyond_full_scale_is_clipped_and_counted(tmp_path: Path) -> None:
    samples = np.array([[0.0, 1.0, 1.5, -1.0, -1.5, 0.25]], np.float32)
    for bits in (16, 24):
        writer = write(tmp_path / "a.flac", samples, 48_000, bit_depth=bits)
        top = 1 - 2.0 ** (1 - bits)
        assert writer.clipped == 2
        np.testing.assert_array_equal(read(tmp_path / "a.flac")[0], np.float32([0, top, top, -1, -1, 0.25]))


@given(st.integers(-(2**23), 2**23 - 1))
def test_24_bit_integers_survive_quantizing(value: int) -> None:
    integers, clipped = quantize(np.array([[value / 2**23]], np.float32), 24)
    assert (int(integers[0, 0]) >> 8, clipped) == (value, 0)


@pytest.mark.parametrize("name", ["flac", "wav", "mp3"])
def test_tags_are_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    write(path, media.signal(), 48_000, tags={"title": "Night", "artist": "Shift", "unheard-of": "x"})
    with av.open(str(path)) as container:
        assert (container.metadata["title"], container.metadata["artist"]) == ("Night", "Shift")


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_the_file_appears_when_it_is_complete(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a{EXTENSIONS[name]}"
    writer = AudioWriter(path, 48_000, 2, name)  # type: ignore[arg-type]
    writer.write(media.signal())
    assert not path.exists()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    writer.close()
    writer.abort()
    assert path.exists()


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_nothing_is_left_of_a_file_given_up(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(KeyError),
        AudioWriter(tmp_path / f"a{EXTENSIONS[name]}", 48_000, 2, name) as writer,  # type: ignore[arg-type]
    ):
        writer.write(media.signal())
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["flac", "wav"])
def test_a_file_of_no_samples_is_still_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    write(path, np.zeros((2, 0), np.float32), 48_000)
    if name == "wav":
        assert soundfile.info(path).frames == 0
    with pytest.raises(NightshiftError) as caught:
        read(path)
    assert caught.value.code in ("no_samples", "empty_input")


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    for name, rate, channels, floating in (
        ("mp3", 48_000, 3, False),
        ("opus", 44_100, 2, False),
        ("flac", 48_000, 2, True),
    ):
        with pytest.raises(NightshiftError) as caught:
            AudioWriter(tmp_path / "a", rate, channels, name, floating=floating)  # type: ignore[arg-type]
        assert caught.value.code == "unsupported_output"
    assert list(tmp_path.iterdir()) == []
    with (
        AudioWriter(tmp_path / "a.wav", 48_000, 2, "wav") as writer,
        pytest.raises(ValueError, match="samples must be"),
    ):
        writer.write(np.zeros((1, 10), np.float32))


def test_a_small_wav_is_riff_and_declares_its_size(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", media.signal(seconds=1), 48_000)
    content = (tmp_path / "a.wav").read_bytes()
    assert content[:4] == b"RIFF"
    assert int.from_bytes(content[4:8], "little") == len(content) - 8


class Hollow(io.RawIOBase):
    """A file that keeps its first bytes and forgets the rest, so that gigabytes cost nothing."""

    KEPT = 4096

    def __init__(self) -> None:
        self.head = bytearray(self.KEPT)
        self.position = self.size = 0

    def write(self, content: bytes) -> int:  # type: ignore[override]
        part = content[: max(0, self.KEPT - self.position)]
        self.head[self.position : self.position + len(part)] = part
        self.position += len(content)
        self.size = max(self.size, self.position)
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + {0: 0, 1: self.position, 2: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


@pytest.mark.slow
def test_a_wav_over_4_gb_becomes_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hollow, opened = Hollow(), av.open
    monkeypatch.setattr(av, "open", lambda _path, *args, **options: opened(hollow, *args, **options))
    block = np.zeros((8, 1 << 20), np.float32)
    writer = AudioWriter(tmp_path / "a.wav", 48_000, 8, "wav", floating=True)
    for _ in range(130):
        writer.write(block)
    (tmp_path / "a.wav.part").touch()
    writer.close()
    data = writer.written * 8 * 4
    assert data > 1 << 32
    assert hollow.head[:4] == b"RF64"
    assert hollow.head[12:16] == b"ds64"
    assert int.from_bytes(hollow.head[28:36], "little") == data


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_a_folder_that_cannot_be_written_is_no_fault_of_the_format(tmp_path: Path, name: Format) -> None:
    with pytest.raises(FileNotFoundError):
        AudioWriter(tmp_path / "gone" / f"a.{name}", 48_000, 1, name)
