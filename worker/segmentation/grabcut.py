"""GrabCut as a segmenter: an object told from its ground by their colours, on any CPU.

C. Rother, V. Kolmogorov, A. Blake, "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", 2004, as
OpenCV has it. It looks at 512 pixels at most, and what it gives is brought to the picture's size. It knows nothing of
things: an object that shares its colours with its ground is not told from it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from common.params import Automatic, SegmentationPrompt
from worker.engine import Host
from worker.media.images import Picture
from worker.segmentation import rle
from worker.segmentation.pipeline import SegmentationEngine
from worker.segmentation.regions import SCALES, regions
from worker.segmentation.segmenter import Check, Found, Prompts, Tally

WORK_SIDE = 512
_ITERATIONS = 5

# Of the longer side: how far around a point it is certain; how far a rough mask may be wrong.
_POINT_SHARE = 0.012
_REACH_SHARE = 0.06
# How far a colour may be from that of a point to lie in what the point probably means: of 255, in L*a*b*.
_TOLERANCE = 30

# The stability score compares the masks of the prompt as it is and drawn more widely by so much.
_WIDER = 0.05
_TOLERANT = 1.25

# OpenCV draws the first colour clusters from one generator of the whole process.
_generator = threading.Lock()


class GrabCut:
    """The segmenter. predicted_iou is not known to it and is None."""

    name = "grabcut"
    version = f"grabcut-opencv-{cv2.__version__}-1"

    def prompted(self, picture: Picture, prompts: Prompts, tally: Tally, check: Check) -> Iterator[Found | float]:
        """One mask a prompt. stability_score: the intersection over union of that mask and the one that the prompt
        gives when its box is 5 % larger, or its points mean a quarter more of colours; None for a rough mask alone."""
        small, scale = _reduced(picture)
        for done, (place, prompt) in enumerate(prompts):
            check()
            mask = _cut(small, _seeds(small, scale, prompt), check)
            check()
            stability = None
            if prompt.box is not None or prompt.points:
                other = _cut(small, _seeds(small, scale, prompt, wider=True), check)
                union = np.count_nonzero(mask | other)
                stability = float(np.count_nonzero(mask & other) / union) if union else None
            tally["cuts"] += 1
            full = rle.resized(mask, picture.height, picture.width)
            yield Found(full, None, stability, prompt.points, prompt=place)
            yield (done + 1) / len(prompts)

    def automatic(self, picture: Picture, wanted: Automatic, tally: Tally, check: Check) -> Iterator[Found | float]:
        """The regions of like colour, which cover the picture; see `regions`."""
        small, scale = _reduced(picture)
        check()
        smallest = max(SCALES.smallest(small.shape), round(wanted.min_mask_region_area * scale**2))
        found = regions(small, smallest, check)
        for done, region in enumerate(found):
            check()
            x, y = region.point
            point = ((x + 0.5) / scale, (y + 0.5) / scale)
            full = rle.resized(region.mask, picture.height, picture.width)
            yield Found(full, None, region.stability, (point,))
            yield (done + 1) / len(found)
        tally["regions"] += len(found)

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing stays between pictures."""


class GrabCutEngine(SegmentationEngine):
    """The engine of the registry. It computes on the processor, whatever the device of its host."""

    def __init__(self, host: Host | None = None) -> None:
        super().__init__(GrabCut())


def _reduced(picture: Picture) -> tuple[np.ndarray, float]:
    """uint8 [h, w, 3] as OpenCV wants it (blue first), of `WORK_SIDE` pixels at most, and its scale."""
    scale = min(1.0, WORK_SIDE / max(picture.width, picture.height))
    pixels = picture.pixels[..., ::-1]
    if scale == 1:
        return np.ascontiguousarray(pixels), 1.0
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA), scale


def _seeds(image: np.ndarray, scale: float, prompt: SegmentationPrompt, *, wider: bool = False) -> np.ndarray:
    """What the cut begins with: uint8 [h, w] of GrabCut's four classes, certain or probable, ground or object."""
    height, width = image.shape[:2]
    seeds = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    radius = max(1, round(_POINT_SHARE * max(height, width)))
    points = [(min(int(x * scale), width - 1), min(int(y * scale), height - 1)) for x, y in prompt.points]
    inside = [point for point, label in zip(points, prompt.labels, strict=True) if label]
    if prompt.box is not None:
        x0, y0, x1, y1 = _pixels(prompt.box, scale, image.shape, wider)
        seeds[:] = cv2.GC_BGD
        seeds[y0:y1, x0:x1] = cv2.GC_PR_FGD
    if prompt.mask is not None:
        rough = rle.resized(rle.given(prompt.mask), height, width).astype(np.uint8)
        reach = _REACH_SHARE * max(height, width)
        far = cv2.distanceTransform(1 - rough, cv2.DIST_L2, 5) > reach
        deep = cv2.distanceTransform(np.pad(rough, 1), cv2.DIST_L2, 5)[1:-1, 1:-1] > reach
        seeds[(rough == 0) & (seeds != cv2.GC_BGD)] = cv2.GC_PR_BGD
        seeds[far] = cv2.GC_BGD
        seeds[(rough == 1) & (seeds != cv2.GC_BGD)] = cv2.GC_PR_FGD
        seeds[deep] = cv2.GC_FGD
    elif prompt.box is None:
        tolerance = _TOLERANCE * (_TOLERANT if wider else 1)
        for point in inside:
            seeds[_like(image, point, tolerance)] = cv2.GC_PR_FGD
    for point, label in zip(points, prompt.labels, strict=True):
        cv2.circle(seeds, point, radius, cv2.GC_FGD if label else cv2.GC_BGD, thickness=-1)
    return seeds


def _pixels(box: Sequence[float], scale: float, shape: tuple[int, ...], wider: bool) -> tuple[int, int, int, int]:
    """The box in whole pixels, of which it holds one at least."""
    x0, y0, x1, y1 = (value * scale for value in box)
    if wider:
        dx, dy = _WIDER * (x1 - x0) / 2, _WIDER * (y1 - y0) / 2
        x0, y0, x1, y1 = x0 - dx, y0 - dy, x1 + dx, y1 + dy
    left, top = max(0, min(int(x0), shape[1] - 1)), max(0, min(int(y0), shape[0] - 1))
    return left, top, max(left + 1, min(round(x1), shape[1])), max(top + 1, min(round(y1), shape[0]))


def _like(image: np.ndarray, point: tuple[int, int], tolerance: float) -> np.ndarray:
    """bool [h, w]: what hangs together with a point and is of its colour, about."""
    smooth = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2LAB), (0, 0), 2)
    filled = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    span = (tolerance,) * 3
    flags = 8 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    cv2.floodFill(smooth, filled, point, 0, span, span, flags)
    like: np.ndarray = filled[1:-1, 1:-1] > 0
    return like


def _cut(image: np.ndarray, seeds: np.ndarray, check: Check) -> np.ndarray:
    """bool [h, w], the object; of several parts, with certain pixels in some, only those."""
    classes = seeds.copy()
    certain = seeds == cv2.GC_FGD
    object_side, ground_side = _on_side(seeds, cv2.GC_FGD), _on_side(seeds, cv2.GC_BGD)
    if not ground_side.any() or not object_side.any():
        # Without an example of both there is nothing to tell apart.
        return object_side
    models = np.zeros((1, 65)), np.zeros((1, 65))
    for step in range(_ITERATIONS):
        check()
        # Within the cut nothing else may draw, or the same picture would not give the same mask.
        with _generator:
            cv2.setRNGSeed(step)
            mode = cv2.GC_INIT_WITH_MASK if step == 0 else cv2.GC_EVAL
            cv2.grabCut(image, classes, None, models[0], models[1], 1, mode)
        if not _on_side(classes, cv2.GC_FGD).any() or not _on_side(classes, cv2.GC_BGD).any():
            break
    mask = _on_side(classes, cv2.GC_FGD)
    if certain.any():
        _, parts = cv2.connectedComponents(mask.astype(np.uint8))
        mask &= np.isin(parts, np.unique(parts[certain & mask]))
    return mask


def _on_side(classes: np.ndarray, side: int) -> np.ndarray:
    """Certain or probable: the classes' lowest bit tells object from ground."""
    on: np.ndarray = (classes & 1) == (side & 1)
    return on
