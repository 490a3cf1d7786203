"""SAM-Audio on a card, at a real size with generated weights: `python -m bench sam-audio-gpu --record`.

`times-real-time` and `levers-*` are of a separation at reference quality, both stems. The ladder begins with the
published procedure on the whole clip in float32 and switches on one lever after the other; each rung keeps those before
it, and the published procedure is measured again at the end. `batch-*` is the sampler alone, at windows of 30 s that
overlap by 5: only what is new in a window counts. Shares of the matrix rate are of what this card's own bfloat16
product of large matrices reaches in the same run, by the operations that PyTorch counts in the evaluation. Memory is
what PyTorch has reserved at most; CUDA itself takes half a gigabyte beside it.

`--device cpu --size tiny` shows that all of it works where there is no card; it measures nothing and is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import place
from bench.figures import Figure
from bench.sam_audio import need_models
from bench.scale import Scale


def run(scale: Scale, device: str = "cuda", size: str = "base") -> Iterator[Figure]:
    """Raises `Missing` where there is no such card."""
    need_models()
    from bench.sam_audio import card

    if device != "cpu" and (why := card.missing(device)):
        raise place.Missing(why)
    yield from card.run(scale, device, size)
