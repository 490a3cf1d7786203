"""Audio as a stream of blocks, decoded in the sandbox; memory does not depend on the length.

How many samples a file gives: WAV, FLAC, AIFF and the like exactly as many as were recorded. Compressed formats as
FFmpeg trims them: Opus by pre-skip and final granule, MP3 by the LAME header's delay and padding, AAC in MP4 by its
edit list; where a file lacks these, the encoder's delay (20-50 ms of near silence) stays at its start. Decoding the
same file twice gives identical samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import NightshiftError
from worker.engine import Limits
from worker.media import wire
from worker.media.child import Child
from worker.media.probe import AudioInfo, check_duration, parse_info

# Encoder delay and last partial frames make compressed files differ a little from what they declare.
SHORTFALL_SECONDS = 0.25


@dataclass(frozen=True)
class Shortfall:
    """A file that gave less than it declares: truncated or damaged. errors: packets that did not decode."""

    declared_seconds: float
    decoded_seconds: float
    errors: int = 0


class AudioReader:
    """Iterates over an audio file: float32 [channels, n] at its own rate, each `chunk_seconds` long but the last.

    To be iterated once. `samples_read` grows meanwhile; `shortfall` and `errors` are known after the end.
    """

    def __init__(self, path: Path, limits: Limits, chunk_seconds: float = 10.0) -> None:
        """Opens the file. Raises what `probe` raises."""
        self._limits = limits
        self._child = Child("decode", path, limits)
        self._messages = self._child.messages()
        try:
            kind, body = next(self._messages, (b"", b""))
            if kind != wire.INFO:
                raise NightshiftError("decoder_crashed", "The decoder ended without an answer.")
            self.info: AudioInfo = parse_info(body, limits)
        except BaseException:
            self._child.close()
            raise
        self._chunk = max(1, round(chunk_seconds * self.info.sample_rate))
        self.samples_read = 0
        self.errors = 0
        self.shortfall: Shortfall | None = None

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The sandbox's process."""
        return self._child.pid

    def close(self) -> None:
        """Ends the sandbox, finished or not; safe to call again."""
        self._child.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises `non_finite_samples`, `too_long`, `decoder_crashed` where they occur."""
        channels = self.info.channels
        chunk = np.empty((channels, self._chunk), np.float32)
        filled = 0
        for kind, body in self._messages:
            if kind == wire.END:
                self._finish(json.loads(body))
                break
            piece = np.frombuffer(body, np.float32).reshape(channels, -1)
            self._check(piece)
            self.samples_read += piece.shape[1]
            while piece.shape[1]:
                taken = min(piece.shape[1], self._chunk - filled)
                chunk[:, filled : filled + taken] = piece[:, :taken]
                filled += taken
                piece = piece[:, taken:]
                if filled == self._chunk:
                    yield chunk
                    chunk, filled = np.empty((channels, self._chunk), np.float32), 0
        else:
            raise NightshiftError("decoder_crashed", "The decoder ended before the audio did.")
        if filled:
            yield chunk[:, :filled].copy()

    def _check(self, piece: np.ndarray) -> None:
        rate = self.info.sample_rate
        finite = np.isfinite(piece)
        if not finite.all():
            where = (self.samples_read + int(np.argmin(finite.all(axis=0)))) / rate
            raise NightshiftError(
                "non_finite_samples",
                f"The audio holds a sample that is not a finite number at {where:.3f} s.",
                hint="Export the file again from the program that made it, as integer PCM if need be.",
                extra={"position_seconds": round(where, 6)},
            )
        check_duration((self.samples_read + piece.shape[1]) / rate, self._limits)

    def _finish(self, end: dict[str, int]) -> None:
        self.errors = int(end["errors"])
        declared = None if self.info.estimated else self.info.duration
        decoded = self.samples_read / self.info.sample_rate
        if declared is not None and decoded < declared - SHORTFALL_SECONDS:
            self.shortfall = Shortfall(round(declared, 6), round(decoded, 6), self.errors)
