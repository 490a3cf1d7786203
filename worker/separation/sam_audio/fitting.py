"""Codec work in pieces that fit the memory there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from worker import device as devices
from worker.separation.sam_audio.streaming import PIECE

_LEAST_PIECE = 25
# Of the published codec, for a frame with its share of context: about 95 MB a second.
_CODEC_BYTES = 8_000_000

LEAST_BYTES = _LEAST_PIECE * _CODEC_BYTES
"""What the codec takes beside its weights at the least, about."""


class Fitting:
    """name: of the engine, for people. The size that has fitted last is where the next work begins."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._name, self._device = name, device
        self._size = PIECE

    def run(self, computed: Callable[[int], Iterable[Tensor]], check: Callable[[], None]) -> Tensor:
        """All that `computed` gives for a size of its pieces, in latent frames, joined along the last axis.

        Where memory runs out it is computed anew in smaller pieces, which gives the same. Raises `gpu_oom`.
        """
        while True:
            parts: list[Tensor] = []
            try:
                for part in computed(self._size):
                    check()
                    parts.append(part)
                return torch.cat(parts, dim=-1)
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
                if self._size <= _LEAST_PIECE:
                    raise devices.does_not_fit(f"{self._name}'s codec does", self._device, LEAST_BYTES) from error
            # Only here, with the exception gone, does nothing hold the tensors of the failed piece any more.
            del parts
            self._size = max(_LEAST_PIECE, self._size // 2)
            devices.release(self._device)
