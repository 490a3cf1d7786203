"""Pure: what can only be told of a prompt once the size of its image is known."""

from __future__ import annotations

from common.errors import NightshiftError
from common.params import SegmentationPrompt
from worker.media.images import Picture
from worker.segmentation.segmenter import Prompts


def fit(prompts: Prompts, picture: Picture, which: str) -> None:
    """Raises `invalid_prompt` for a point outside of the picture, a box that reaches out of it, a mask of another size.

    A model would take each in silence. which: names the image, as the subject of a sentence.
    """
    for place, prompt in prompts:
        _fit_one(prompt, picture, which, f"/params/prompts/{place}")


def _fit_one(prompt: SegmentationPrompt, picture: Picture, which: str, pointer: str) -> None:
    width, height = picture.width, picture.height
    size = f"{which} has {width} x {height} pixels"
    for i, (x, y) in enumerate(prompt.points):
        if not (x < width and y < height):
            raise _invalid(f"{size}; the point [{x:g}, {y:g}] lies outside.", f"{pointer}/points/{i}")
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if not (x1 <= width and y1 <= height):
            raise _invalid(f"{size}; the box [{x0:g}, {y0:g}, {x1:g}, {y1:g}] reaches out of it.", f"{pointer}/box")
        if min(x1 - x0, y1 - y0) < 1:
            raise _invalid("The box is narrower than a pixel.", f"{pointer}/box")
    if prompt.mask is not None and tuple(prompt.mask.size) != (height, width):
        given = prompt.mask.size
        raise _invalid(f"{size}; the mask is {given[1]} x {given[0]}.", f"{pointer}/mask/size")


def _invalid(detail: str, pointer: str) -> NightshiftError:
    return NightshiftError(
        "invalid_prompt",
        detail,
        hint="Coordinates are pixels of the image as it is seen: x to the right, y down, its EXIF orientation applied.",
        pointer=pointer,
    )
