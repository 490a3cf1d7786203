"""Audio out, block by block: flac, wav, mp3 and Ogg Opus of exactly as many samples as were written.

libsndfile writes flac, mp3 and opus; its mp3 states delay and padding in the LAME header, so that a decoder that heeds
it gives back the exact count (from one frame on, 1,152 samples: shorter files may come back 530 longer, or not be
recognised at all). FFmpeg writes wav, because it turns the file into RF64 when it grows over 4 GB. Integers are rounded
here, so that what was read from an integer file and written unchanged is the same integer again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import soundfile

from common.errors import NightshiftError
from worker.media.formats import (
    CONTENT_TYPES,
    DEFAULT_KBPS,
    EXTENSIONS,
    MAX_CHANNELS,
    Format,
    OutputPlan,
    block_format,
    output_plan,
)

__all__ = ["CONTENT_TYPES", "EXTENSIONS", "AudioWriter", "OutputPlan", "block_format", "output_plan"]

_SOUNDFILE_TAGS = ("title", "artist", "album", "comment", "copyright", "date", "genre", "tracknumber", "software")


class _Sink(Protocol):
    """Where samples go: [n, channels], contiguous; integers for integer formats, else float32."""

    def write(self, samples: np.ndarray) -> None: ...
    def close(self) -> None: ...


class AudioWriter:
    """Writes one audio file; a context manager. The file appears under its name when it is complete.

    Until then it lies beside it with `.part` added; leaving the context by an exception removes that. `written`:
    samples per channel so far. `clipped`: samples, over all channels, beyond full scale and written as integers.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        channels: int,
        format: Format,
        *,
        bit_depth: int | None = None,
        floating: bool = False,
        bitrate_kbps: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """bit_depth: 16 (the default) or 24 for flac and wav. floating: 32-bit floating-point wav.

        bitrate_kbps: for mp3 one of `formats.mp3_bitrates`. Raises `unsupported_output`, and OSError where the folder
        cannot be written.
        """
        if floating and format != "wav":
            raise NightshiftError("unsupported_output", f"{format} holds no floating-point samples.")
        if not 1 <= channels <= MAX_CHANNELS[format]:
            raise NightshiftError("unsupported_output", f"{format} cannot hold {channels} channels.")
        self.path = path
        self.channels = channels
        self.written = 0
        self.clipped = 0
        self._part = path.with_name(path.name + ".part")
        self._bits = None if floating or format in DEFAULT_KBPS else bit_depth or 16
        self._open = True
        # The libraries tell a full or read-only disk and a format that cannot be in the same words.
        self._part.touch()
        try:
            if format == "wav":
                self._sink: _Sink = _Wav(self._part, sample_rate, channels, self._bits, tags or {})
            else:
                self._sink = _SoundFile(self._part, sample_rate, channels, format, self._bits, bitrate_kbps, tags or {})
        except (soundfile.LibsndfileError, av.error.FFmpegError, ValueError) as error:
            self._part.unlink(missing_ok=True)
            raise NightshiftError(
                "unsupported_output", f"{format} cannot hold {channels} channels at {sample_rate} Hz ({error})."
            ) from error

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, samples: np.ndarray) -> None:
        """Appends float32 [channels, n], full scale 1.0."""
        if samples.ndim != 2 or samples.shape[0] != self.channels:
            raise ValueError(f"samples must be [{self.channels}, n], not {list(samples.shape)}")
        if samples.shape[1] == 0:
            return
        block = np.ascontiguousarray(samples.T, dtype=np.float32)
        if self._bits is not None:
            block, clipped = quantize(block, self._bits)
            self.clipped += clipped
        self._sink.write(block)
        self.written += samples.shape[1]

    def close(self) -> None:
        """Completes the file and gives it its name; safe to call again."""
        if self._open:
            self._open = False
            self._sink.close()
            self._part.replace(self.path)

    def abort(self) -> None:
        """Removes what was written; without effect after `close`."""
        if self._open:
            self._open = False
            try:
                self._sink.close()
            finally:
                self._part.unlink(missing_ok=True)


def quantize(samples: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Rounds floats to integers of 16 bits (int16) or 24 bits (in the upper bytes of int32), and counts the clipped."""
    scale = np.float32(2 ** (bits - 1))
    # float32 suffices: a power of two scales without loss, and what is as large as 2**23 is whole already.
    scaled = samples * scale
    np.rint(scaled, out=scaled)
    # 1.0 itself is what many limiters give; it loses one step and is not called clipped.
    clipped = int(np.count_nonzero(np.abs(scaled) > scale))
    np.clip(scaled, -scale, scale - 1, out=scaled)
    return (scaled.astype(np.int16) if bits == 16 else scaled.astype(np.int32) << (32 - bits)), clipped


class _SoundFile:
    def __init__(
        self,
        path: Path,
        rate: int,
        channels: int,
        format: str,
        bits: int | None,
        kbps: int | None,
        tags: Mapping[str, str],
    ) -> None:
        container, subtype = {
            "flac": ("FLAC", f"PCM_{bits}"),
            "mp3": ("MP3", "MPEG_LAYER_III"),
            "opus": ("OGG", "OPUS"),
        }[format]
        options: dict[str, Any] = {}
        if format == "mp3":
            options = {"compression_level": _mp3_level(rate, kbps or DEFAULT_KBPS["mp3"]), "bitrate_mode": "CONSTANT"}
        elif format == "opus":
            options = {"compression_level": _opus_level(channels, kbps or DEFAULT_KBPS["opus"])}
        self._file = soundfile.SoundFile(path, "w", rate, channels, subtype, format=container, **options)
        for name in _SOUNDFILE_TAGS:
            if tags.get(name):
                setattr(self._file, name, tags[name])

    def write(self, samples: np.ndarray) -> None:
        self._file.write(samples)

    def close(self) -> None:
        self._file.close()


def _mp3_level(rate: int, kbps: int) -> float:
    """libsndfile's compression level for a constant bit rate: linear between the least and the most of the rate."""
    most, least = (320, 32) if rate >= 32_000 else (160, 8) if rate >= 16_000 else (64, 8)
    return min(max((most - kbps) / (most - least), 0.0), 0.999)


def _opus_level(channels: int, kbps: int) -> float:
    """libsndfile's compression level for a bit rate: 0 is 256, 1 is 6 kbit/s per channel, linear between."""
    return min(max(1.0 - (kbps / channels - 6.0) / 250.0, 0.0), 0.999)


class _Wav:
    def __init__(self, path: Path, rate: int, channels: int, bits: int | None, tags: Mapping[str, str]) -> None:
        codec, self._format = {
            None: ("pcm_f32le", "flt"),
            16: ("pcm_s16le", "s16"),
            24: ("pcm_s24le", "s32"),
        }[bits]
        self._rate = rate
        self._layout = _layout(channels)
        self._position = 0
        self._container = av.open(str(path), "w", format="wav", options={"rf64": "auto", "fflags": "+bitexact"})
        self._stream: Any = self._container.add_stream(codec, rate=rate, layout=self._layout, format=self._format)
        self._container.metadata.update({k: v for k, v in tags.items() if v})

    def write(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format=self._format, layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts = self._position
        self._position += samples.shape[0]
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        if self._position:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        else:
            self._container.start_encoding()
        self._container.close()


def _layout(channels: int) -> str:
    """A layout of that many channels in FFmpeg's default order; wav stores the count and, above two, the order."""
    return {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}[channels]
