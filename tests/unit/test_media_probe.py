from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from common.errors import NightshiftError
from tests import media
from worker.engine import Limits
from worker.media.probe import probe, sha256_file

LIMITS = Limits()

MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>
<Representation id="1" bandwidth="1"><BaseURL>{song}</BaseURL></Representation>
</AdaptationSet></Period></MPD>
"""


def refusal(path: Path, limits: Limits = LIMITS) -> NightshiftError:
    with pytest.raises(NightshiftError) as caught:
        probe(path, limits)
    return caught.value


@pytest.mark.parametrize(
    ("name", "depth", "codec", "container", "bits", "floating"),
    [
        ("a.wav", "u8", "pcm_u8", "wav", 8, False),
        ("a.wav", "16", "pcm_s16le", "wav", 16, False),
        ("a.wav", "24", "pcm_s24le", "wav", 24, False),
        ("a.wav", "32", "pcm_s32le", "wav", 32, False),
        ("a.wav", "float", "pcm_f32le", "wav", 32, True),
        ("a.wav", "double", "pcm_f64le", "wav", 64, True),
        ("a.flac", "16", "flac", "flac", 16, False),
        ("a.flac", "24", "flac", "flac", 24, False),
        ("a.aiff", "24", "pcm_s24be", "aiff", 24, False),
        ("a.mp3", "", "mp3float", "mp3", None, False),
        ("a.opus", "", "opus", "ogg", None, False),
        ("a.ogg", "", "vorbis", "ogg", None, False),
        ("a.m4a", "", "aac", "mov", None, False),
        ("a.mp4", "", "aac", "mov", None, False),
        ("a.mkv", "", "flac", "matroska", 16, False),
    ],
)
def test_says_what_a_file_is_whatever_its_name(
    tmp_path: Path, name: str, depth: str, codec: str, container: str, bits: int | None, floating: bool
) -> None:
    written = media.make(tmp_path / name, seconds=1.5, depth=depth or "16")
    nameless = written.rename(tmp_path / "input")
    info = probe(nameless, LIMITS)
    assert (info.codec, info.container, info.bit_depth, info.is_float) == (codec, container, bits, floating)
    assert (info.sample_rate, info.channels) == (48_000, 2)
    assert info.duration == pytest.approx(1.5, abs=0.1)


def test_a_lossless_files_count_is_exact(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        info = probe(media.write(tmp_path / name, media.signal(seconds=1)[:, :47_111]), LIMITS)
        assert (info.samples, info.estimated) == (47_111, False)


def test_tags_are_read(tmp_path: Path) -> None:
    info = probe(media.make(tmp_path / "a.mp3", seconds=1, title="Night", artist="Shift"), LIMITS)
    assert (info.tags["title"], info.tags["artist"]) == ("Night", "Shift")


def test_empty_input(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.touch()
    assert refusal(path).code == "empty_input"


def test_missing_input(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").code == "input_missing"
    assert refusal(tmp_path).code == "input_missing"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.mp3", b"This is a letter, not a song.\n" * 500),
        ("zeros.mp3", bytes(100_000)),
        ("noise.wav", np.random.default_rng(1).bytes(100_000)),
        ("one.flac", b"f"),
        ("page.mp3", b"<!doctype html><html><body>404</body></html>"),
    ],
)
def test_what_is_not_media_is_unsupported(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == "unsupported_media"
    assert error.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{song}\n#EXT-X-ENDLIST\n"),
        ("a.mp3", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{song}\n#EXT-X-ENDLIST\n"),
        ("a.m3u", "#EXTM3U\n#EXTINF:9,song\n{song}\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile '{song}'\n"),
        ("a.wav", "ffconcat version 1.0\nfile '{song}'\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"),
        (
            "a.mpd",
            MPD,
        ),
        ("a.pls", "[playlist]\nFile1={song}\nNumberOfEntries=1\n"),
    ],
)
def test_a_playlist_is_refused_whatever_its_name(tmp_path: Path, name: str, text: str) -> None:
    song = media.make(tmp_path / "song.wav", seconds=1)
    path = tmp_path / name
    path.write_text(text.format(song=song))
    assert refusal(path).code == "unsupported_media"


def test_video_without_sound_has_no_audio(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    assert refusal(tmp_path / "a.mp4").code == "no_audio"


def test_an_audio_file_without_samples(tmp_path: Path) -> None:
    assert refusal(media.write(tmp_path / "a.wav", np.zeros((2, 0), np.float32))).code == "no_samples"


def test_header_with_0_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_header(0))
    assert refusal(path).code == "corrupt_media"


def test_64_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_header(64))
    error = refusal(path)
    assert error.code == "too_many_channels"
    assert "64" in error.detail
    assert probe(path, Limits(channels=64)).channels == 64


@pytest.mark.parametrize(("rate", "accepted"), [(4_000, False), (8_000, True), (192_000, True), (384_000, False)])
def test_the_range_of_sample_rates(tmp_path: Path, rate: int, accepted: bool) -> None:
    path = media.make(tmp_path / "a.wav", rate=rate, seconds=0.5)
    if accepted:
        assert probe(path, LIMITS).sample_rate == rate
    else:
        assert refusal(path).code == "unsupported_rate"


def test_longer_than_allowed(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.flac", seconds=3)
    assert refusal(path, Limits(duration_seconds=2)).code == "too_long"
    assert probe(path, Limits(duration_seconds=3)).samples == 144_000


def test_an_mp4_cut_before_its_index_is_corrupt(tmp_path: Path) -> None:
    path = media.truncate(media.make(tmp_path / "a.m4a", seconds=3), 0.5)
    assert refusal(path).code == "corrupt_media"


def test_a_damaged_header_is_corrupt(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.flac")
    path.write_bytes(b"fLaC" + np.random.default_rng(0).bytes(50_000))
    assert refusal(path).code == "corrupt_media"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = media.make(tmp_path / "a.wav")
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
