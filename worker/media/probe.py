"""What an audio file is, found out in the sandbox at the price of one decoded frame."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from common.errors import NightshiftError
from worker.engine import Limits
from worker.media import wire
from worker.media.child import Child


@dataclass(frozen=True)
class AudioInfo:
    """An audio track: the first decoded frame's format, and what the file says of itself.

    sample_rate: Hz.  duration, samples: as declared, None where unknown; `estimated` where the file does not state
    them, so that nothing follows from a difference.  bit_depth: of integer PCM and lossless codecs, and of floating PCM
    (`is_float`); None for lossy codecs.  container, codec: FFmpeg's names.  tags: lower-case names.
    """

    sample_rate: int
    channels: int
    duration: float | None
    samples: int | None
    codec: str
    container: str
    bit_depth: int | None
    is_float: bool
    tags: dict[str, str] = field(default_factory=dict)
    estimated: bool = False


def probe(path: Path, limits: Limits) -> AudioInfo:
    """Looks at a file without decoding more than its first frame.

    Raises `input_missing`, `empty_input`, `unsupported_media`, `corrupt_media`, `no_audio`, `no_samples`,
    `too_many_channels`, `unsupported_rate`, `too_long`, `decoder_crashed`.
    """
    with Child("probe", path, limits) as child:
        for kind, body in child.messages():
            if kind == wire.INFO:
                return parse_info(body, limits)
    raise NightshiftError("decoder_crashed", "The decoder ended without an answer.")


def parse_info(body: bytes, limits: Limits) -> AudioInfo:
    """The sandbox's INFO message. Raises `too_long` for what the file states (an estimate is not held against it)."""
    members: dict[str, Any] = json.loads(body)
    info = AudioInfo(**{f.name: members[f.name] for f in fields(AudioInfo)})
    if info.duration is not None and not info.estimated:
        check_duration(info.duration, limits)
    return info


def check_duration(seconds: float, limits: Limits) -> None:
    """Raises `too_long`."""
    if seconds > limits.duration_seconds:
        raise NightshiftError(
            "too_long",
            f"The audio is longer than {limits.duration_seconds:g} s, the most this service reads.",
            hint="Cut it into parts, or ask the operator to raise NIGHTSHIFT_MAX_DURATION_SECONDS.",
        )


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
