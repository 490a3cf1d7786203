"""The codec over recordings of any length, in constant memory: pieces with enough of their neighbours to be exact.

A latent frame hears less than five frames of sound to each side, a sample of the decoder less than eight frames of
latent, so pieces computed with more context than that equal the whole to rounding. The watermark's recurrent layers
hear everything before them, but forget: they get `DECODE_LEFT` frames to find their state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.separation.sam_audio.model import SamAudio

ENCODE_CONTEXT = 6
DECODE_LEFT = 20
DECODE_RIGHT = 8
"""In latent frames."""

PIECE = 250
"""Frames that are computed at a time: ten seconds. Decoding one row of them takes 400 MB on a CPU, where layers run
a stretch at a time (`tiles`), and a gigabyte on a card."""


@dataclass(frozen=True)
class Piece:
    """values: [.., left + own + right].  keep: the piece's own, as a slice of the last axis."""

    values: Tensor
    keep: slice


def pieces(stream: Iterable[Tensor], own: int, left: int, right: int) -> Iterator[Piece]:
    """Cuts a stream along its last axis into pieces of `own` with context, clipped at the stream's ends.

    The tensors of the stream may have any lengths; the pieces do not depend on them. Memory: one piece and one tensor.
    """
    held: list[Tensor] = []
    length = before = 0
    for chunk in stream:
        if not chunk.shape[-1]:
            continue
        held.append(chunk)
        length += chunk.shape[-1]
        while length >= before + own + right:
            joined = torch.cat(held, dim=-1)
            yield Piece(joined[..., : before + own + right], slice(before, before + own))
            after = min(left, before + own)
            held = [joined[..., before + own - after :].clone()]
            length, before = held[0].shape[-1], after
    joined = torch.cat(held, dim=-1) if held else None
    while joined is not None and before < length:
        stop = min(before + own, length)
        start = max(0, before - left)
        yield Piece(joined[..., start : min(stop + right, length)], slice(before - start, stop - start))
        before = stop


def encode_range(model: SamAudio, waves: Tensor, start: int, stop: int, piece: int = PIECE) -> Iterator[Tensor]:
    """Latents [B, 128, k], together those of the frames [start, stop) of `SamAudio.encode` on the whole.

    waves: float32 [B, n] at 48 kHz.
    """
    hop = model.config.audio_codec.hop
    for first in range(start, stop, piece):
        last = min(first + piece, stop)
        before = max(0, first - ENCODE_CONTEXT)
        latent = model.encode(waves[:, None, before * hop : (last + ENCODE_CONTEXT) * hop])
        yield latent[..., first - before : last - before]


def decode_stream(
    model: SamAudio,
    latents: Iterable[Tensor],
    message: Tensor,
    samples: int | None = None,
    piece: int = PIECE,
    left: int = DECODE_LEFT,
) -> Iterator[Tensor]:
    """Latents [B, 128, k] to samples, float32 [B, n]: together those of `SamAudio.decode` on the whole.

    message: float32 [B, 16] or [1, 16], the same all along.  samples: where to end, exactly; None: at a whole frame.
    left: frames of latent before a piece that its watermark gets to find its state.
    """
    hop = model.config.audio_codec.hop
    given = 0
    for part in pieces(latents, piece, left, DECODE_RIGHT):
        wave = model.decode(part.values, message)[:, 0, part.keep.start * hop : part.keep.stop * hop]
        if samples is not None:
            wave = wave[:, : max(0, samples - given)]
        given += wave.shape[-1]
        if wave.shape[-1]:
            yield wave
