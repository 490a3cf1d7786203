"""Pure: what each output format can hold, and so what the blocks and the final files of a job look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common.errors import NightshiftError
from common.params import AudioOutput
from worker.media.probe import AudioInfo

Format = Literal["flac", "wav", "mp3", "opus"]

CONTENT_TYPES: dict[str, str] = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "opus": "audio/ogg"}
EXTENSIONS: dict[str, str] = {"flac": ".flac", "wav": ".wav", "mp3": ".mp3", "opus": ".opus"}
MAX_CHANNELS: dict[str, int] = {"flac": 8, "wav": 64, "mp3": 2, "opus": 2}

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
DEFAULT_KBPS: dict[str, int] = {"mp3": 192, "opus": 128}

# Bit rates of Layer III: ISO/IEC 11172-3 2.4.2.3 (MPEG-1) and 13818-3 2.4.2.3 (MPEG-2, its half rates).
_MPEG1_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# The first frame must have room for the header that states the exact length; without it a decoder gives some 1,500
# samples more.
_LENGTH_HEADER_BYTES = 190


@dataclass(frozen=True)
class BlockFormat:
    """How a finished block lies in storage until the final file is joined from the blocks."""

    format: Literal["flac", "wav"]
    bit_depth: int | None
    floating: bool


@dataclass(frozen=True)
class OutputPlan:
    """What the final file is. bit_depth: of flac and wav; None for lossy formats. changes: sentences for the result,
    one for each property of the input that the output does not keep."""

    format: Format
    sample_rate: int
    channels: int
    bit_depth: int | None
    floating: bool
    bitrate_kbps: int | None = None
    changes: list[str] = field(default_factory=list)


def output_plan(info: AudioInfo, output: AudioOutput, channels: int | None = None) -> OutputPlan:
    """What becomes of audio like `info` in the format asked for; `channels` where the job mixes them down.

    Rate and depth are kept where the format can: flac holds 16 and 24 bits, wav also 32-bit floating. Lossy inputs have
    no depth; they become 16 bits. Raises `unsupported_output`.
    """
    count = info.channels if channels is None else channels
    if count > MAX_CHANNELS[output.format]:
        raise NightshiftError(
            "unsupported_output",
            f"{output.format} holds at most {MAX_CHANNELS[output.format]} channels here; the audio has {count}.",
            hint="Ask for flac or wav, or for channels: mono.",
            pointer="/params/output/format",
        )
    if output.format in ("mp3", "opus"):
        return _lossy(info, output, count)
    changes: list[str] = []
    floating = False
    depth = 16 if info.bit_depth is None or info.bit_depth <= 16 else 24
    if output.format == "wav" and (info.is_float or info.bit_depth == 32):
        floating, depth = True, 32
        if not info.is_float:
            changes.append("Bit depth changed from 32-bit integer to 32-bit floating point.")
        elif info.bit_depth == 64:
            changes.append("Bit depth changed from 64-bit to 32-bit floating point.")
    elif info.is_float:
        depth = 24
        changes.append(f"Bit depth changed from {info.bit_depth}-bit floating point to 24-bit: FLAC holds no more.")
    elif info.bit_depth == 32:
        changes.append("Bit depth changed from 32-bit to 24-bit: FLAC is written with no more.")
    elif info.bit_depth not in (None, depth):
        changes.append(f"Bit depth changed from {info.bit_depth}-bit to {depth}-bit.")
    return OutputPlan(output.format, info.sample_rate, count, depth, floating, None, changes)


def block_format(info: AudioInfo, output: AudioOutput) -> BlockFormat:
    """flac with 24 bits, or wav with 32-bit floating point where the final file is that."""
    if output.format == "wav" and output_plan(info, output, channels=1).floating:
        return BlockFormat("wav", None, True)
    return BlockFormat("flac", 24, False)


def mp3_bitrates(sample_rate: int) -> tuple[int, ...]:
    """The constant bit rates, kbit/s, at which an MP3 of this rate also states its exact length."""
    table, frame = (_MPEG1_KBPS, 144_000) if sample_rate >= 32_000 else (_MPEG2_KBPS, 72_000)
    most = 320 if sample_rate >= 32_000 else 160 if sample_rate >= 16_000 else 64
    return tuple(k for k in table if k <= most and k * frame // sample_rate >= _LENGTH_HEADER_BYTES)


def _lossy(info: AudioInfo, output: AudioOutput, channels: int) -> OutputPlan:
    rates = MP3_RATES if output.format == "mp3" else OPUS_RATES
    rate = info.sample_rate if info.sample_rate in rates else _nearest_rate(info.sample_rate, output.format)
    changes = []
    if rate != info.sample_rate:
        changes.append(f"Sample rate changed from {info.sample_rate} to {rate} Hz: {output.format} lacks the former.")
    wanted = output.bitrate_kbps or DEFAULT_KBPS[output.format]
    if output.format == "mp3":
        kbps = min(mp3_bitrates(rate), key=lambda k: (abs(k - wanted), -k))
    else:
        kbps = min(max(wanted, 6 * channels), 256 * channels)
    if output.bitrate_kbps not in (None, kbps):
        changes.append(f"Bit rate {kbps} kbit/s instead of {wanted}: what {output.format} has at {rate} Hz.")
    return OutputPlan(output.format, rate, channels, None, False, kbps, changes)


def _nearest_rate(rate: int, name: str) -> int:
    if name == "opus":
        return 48_000
    if rate > 48_000:
        return 44_100 if rate % 44_100 == 0 else 48_000
    return next(r for r in MP3_RATES if r > rate)
