"""Drawing codes, each row with noise of its own: what a text becomes does not depend on what is spoken beside it."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

TOP = 50
"""Codes among which one is drawn, the likeliest."""
TEMPERATURE = 0.9

_TINY = 1e-20


class Dice:
    """The noise of one row: Gumbel, drawn on the CPU from its seed, so that it is the same on every device."""

    def __init__(self, seed: int, attempt: int, frames: int, codebooks: int, device: torch.device) -> None:
        digest = hashlib.sha256(f"{seed} {attempt}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        uniform = torch.rand((frames, codebooks, TOP), generator=generator)
        self.noise = -torch.log(-torch.log(uniform.clamp(min=_TINY)) + _TINY).to(device)


def draw(logits: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
    """One code a row, int64 [B].

    logits: float32 [B, codes].  noise: float32 [B, TOP]; None or a temperature of 0 for the likeliest code.
    """
    if noise is None or temperature == 0:
        return logits.argmax(dim=-1)
    values, codes = logits.topk(min(TOP, logits.shape[-1]), dim=-1)
    # The largest of log-probabilities plus Gumbel noise is a draw from their softmax.
    place = (values / temperature + noise[:, : values.shape[-1]]).argmax(dim=-1, keepdim=True)
    return codes.gather(-1, place).squeeze(-1)
