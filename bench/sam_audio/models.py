"""SAM-Audio's network for measurements: published widths or parts of them, with generated weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from worker.separation.sam_audio.config import SamAudioConfig, parse
from worker.separation.sam_audio.generated import Layout, weight, write_text_encoder
from worker.separation.sam_audio.loading import Weights, assemble, build, layout
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.text import load_text_encoder

SEED = 11


@dataclass(frozen=True)
class Size:
    """dim, heads, layers: of the transformer.  codec: by what the codec's published widths are divided."""

    dim: int
    heads: int
    layers: int
    codec: int = 1

    def config(self) -> dict[str, Any]:
        """As an official config.json."""
        return {
            "audio_codec": {
                "encoder_dim": 64 // self.codec,
                "latent_dim": 1024 // self.codec,
                "decoder_dim": 1536 // self.codec,
            },
            "transformer": {
                "dim": self.dim,
                "context_dim": self.dim,
                "n_heads": self.heads,
                "n_layers": self.layers,
            },
        }

    def parsed(self) -> SamAudioConfig:
        return parse(self.config())


SIZES = {
    "tiny": Size(64, 4, 2, codec=16),
    "small": Size(1536, 12, 12),
    "base": Size(2048, 16, 16),
    "large": Size(2816, 22, 22),
}


def load(
    size: Size, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, keep: bool = False
) -> SamAudio:
    """The model, from weights drawn tensor by tensor: no file is mapped, nothing is held twice.

    folder: of the text encoder, which is written there at first.  dtype: of the transformer's layers.
    keep: the drawn tensors stay in memory, for further models of that size.
    """
    config = size.parsed()
    source = folder / "t5"
    logging.disable_progress_bar()
    if not source.exists():
        write_text_encoder(source, config.text_encoder.dim, SEED)
    network = assemble(config, _kept(size) if keep else _drawn(layout(build(config))), device, dtype)
    return SamAudio(network, load_text_encoder(config.text_encoder, source, device))


def _drawn(shapes: Layout) -> Weights:
    given = {name: tuple(shape) for name, shape in shapes.items()}
    return Weights(given, lambda name: weight(SEED, name, given[name]))


@cache
def _kept(size: Size) -> Weights:
    drawn = _drawn(layout(build(size.parsed())))
    return Weights(drawn.shapes, {name: drawn.read(name) for name in drawn.shapes}.__getitem__)
