"""Media files for tests, written with libsndfile and FFmpeg, not with the code under test."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile

from worker.engine import Source

Content = Literal["tone", "noise", "silence", "sweep"]

_SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT", "double": "DOUBLE", "u8": "PCM_U8"}
_AV = {".m4a": ("ipod", "aac", "fltp"), ".mp4": ("mp4", "aac", "fltp"), ".mkv": ("matroska", "flac", "s16")}


def signal(
    rate: int = 48_000, channels: int = 2, seconds: float = 2.0, content: Content = "tone", seed: int = 0
) -> np.ndarray:
    """float32 [channels, samples]: a sine at 220 Hz (higher per channel), noise, silence or a rising sine, peak 0.5."""
    count = round(seconds * rate)
    time = np.arange(count) / rate
    if content == "silence":
        samples = np.zeros((channels, count))
    elif content == "noise":
        samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, count))
    elif content == "sweep":
        sweep = 0.5 * np.sin(2 * np.pi * (100 * time + 400 * time**2))
        samples = np.tile(sweep, (channels, 1))
    else:
        samples = np.stack([0.5 * np.sin(2 * np.pi * 220 * (1 + c / 2) * time + seed) for c in range(channels)])
    return samples.astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 48_000, depth: str = "16", **tags: str) -> Path:
    """Writes [channels, n] in the format of the suffix: .wav .flac (depth 16, 24, 32, float, double, u8), .aiff, .mp3,
    .opus, .ogg (Vorbis), .m4a (AAC), .mp4 (AAC beside a video track), .mkv (FLAC beside a video track)."""
    suffix = path.suffix
    if suffix in _AV:
        _write_av(path, samples, rate, tags)
        return path
    container, subtype = {
        ".wav": ("WAV", _SUBTYPES[depth]),
        ".flac": ("FLAC", _SUBTYPES[depth]),
        ".aiff": ("AIFF", _SUBTYPES[depth]),
        ".mp3": ("MP3", "MPEG_LAYER_III"),
        ".opus": ("OGG", "OPUS"),
        ".ogg": ("OGG", "VORBIS"),
    }[suffix]
    with soundfile.SoundFile(path, "w", rate, samples.shape[0], subtype, format=container) as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(samples.T)
    return path


def make(
    path: Path,
    rate: int = 48_000,
    channels: int = 2,
    seconds: float = 2.0,
    content: Content = "tone",
    depth: str = "16",
    seed: int = 0,
    **tags: str,
) -> Path:
    """Writes a generated signal, see `signal` and `write`."""
    return write(path, signal(rate, channels, seconds, content, seed), rate, depth, **tags)


def sources(*paths: Path) -> tuple[Source, ...]:
    """Local files as an engine gets them."""
    return tuple(
        Source(path, path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
    )


def truncate(path: Path, share: float) -> Path:
    """Cuts the file to that share of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    return path


def wav_header(channels: int, rate: int = 48_000, frames: int = 100) -> bytes:
    """A 16-bit WAV of silence whose header may say what no library would write."""
    body = b"\0" * (frames * max(channels, 1) * 2)
    layout = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(body))
        + b"WAVEfmt "
        + layout
        + b"data"
        + struct.pack("<I", len(body))
        + body
    )


def _write_av(path: Path, samples: np.ndarray, rate: int, tags: dict[str, str]) -> None:
    container, codec, layout_format = _AV[path.suffix]
    channels = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(str(path), "w", format=container) as out:
        out.metadata.update(tags)
        video = None
        if path.suffix in (".mp4", ".mkv"):
            video = out.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = out.add_stream(codec, rate=rate, layout=channels)
        if video is not None:
            for i in range(int(samples.shape[1] / rate * 10)):
                picture = np.full((48, 64, 3), i % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        if layout_format == "fltp":
            data = np.ascontiguousarray(samples, np.float32)
        else:
            data = np.rint(samples.T * 32767).astype(np.int16).reshape(1, -1)
        sound = av.AudioFrame.from_ndarray(data, format=layout_format, layout=channels)
        sound.sample_rate, sound.pts = rate, 0
        out.mux(audio.encode(sound))
        out.mux(audio.encode(None))
