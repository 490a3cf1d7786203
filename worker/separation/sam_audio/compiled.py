"""The velocity field compiled for fixed shapes: after the first block nothing is compiled again.

Compiling takes minutes, so there must be few shapes. Windows have one length; those of another, in recordings shorter
than a window, go to the plain network. A batch is computed in parts of a power of two, and descriptions are padded to
one of a few lengths, which the mask hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.batches import MOST
from worker.separation.sam_audio.network import Network

LEAST_TOKENS = 16
MOST_TOKENS = 512
# Every batch with every length of the text; torch gives up compiling after eight.
_SHAPES = MOST.bit_length() * (MOST_TOKENS // LEAST_TOKENS).bit_length()

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Compiled:
    """Stands for `Network.velocity`. frames: of the windows.  backend: torch's compiler, by name or as a function."""

    def __init__(self, network: Network, frames: int, backend: str | Callable[..., Any] = "inductor") -> None:
        self._plain: Velocity = network.velocity
        self._frames = frames
        self._compiled = torch.compile(network.velocity, fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, state: Tensor, time: Tensor, condition: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        if state.shape[1] != self._frames:
            return self._plain(state, time, condition, memory, mask)
        memory, mask = padded(memory, mask)
        inputs = (state, time, condition, memory, mask)
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            # A view's strides would be another shape to the compiler.
            made = [
                self._compiled(*(value[part].clone(memory_format=torch.contiguous_format) for value in inputs))
                for part in parts(state.shape[0])
            ]
        return torch.cat(made)


def parts(rows: int) -> Iterator[slice]:
    """Slices of powers of two, the largest first, that cover so many rows."""
    start = 0
    while start < rows:
        length = 1 << ((rows - start).bit_length() - 1)
        yield slice(start, start + length)
        start += length


def padded(memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The text [B, L, dim], and its mask, with L the next power of two from `LEAST_TOKENS` on."""
    rows, tokens, _ = memory.shape
    length = max(LEAST_TOKENS, 1 << (tokens - 1).bit_length())
    mask = torch.ones(rows, tokens, dtype=torch.bool, device=memory.device) if mask is None else mask
    return F.pad(memory, (0, 0, 0, length - tokens)), F.pad(mask, (0, length - tokens))
