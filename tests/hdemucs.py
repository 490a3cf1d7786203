"""HDemucs with a network so small that a CPU is quick with it, and weights that no one trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchaudio.models import HDemucs as Network

from common.engines import REGISTRY
from worker.separation.hdemucs import RATE, SOURCES, SPEC, HDemucsEngine
from worker.separation.segments import Segments

TINY = replace(REGISTRY["hdemucs"], name="hdemucs-tiny", target="tests.hdemucs:TinyEngine")
SEGMENTS = Segments(length=RATE, lap=RATE // 4, lead=RATE // 4)


def network() -> nn.Module:
    """Stereo to four sources, as the published one, 0.1 M parameters; without recurrence and attention."""
    return Network(list(SOURCES), channels=4, nfft=1024, depth=5, dconv_depth=1, dconv_lstm=9, dconv_attn=9)


class TinyEngine(HDemucsEngine):
    segments = SEGMENTS

    @staticmethod
    def build() -> nn.Module:
        with torch.device("meta"):
            return network()


def write_weights(models: Path, seed: int = 0) -> Path:
    """Puts random weights where the engine looks for the published ones."""
    assert SPEC.weights is not None
    path = models / SPEC.weights.folder / SPEC.weights.files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.save(network().state_dict(), path)
    return path
