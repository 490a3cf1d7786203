"""The latents of a recording's blocks, each second of a channel encoded once.

Neighbouring blocks sample some seconds in common, and each is heard for a margin beyond what it samples. A latent
frame hears less of its surroundings than that margin, so its value does not depend on the block it is computed for,
and a block takes over what it has in common with the one before. What may be taken over is told by the sound itself,
sample by sample, and not by the job: after a resume, or between the blocks of other jobs, there is nothing to take
over, and the block is encoded whole, to the same latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from worker.separation.resample import convert
from worker.separation.sam_audio.fitting import Fitting
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.streaming import encode_range
from worker.separation.separator import BlockAudio

MARGIN = 1
"""Seconds heard beyond what is sampled: for the context of a latent frame and that of a conversion of the rate."""


@dataclass(frozen=True)
class Reach:
    """Whole seconds that a block samples before and after what it gives.  overlap: what it gives together with the
    next block, seconds."""

    before: int
    after: int
    overlap: float

    @property
    def context(self) -> tuple[float, float]:
        """What a block must hear before and after what it gives, in seconds."""
        return float(self.before + MARGIN), float(self.after + MARGIN)

    def sampled(self, block: BlockAudio) -> tuple[int, int]:
        """First and last second that the block samples, after its first sample; the last may lie beyond its end."""
        return self._first(block.keep.start, block.rate), -(-block.keep.stop // block.rate) + self.after

    def before_next(self, block: BlockAudio) -> int:
        """From which second of this block on the next one samples."""
        return self._first(block.keep.stop - round(self.overlap * block.rate), block.rate)

    def after_last(self, block: BlockAudio) -> int:
        """Up to which second of this block the one before has sampled."""
        if block.start + block.keep.start == 0:
            return 0
        return -(-(block.keep.start + round(self.overlap * block.rate)) // block.rate) + self.after

    def _first(self, sample: int, rate: int) -> int:
        return max(0, sample // rate - self.before)


@dataclass(frozen=True)
class _Kept:
    """Sound and latents of a block from the second on at which the next one begins to sample, the margin included.

    start: absolute sample of the sound [rows, n], which goes on to the block's end.  first: frame of the first latent
    after `start`.  latents: [rows, 128, k].
    """

    rate: int
    start: int
    sound: np.ndarray
    first: int
    latents: Tensor


class Encoder:
    """seconds: of single channels, encoded since this was made."""

    def __init__(self, model: SamAudio, fitting: Fitting, reach: Reach) -> None:
        self.model, self.reach = model, reach
        self.seconds = 0.0
        self._fitting = fitting
        self._per_second = round(model.config.frame_rate)
        self._kept: _Kept | None = None

    def encode(self, block: BlockAudio, heard: Sequence[int], check: Callable[[], None]) -> Tensor:
        """Latents [heard, 128, T] of the seconds that the block samples, of the channels `heard`."""
        codec = self.model.config.audio_codec
        waves = torch.from_numpy(
            np.stack([convert(block.samples[channel], block.rate, codec.sample_rate) for channel in heard])
        )
        begin, end = self.reach.sampled(block)
        first = begin * self._per_second
        last = min(end * self._per_second, -(-waves.shape[-1] // codec.hop))
        known = [self._known(block, channel, first, last) for channel in heard]
        made: dict[int, Tensor] = {}
        for length in {latents.shape[-1] for latents in known}:
            rows = [row for row, latents in enumerate(known) if latents.shape[-1] == length]
            fresh = self._fresh(block, waves[rows], first + length, last, check)
            for row, latents in zip(rows, fresh, strict=True):
                made[row] = torch.cat((known[row], latents), dim=-1)
        latents = torch.stack([made[row] for row in range(len(heard))])
        self._kept = self._common(block, heard, first, latents)
        return latents

    def _fresh(self, block: BlockAudio, waves: Tensor, first: int, last: int, check: Callable[[], None]) -> Tensor:
        """Latents of the frames [first, last). What two blocks have in common is cut in the same pieces by both."""
        joints = self.reach.after_last(block), self.reach.before_next(block)
        borders = sorted({first, last} | {j * self._per_second for j in joints if first < j * self._per_second < last})

        def computed(piece: int) -> Iterator[Tensor]:
            for start, stop in pairwise(borders):
                yield from encode_range(self.model, waves, start, stop, piece)

        self.seconds += waves.shape[0] * (last - first) / self._per_second
        if first == last:
            return waves.new_empty(waves.shape[0], self.model.config.latent_channels, 0, device=self.model.device)
        return self._fitting.run(computed, check)

    def _known(self, block: BlockAudio, channel: int, first: int, last: int) -> Tensor:
        """Latents [128, k] of a channel from the frame `first` on: those that the block before has in common."""
        kept = self._kept
        none = torch.empty(self.model.config.latent_channels, 0, device=self.model.device)
        if kept is None or (kept.rate, kept.start) != (block.rate, block.start) or first < kept.first:
            return none
        length = kept.sound.shape[1]
        missing = block.samples.shape[1] - length
        if missing < 0:
            return none
        # Where the sound goes on, what was near its end then heard an end that is not there.
        whole = last if not missing else (length // block.rate - MARGIN) * self._per_second
        for sound, latents in zip(kept.sound, kept.latents, strict=True):
            if np.array_equal(sound, block.samples[channel, :length]):
                return latents[:, first - kept.first :][:, : max(0, min(whole, last) - first)]
        return none

    def _common(self, block: BlockAudio, heard: Sequence[int], first: int, latents: Tensor) -> _Kept | None:
        begin = self.reach.before_next(block)
        start = max(0, begin - MARGIN)
        if block.start == 0 and start == 0:
            begin = 0
        frame = max(first, begin * self._per_second)
        if frame >= first + latents.shape[-1]:
            return None
        return _Kept(
            block.rate,
            block.start + start * block.rate,
            block.samples[list(heard), start * block.rate :],
            frame - start * self._per_second,
            latents[..., frame - first :].clone(),
        )
