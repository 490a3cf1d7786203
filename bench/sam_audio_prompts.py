"""What several prompts on one recording, or channels that are equal, cost SAM-Audio on a CPU, file in, stems out.

The network has a quarter of all of base's widths and all of its layers, so that codec and sampler have the shares of
the arithmetic that they have in base. Time is processor time of all threads.

Of two prompts only the encoding is shared: each has its own evaluations and stems. By the arithmetic of base, two cost
1.97 times one at reference (32 evaluations), 1.92 at draft (8). Here they cost a little less: the files and the
encoding weigh more, and windows shorter than two thirds of 30 s share a batch. From a whole window on, a CPU gains
nothing by more of them at once, in whatever format.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure
from bench.sam_audio import need_models
from bench.scale import Scale


def run(scale: Scale) -> Iterator[Figure]:
    need_models()
    from bench.sam_audio import prompts

    yield from prompts.run(scale)
