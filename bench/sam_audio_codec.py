"""SAM-Audio's codec on a CPU: a stretch at a time, against every layer over the whole.

The published codec with generated weights, ten seconds of sound, one row: what the engine decodes at a time. Time is
processor time of all threads. For its memory each side has a process of its own; the weights are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure
from bench.sam_audio import need_models
from bench.scale import Scale


def run(scale: Scale) -> Iterator[Figure]:
    need_models()
    from bench.sam_audio import codec

    yield from codec.run(scale)
