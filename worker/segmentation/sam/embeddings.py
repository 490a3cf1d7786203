"""The embeddings of the pictures seen last: the encoder is what costs, and one picture is often asked about again."""

from __future__ import annotations

from collections import OrderedDict

import torch


class Embeddings:
    """Keeps the last used, `most_bytes` of them in all."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: str) -> torch.Tensor | None:
        found = self._kept.get(digest)
        if found is not None:
            self._kept.move_to_end(digest)
        return found

    def put(self, digest: str, embedding: torch.Tensor) -> None:
        """Keeps it; where it alone is too large, nothing is kept."""
        self._drop(digest)
        self._kept[digest] = embedding
        self._bytes += _size(embedding)
        while self._bytes > self._most:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _drop(self, digest: str) -> None:
        dropped = self._kept.pop(digest, None)
        if dropped is not None:
            self._bytes -= _size(dropped)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
