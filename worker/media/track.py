"""The frames of one audio track as float32 blocks; runs inside the sandbox only."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import av
import numpy as np

from worker.media import wire


class Track:
    """The frames of one audio track, decoded as far as it can be."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container = container
        self.stream = stream
        stream.codec_context.thread_count = 1
        self.samples = 0
        self.errors = 0
        self.last_error = ""
        self._frames = self._decode()

    def frames(self) -> Iterator[Any]:
        return self._frames

    def close(self) -> None:
        self._frames.close()

    def pcm(self, first: Any) -> Iterator[np.ndarray]:
        """float32 [channels, n]: the whole track in the format of its first frame.

        Files made by joining others change rate or channels midway; the rest is converted to what they began with.
        """
        rate, layout = first.sample_rate, first.layout
        pending = [_float32(first)]
        key, resampler = None, None
        for frame in self._frames:
            new_key = (frame.format.name, frame.layout.name, frame.sample_rate)
            if new_key != key:
                if resampler is not None:
                    pending += [_float32(f) for f in resampler.resample(None)]
                key = new_key
                same = frame.sample_rate == rate and len(frame.layout.channels) == len(layout.channels)
                resampler = None if same else av.AudioResampler("fltp", layout, rate)
            if resampler is None:
                pending.append(_float32(frame))
            else:
                frame.pts = None
                pending += [_float32(f) for f in resampler.resample(frame)]
            if sum(block.shape[1] for block in pending) >= wire.PCM_FRAMES:
                yield from self._pieces(np.concatenate(pending, axis=1))
                pending = []
        if resampler is not None:
            pending += [_float32(f) for f in resampler.resample(None)]
        if pending:
            yield from self._pieces(np.concatenate(pending, axis=1))

    def _pieces(self, block: np.ndarray) -> Iterator[np.ndarray]:
        self.samples += block.shape[1]
        for start in range(0, block.shape[1], wire.MAX_PCM_FRAMES):
            yield block[:, start : start + wire.MAX_PCM_FRAMES]

    def _decode(self) -> Generator[Any, None, None]:
        try:
            for packet in self._container.demux(self.stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    self._failed(error)
                    continue
                yield from (frame for frame in frames if frame.samples)
        except av.error.FFmpegError as error:
            self._failed(error)

    def _failed(self, error: Any) -> None:
        self.errors += 1
        self.last_error = str(error.strerror)


def _float32(frame: Any) -> np.ndarray:
    """float32 [channels, n], full scale 1.0."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    with np.errstate(over="ignore"):
        return samples.astype(np.float32)
