"""CSM on a card, at its real size with generated weights: `python -m bench speech-gpu --record`; see `bench.speech`.

`--device cpu --size tiny` shows that all of it works where there is no card; it measures nothing and is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure
from bench.place import Missing
from bench.scale import Scale
from bench.speech import loops

ROWS = (2, 4, 8, 16, 32)


def run(scale: Scale, device: str = "cuda", size: str = "base") -> Iterator[Figure]:
    """size: there is one; only `tiny` is another. Raises `Missing` where there is no such card."""
    if device != "cpu":
        try:
            import torch
        except ImportError as error:
            raise Missing("torch is not installed") from error
        if not torch.cuda.is_available():
            raise Missing("torch sees no card")
    yield from loops(scale, device, "tiny" if size == "tiny" else "full", ROWS)
