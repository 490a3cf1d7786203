"""Hybrid Demucs as a separator: vocals, drums, bass and the rest of a song.

The network is torchaudio's HDEMUCS_HIGH_MUSDB_PLUS (A. Défossez, "Hybrid Spectrogram and Waveform Source Separation",
2021): 44.1 kHz stereo in, four sources out. It hears segments of ten seconds on an absolute grid that fade into each
other, so a recording gives the same stems however it is cut into blocks. One evaluation serves all prompts of a job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import nn
from torchaudio.models import hdemucs_high

from common.engines import REGISTRY
from common.params import SeparationParams
from worker import device as devices
from worker import tensors, weights
from worker.batches import Batches
from worker.engine import Host
from worker.separation.pipeline import SeparationEngine
from worker.separation.resample import convert
from worker.separation.segments import Segments
from worker.separation.separator import BlockAudio, Stems, wanted

SPEC = REGISTRY["hdemucs"]
RATE = 44_100
SOURCES = ("drums", "bass", "other", "vocals")
"""In the order in which the network gives them."""

STEMS = {**{source: (source,) for source in SOURCES}, "music": ("drums", "bass", "other")}
"""What the words of the engine's vocabulary stand for: the sum of these sources."""

SEGMENTS = Segments(length=10 * RATE, lap=2 * RATE, lead=RATE)

SEGMENT_BYTES = 1_500_000_000
"""Memory of a segment of ten seconds beside the weights: 0.7 GB measured on a CPU, as much again for cuDNN."""

# What a conversion of the rate hears of a sample's surroundings, generously.
_MARGIN = RATE // 2
# Shorter than this the network's spectrogram has no frames.
_SHORTEST = RATE


class _Piece(NamedTuple):
    """A segment of one stereo signal of the block, both by number; start, stop: absolute samples at `RATE`."""

    signal: int
    segment: int
    start: int
    stop: int


class HDemucs:
    """The separator.

    network: float32 [batch, 2, n] to [batch, 4, 2, n], on `device`.  version: of the weights.
    The context on both sides holds any segment of which a part is given. On a CPU a segment of the published network
    takes 5 core-seconds, so a core is about one and a half times as fast as stereo plays.
    """

    name = "hdemucs"
    block_seconds = 120.0
    context_seconds = (12.0, 12.0)
    overlap_seconds = 0.1
    shares = False

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        version: str,
        *,
        segments: Segments = SEGMENTS,
        memory_fraction: float = 0.9,
    ) -> None:
        self.version = version
        self._network: nn.Module | None = network
        self._device, self._segments = device, segments
        self._memory = devices.size(network)
        self._batches = Batches(self.name, device, SEGMENT_BYTES, fraction=memory_fraction)

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float, None, Stems]:
        """A channel alone is heard on both sides and its stems are the means of both; two channels are heard as
        stereo; of more, each is heard alone."""
        stems = wanted(params)
        vocabulary = SPEC.vocabulary or {}
        meant = {stem.name: vocabulary[stem.prompt.description.strip().lower()] for stem in stems}
        targets = tuple(dict.fromkeys(meant.values()))
        heard = block.samples
        signals = _signals(heard, block.rate, check)
        low = round(block.start * RATE / block.rate)
        total = np.zeros((len(targets), heard.shape[0], signals.shape[2]), np.float32)
        pieces = self._pieces(block, signals, low)

        def compute(batch: Sequence[_Piece]) -> np.ndarray:
            check()
            return self._estimate(np.stack([_cut(signals, piece, low) for piece in batch]), targets, check)

        done = 0
        for batch, made in self._batches.run(pieces, compute):
            for piece, estimate in zip(batch, made, strict=True):
                fade = self._segments.weights(piece.segment, piece.start, piece.stop)
                rows = slice(None) if heard.shape[0] == 2 else slice(piece.signal, piece.signal + 1)
                given = estimate if heard.shape[0] == 2 else estimate.mean(axis=1, keepdims=True)
                total[:, rows, piece.start - low : piece.stop - low] += given * fade
            done += len(batch)
            yield done / len(pieces)
        kept = {name: self._given(made, block, check) for name, made in zip(targets, total, strict=True)}
        parts: dict[str, np.ndarray] = {}
        for stem in stems:
            target = kept[meant[stem.name]]
            parts[stem.name] = target if stem.part == "target" else block.kept - target
        return parts

    def _pieces(self, block: BlockAudio, signals: np.ndarray, low: int) -> list[_Piece]:
        """What must be computed: all that has weight in what is kept, and is not silent."""
        high = low + signals.shape[2]
        start = max(low, low + block.keep.start * RATE // block.rate - _MARGIN)
        stop = min(high, low + block.keep.stop * RATE // block.rate + _MARGIN)
        pieces = []
        for index in self._segments.needed(start, stop):
            begin, end = self._segments.place(index, low, high)
            for signal in range(signals.shape[0]):
                sound = signals[signal, :, begin - low : end - low]
                if np.ptp(sound) > 0:
                    pieces.append(_Piece(signal, index, begin, end))
        return pieces

    def _estimate(self, batch: np.ndarray, targets: Sequence[str], check: Callable[[], None]) -> np.ndarray:
        """Segments [batch, 2, n] to stems [batch, targets, 2, n], each brought to the same level on its way."""
        assert self._network is not None, "the separator was closed"
        mean = batch.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
        deviation = np.maximum(batch.std(axis=(1, 2), keepdims=True, dtype=np.float64), np.finfo(np.float64).tiny)
        level = ((batch - mean) / deviation).astype(np.float32)
        with torch.inference_mode(), devices.interruptible(self._network, check):
            sources = self._network(torch.from_numpy(level).to(self._device))
            chosen = [sources[:, [SOURCES.index(source) for source in STEMS[name]]].sum(dim=1) for name in targets]
            made = torch.stack(chosen, dim=1).cpu().numpy()
        stems: np.ndarray = (made * deviation[:, None]).astype(np.float32)
        return stems

    def _given(self, made: np.ndarray, block: BlockAudio, check: Callable[[], None]) -> np.ndarray:
        """float32 [channels, n] at `RATE` to what the block keeps, at its own rate."""
        kept = np.empty(block.kept.shape, np.float32)
        for row, channel in zip(kept, made, strict=True):
            check()
            row[:] = convert(channel, RATE, block.rate, block.samples.shape[1])[block.keep]
        return kept

    def for_job(self) -> Self:
        return self

    def figures(self) -> Mapping[str, float]:
        return {}

    def memory_bytes(self) -> int:
        return self._memory

    def close(self) -> None:
        self._network = None
        devices.release(self._device)


class HDemucsEngine(SeparationEngine):
    """The engine of the registry, on its host's card; on a CPU where the host allows it.

    Raises `device_missing`, `weights_missing`, `weights_invalid`, `gpu_oom`.
    """

    segments = SEGMENTS

    def __init__(self, host: Host) -> None:
        device = devices.choose(host, SPEC.name)
        assert SPEC.weights is not None
        path = weights.locate(SPEC.weights, host.models, host.on_fetch)
        network = load(self.build(), path)
        devices.move(network, device, SPEC.name)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        super().__init__(
            HDemucs(
                network,
                device,
                f"hdemucs-{digest[:16]}-1",
                segments=self.segments,
                memory_fraction=host.memory_fraction,
            )
        )

    @staticmethod
    def build() -> nn.Module:
        """The network without memory for its parameters."""
        with torch.device("meta"):
            network: nn.Module = hdemucs_high(list(SOURCES))
        return network


def load(network: nn.Module, path: Path) -> nn.Module:
    """Puts the tensors of a file into a network without memory, ready to run. Raises `weights_invalid`."""
    tensors.load(network, path, SPEC.name)
    return network.float().eval().requires_grad_(False)


def _signals(heard: np.ndarray, rate: int, check: Callable[[], None]) -> np.ndarray:
    """What the network is to hear: float32 [signals, 2, n] at `RATE` of [channels, n] at `rate`; n >= one second."""
    channels = []
    for channel in heard:
        check()
        channels.append(convert(channel, rate, RATE))
    converted = np.stack(channels)
    missing = _SHORTEST - converted.shape[1]
    if missing > 0:
        converted = np.pad(converted, ((0, 0), (0, missing)))
    return converted[None] if heard.shape[0] == 2 else np.repeat(converted[:, None], 2, axis=1)


def _cut(signals: np.ndarray, piece: _Piece, low: int) -> np.ndarray:
    return signals[piece.signal, :, piece.start - low : piece.stop - low]
