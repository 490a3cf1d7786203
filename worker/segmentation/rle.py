"""Masks in COCO's run-length encoding: small whatever the image's size, and what results give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import cv2
import numpy as np
from pycocotools import mask as coco

from common.params import Rle
from common.params.segmentation import runs_of


class Encoded(TypedDict):
    """size: [height, width].  counts: COCO's compressed text."""

    size: list[int]
    counts: str


def encode(mask: np.ndarray) -> Encoded:
    """bool [height, width] as run lengths."""
    made = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in made["size"]], "counts": made["counts"].decode("ascii")}


def decode(encoded: Mapping[str, Any]) -> np.ndarray:
    """bool [height, width], in rows. Raises what pycocotools raises for what is no encoding."""
    return np.ascontiguousarray(coco.decode(dict(encoded))).astype(bool)


def given(mask: Rle) -> np.ndarray:
    """bool [height, width] of a mask that a request gives."""
    runs = runs_of(mask)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(mask.size, order="F"))


def measures(encoded: Encoded) -> tuple[int, list[int]]:
    """Area in pixels, and the box [x, y, width, height] that holds every pixel of the mask."""
    rle = {"size": encoded["size"], "counts": encoded["counts"].encode("ascii")}
    return int(coco.area(rle)), [int(side) for side in coco.toBbox(rle)]


def resized(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask at another size: a pixel belongs to it where it covers half of it or more."""
    if mask.shape == (height, width):
        return mask
    shrinks = height * width < mask.size
    scaled = cv2.resize(
        mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    made: np.ndarray = scaled >= 128
    return made
