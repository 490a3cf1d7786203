"""Waveform peaks: what a player or a picture needs of hours of audio, accumulated in constant memory.

The JSON document is that of audiowaveform, version 2, which peaks.js and wavesurfer.js read: `sample_rate` (Hz),
`samples_per_pixel`, `bits`, `length` (pixels), `channels`, and `data`, which holds for each pixel and channel the
lowest and the highest sample, as integers of `bits` bits. Ours adds `rms`, for each pixel and channel, in the same
unit, and `samples`, the audio's length; the last pixel covers what is left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CONTENT_TYPE = "application/json"
_SCALE = 127


@dataclass(frozen=True)
class Peaks:
    """Per pixel and channel: low and high (float32 [channels, pixels], -1..1 at full scale) and rms."""

    sample_rate: int
    samples: int
    samples_per_pixel: int
    low: np.ndarray
    high: np.ndarray
    rms: np.ndarray

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate

    def as_dict(self) -> dict[str, Any]:
        """The document described above, with 8 bits."""
        pairs = np.stack([self.low, self.high], axis=-1)  # [channels, pixels, 2]
        return {
            "version": 2,
            "channels": int(self.low.shape[0]),
            "sample_rate": self.sample_rate,
            "samples_per_pixel": self.samples_per_pixel,
            "bits": 8,
            "length": int(self.low.shape[1]),
            "samples": self.samples,
            "data": _integers(pairs.transpose(1, 0, 2)),
            "rms": _integers(self.rms.T),
        }

    def save(self, path: Path) -> None:
        """Writes the document."""
        path.write_text(json.dumps(self.as_dict(), separators=(",", ":")), encoding="utf-8")


class PeaksAccumulator:
    """Takes float32 [channels, n] block by block.

    With the length known beforehand there are at most `pixels` of them; without, the pixels are merged in pairs
    whenever there are twice as many, so that `pixels` to 2 * `pixels` remain.
    """

    def __init__(self, sample_rate: int, channels: int, samples: int | None = None, pixels: int = 2000) -> None:
        self._rate = sample_rate
        self._per_pixel = max(1, -(-samples // pixels)) if samples is not None else 1
        room = 2 * pixels
        self._low = np.zeros((channels, room), np.float32)
        self._high = np.zeros((channels, room), np.float32)
        self._squares = np.zeros((channels, room))
        self._full = 0  # pixels that are complete
        self._partial = 0  # samples in the pixel after them
        self._samples = 0

    def add(self, block: np.ndarray) -> None:
        """Takes the next samples."""
        self._samples += block.shape[1]
        while block.shape[1]:
            if self._full == self._low.shape[1]:
                self._merge()
            if self._partial or block.shape[1] < self._per_pixel:
                taken = min(self._per_pixel - self._partial, block.shape[1])
                self._fold(block[:, :taken])
            else:
                count = min(block.shape[1] // self._per_pixel, self._low.shape[1] - self._full)
                taken = count * self._per_pixel
                self._store(block[:, :taken].reshape(block.shape[0], count, self._per_pixel))
            block = block[:, taken:]

    def result(self) -> Peaks:
        """What was added so far."""
        count = self._full + (self._partial > 0)
        sizes = np.full(count, float(self._per_pixel))
        if self._partial:
            sizes[-1] = self._partial
        return Peaks(
            sample_rate=self._rate,
            samples=self._samples,
            samples_per_pixel=self._per_pixel,
            low=self._low[:, :count].copy(),
            high=self._high[:, :count].copy(),
            rms=np.sqrt(self._squares[:, :count] / sizes).astype(np.float32),
        )

    def _store(self, pixels: np.ndarray) -> None:
        where = slice(self._full, self._full + pixels.shape[1])
        self._low[:, where] = pixels.min(axis=2)
        self._high[:, where] = pixels.max(axis=2)
        self._squares[:, where] = np.einsum("cps,cps->cp", pixels, pixels, dtype=np.float64)
        self._full += pixels.shape[1]

    def _fold(self, piece: np.ndarray) -> None:
        low, high = piece.min(axis=1), piece.max(axis=1)
        squares = np.einsum("cs,cs->c", piece, piece, dtype=np.float64)
        at = self._full
        if self._partial:
            low, high = np.minimum(low, self._low[:, at]), np.maximum(high, self._high[:, at])
            squares = squares + self._squares[:, at]
        self._low[:, at], self._high[:, at], self._squares[:, at] = low, high, squares
        self._partial += piece.shape[1]
        if self._partial == self._per_pixel:
            self._full, self._partial = self._full + 1, 0

    def _merge(self) -> None:
        half = self._full // 2
        self._low[:, :half] = np.minimum(self._low[:, 0::2], self._low[:, 1::2])
        self._high[:, :half] = np.maximum(self._high[:, 0::2], self._high[:, 1::2])
        self._squares[:, :half] = self._squares[:, 0::2] + self._squares[:, 1::2]
        self._full = half
        self._per_pixel *= 2


def _integers(values: np.ndarray) -> list[int]:
    scaled: list[int] = np.clip(np.rint(values * _SCALE), -_SCALE - 1, _SCALE).astype(np.int16).ravel().tolist()
    return scaled
