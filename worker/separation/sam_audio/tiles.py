"""Layers of the codec on a CPU: a stretch at a time, so short that what lies between the layers stays in the cache.

At the wave's own rate ten seconds of one activation are 180 MB. Written to memory and read again for every convolution
and every sine of it, they keep a processor waiting for most of its time. A card has the bandwidth, and would wait for
the many small kernels instead: there, layers run over the whole.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

TILE = 4096
"""Samples of a stretch, at the layer's faster side: with 96 channels a megabyte and a half."""


def tiled(
    layers: Callable[[Tensor], Tensor], x: Tensor, *, left: int, right: int = 0, up: int = 1, down: int = 1
) -> Tensor:
    """`layers` over x [B, C, N], to [B, C', N * up / down] within rounding; on a CPU a row and a stretch at a time.

    left, right: how many samples of x, at least, what is made at a sample depends on before and after it.
    up: samples made of one.  down: samples taken into one; N is a multiple of it.

    Each stretch is computed with its neighbourhood, cut off at the ends of x, so that layers pad there and only there
    what counts.
    """
    rows, _, length = x.shape
    tile = max(TILE // up // down, 1) * down
    if x.device.type != "cpu" or length <= tile:
        return layers(x)
    left, right = -(-left // down) * down, -(-right // down) * down
    made: Tensor | None = None
    for row in range(rows):
        for start in range(0, length, tile):
            stop = min(start + tile, length)
            before = min(left, start)
            part = layers(x[row : row + 1, :, start - before : min(stop + right, length)])
            if made is None:
                made = x.new_empty(rows, part.shape[1], length * up // down)
            own = part[..., before * up // down :][..., : (stop - start) * up // down]
            made[row, :, start * up // down : stop * up // down] = own[0]
    assert made is not None  # there is at least one row
    return made
