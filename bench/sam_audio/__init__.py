"""SAM-Audio on a CPU, file in, stems out, against the published procedure on the same network and weights.

The baseline takes the whole clip at once, with every lever off (`bench/sam_audio/plain.py`). Both sides have base's
widths and heads, but two layers in the place of sixteen, and one evaluation in the place of 32: all layers cost the
same, and so do all evaluations. Each side of each length has a process of its own. Time is processor time of all
threads, so that other work on the machine hardly counts; memory is the highest resident one, weights and libraries
included.

The published codec takes some 200 MB a second when it decodes both stems at once, so at 300 s the whole procedure fits
no usual machine: there the samplers are compared without it, and the whole at the longest that fits. With `--full` that
is up to 60 s, and ours is measured whole at 300 s too. A narrow codec is one of a sixteenth of the widths. What the
sampler gains at 300 s is attention over windows in the place of all frames, and in a fused kernel; what windows have in
common, it computes twice. Ours is as it is shipped: in bfloat16 where the CPU has units for it, with the error that
`error-bf16` tells; `sampler-float32` is what the other levers give alone. The published procedure is in float32, as its
code is on a CPU.

`error-*` are of a network with a quarter of all of base's widths and all of its layers. They are shares of the
reference's root mean square, of the state that the sampler ends in, on generated weights: they show that the arithmetic
is right and how the tiers are ordered, not how a tier sounds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from bench import place
from bench.figures import Figure
from bench.scale import Scale


def run(scale: Scale) -> Iterator[Figure]:
    need_models()
    from bench.sam_audio import cpu

    yield from cpu.run(scale)


def need_models() -> None:
    """Raises `Missing` where torch and transformers are not installed."""
    lacking = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if lacking:
        raise place.Missing(f"{' and '.join(lacking)} not installed: pip install '.[models]'")
