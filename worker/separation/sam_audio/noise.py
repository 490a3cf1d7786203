"""Noise that depends on nothing but the seed and the frame, so that it is the same in any window, block and process.

Philox (J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) counts instead of remembering: the block
of 25 frames is part of its counter. Normal numbers come from its bits by the method of Box and Muller, written out
here, because a library may change its own way from one release to the next. Always on the CPU: cards differ.
"""

from __future__ import annotations

import numpy as np

FRAMES = 25
"""Frames that are drawn together."""


def noise(seed: int, start: int, frames: int, channels: int) -> np.ndarray:
    """Standard normal float32 [frames, channels] for frames from `start` on, absolute in the file.

    seed: 0 to 2**64 - 1.  start: not negative.
    """
    if start < 0 or frames < 0:
        raise ValueError("frames are counted from the beginning of the file")
    first, last = start // FRAMES, -(-(start + frames) // FRAMES)
    drawn = [_block(seed, index, channels) for index in range(first, last)]
    skipped = start - first * FRAMES
    return np.concatenate([np.empty((0, channels), np.float32), *drawn])[skipped : skipped + frames]


def _block(seed: int, index: int, channels: int) -> np.ndarray:
    pairs = -(-FRAMES * channels // 2)
    # The low words of the counter count within the block.
    bits = np.random.Philox(key=np.array([seed, channels], np.uint64), counter=np.array([0, 0, index, 0], np.uint64))
    # 53 bits each, in (0, 1]: the logarithm must not meet zero.
    uniform = ((bits.random_raw(2 * pairs) >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
    normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    return normal[: FRAMES * channels].astype(np.float32).reshape(FRAMES, channels)
