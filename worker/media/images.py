"""Images of strangers as arrays: decoded in the sandbox, upright, in RGB."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import NightshiftError
from worker.engine import Limits
from worker.media import wire
from worker.media.child import Child


@dataclass(frozen=True)
class Picture:
    """An image. pixels: uint8 [height, width, 3], red, green, blue, its EXIF orientation applied.

    format: jpeg, png, webp or tiff.  changes: sentences on what had to be changed to get there.
    """

    pixels: np.ndarray
    format: str
    changes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def read_image(path: Path, limits: Limits) -> Picture:
    """Decodes an image. Size and frames are checked before that, from its header.

    Raises `input_missing`, `empty_input`, `unsupported_media`, `corrupt_media`, `too_many_pixels`, `image_too_small`,
    `decoder_crashed`.
    """
    with Child("picture", path, limits) as child:
        messages = child.messages()
        kind, body = next(messages, (b"", b""))
        if kind != wire.INFO:
            raise _gone()
        info = json.loads(body)
        height, width = int(info["height"]), int(info["width"])
        if not 0 < height * width <= limits.pixels:
            raise _gone()
        pixels = np.empty((height, width, 3), np.uint8)
        top = 0
        for kind, body in messages:
            if kind == wire.END:
                break
            rows = np.frombuffer(body, np.uint8)
            if kind != wire.ROWS or rows.size % (3 * width) or top + rows.size // (3 * width) > height:
                raise _gone()
            rows = rows.reshape(-1, width, 3)
            pixels[top : top + len(rows)] = rows
            top += len(rows)
        else:
            raise _gone()
        if top != height:
            raise _gone()
    return Picture(pixels, str(info["format"]), tuple(str(change) for change in info["changes"]))


def _gone() -> NightshiftError:
    return NightshiftError("decoder_crashed", "The decoder ended before the image did.")
