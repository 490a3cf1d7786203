"""Masks of all that is there, as segment-anything's SamAutomaticMaskGenerator finds them, in bounded memory.

A grid of points prompts the network; masks of little quality or stability are dropped, duplicates by the overlap of
their boxes. Up to `WORK_SIDE` pixels the result is that of segment-anything; of larger pictures the masks are compared
at that size and given at the picture's own. Whatever the size, the encoder sees the picture's own pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_all_layer_point_grids,
    generate_crop_boxes,
    is_box_near_crop_edge,
    remove_small_regions,
)
from torchvision.ops import nms

from common.params import Automatic
from worker.media.images import Picture
from worker.segmentation import rle
from worker.segmentation.sam.predictor import Predictor, View, stability
from worker.segmentation.segmenter import Check, Found, Tally

WORK_SIDE = 1500
"""Pixels of the longer side at which masks are compared."""

_LARGE_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
"""Of the masks that are enlarged at once."""


@dataclass
class _Candidate:
    """A mask, its numbers in pixels of the size at which masks are compared. box: [x0, y0, x1, y1]."""

    mask: rle.Encoded
    box: list[float]
    score: float
    stability: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]


def found(
    predictor: Predictor, picture: Picture, wanted: Automatic, tally: Tally, check: Check
) -> Iterator[Found | float]:
    """The masks, at the picture's size, and how much is done."""
    scale = min(1.0, WORK_SIDE / max(picture.width, picture.height))
    size = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    grids = build_all_layer_point_grids(
        wanted.points_per_side, wanted.crop_n_layers, wanted.crop_n_points_downscale_factor
    )
    crops, layers = generate_crop_boxes(size, wanted.crop_n_layers, wanted.crop_overlap_ratio)
    kept: list[_Candidate] = []
    for done, (crop, layer) in enumerate(zip(crops, layers, strict=True)):
        of_crop = _Crop(predictor, picture, wanted, size, (crop[0], crop[1], crop[2], crop[3]), tally, check)
        for event in of_crop.candidates(grids[layer]):
            if isinstance(event, float):
                yield (done + 0.9 * event) / len(crops)
            else:
                kept += event
    if len(crops) > 1:
        # Where a crop and the whole show the same thing, the smaller crop saw it better.
        kept = _distinct(kept, [1 / _area(c.crop) for c in kept], wanted.crop_nms_thresh)
    if wanted.min_mask_region_area:
        limit = max(wanted.box_nms_thresh, wanted.crop_nms_thresh)
        kept = _tidied(kept, wanted.min_mask_region_area * scale**2, limit, check)
    for candidate in kept:
        check()
        yield _whole(candidate, picture, size)


def _whole(candidate: _Candidate, picture: Picture, size: tuple[int, int]) -> Found:
    """A candidate in the picture's own pixels."""
    down, right = picture.height / size[0], picture.width / size[1]
    x0, y0, x1, y1 = candidate.crop
    left, top = round(x0 * right), round(y0 * down)
    return Found(
        rle.resized(rle.decode(candidate.mask), picture.height, picture.width),
        candidate.score,
        candidate.stability,
        ((candidate.point[0] * right, candidate.point[1] * down),),
        (left, top, round(x1 * right) - left, round(y1 * down) - top),
    )


class _Crop:
    """The search in one part of the picture. box: [x0, y0, x1, y1] of it, in pixels of `size` = (height, width)."""

    def __init__(
        self, predictor: Predictor, picture: Picture, wanted: Automatic, size: tuple[int, int],
        box: tuple[int, int, int, int], tally: Tally, check: Check,
    ) -> None:  # fmt: skip
        self._predictor, self._picture, self._wanted = predictor, picture, wanted
        self._size, self._box, self._tally, self._check = size, box, tally, check

    def candidates(self, grid: np.ndarray) -> Iterator[list[_Candidate] | float]:
        """What is found, and how much is done. grid: [points, 2], 0 to 1 over the crop."""
        steps = self._look()
        while True:
            try:
                yield 0.5 * next(steps)
            except StopIteration as ended:
                view: View = ended.value
                break
        points = grid * np.array([view.size[1], view.size[0]])
        predictor, wanted = self._predictor, self._wanted
        decoded = predictor.decode(
            view,
            self._check,
            self._tally,
            points=points[:, None],
            labels=torch.ones((len(points), 1), dtype=torch.int, device=predictor.device),
            multimask=True,
        )
        here: list[_Candidate] = []
        at = 0
        for part in decoded:
            count, masks = part.scores.shape
            scores = part.scores.flatten()
            own = np.repeat(points[at : at + count], masks, axis=0)
            good = torch.arange(len(scores), device=scores.device)
            if wanted.pred_iou_thresh:
                good = good[scores > wanted.pred_iou_thresh]
            here += self._enlarged(view, part.logits.flatten(0, 1), scores, own, good)
            at += count
            yield 0.5 + 0.5 * at / len(points)
        yield _distinct(here, [candidate.score for candidate in here], wanted.box_nms_thresh)

    def _look(self) -> Generator[float, None, View]:
        """The crop through the encoder, cut out of the picture's own pixels."""
        picture, (x0, y0, x1, y1) = self._picture, self._box
        down, right = picture.height / self._size[0], picture.width / self._size[1]
        rows, columns = slice(round(y0 * down), round(y1 * down)), slice(round(x0 * right), round(x1 * right))
        return self._predictor.look(picture.pixels[rows, columns], (y1 - y0, x1 - x0), self._tally, self._check)

    def _enlarged(
        self, view: View, logits: torch.Tensor, scores: torch.Tensor, points: np.ndarray, good: torch.Tensor
    ) -> Iterator[_Candidate]:
        """The good ones of [n, h, w] logits that are stable as well and not cut off by the crop's edge."""
        side = self._predictor.network.image_encoder.img_size
        each = 4 * (2 * view.size[0] * view.size[1] + side * side)
        at_once = max(1, _LARGE_BYTES.get(self._predictor.device.type, 256 << 20) // each)
        for some in torch.split(good, at_once):
            self._check()
            yield from self._stable(view, logits[some], scores[some], points[some.cpu().numpy()])

    def _stable(
        self, view: View, logits: torch.Tensor, scores: torch.Tensor, points: np.ndarray
    ) -> Iterator[_Candidate]:
        wanted = self._wanted
        x0, y0, x1, y1 = self._box
        height, width = self._size
        large = self._predictor.enlarge(view, logits)
        stable = stability(large, wanted.stability_score_offset)
        masks = large > self._predictor.network.mask_threshold
        del large
        boxes = batched_mask_to_box(masks)
        # NaN, of a mask that is empty at both thresholds, is not stable either.
        keep = stable >= wanted.stability_score_thresh
        keep &= ~is_box_near_crop_edge(boxes, list(self._box), [0, 0, width, height])
        keep &= masks.flatten(1).any(1)
        for i in torch.nonzero(keep)[:, 0].tolist():
            whole = np.zeros((height, width), bool)
            whole[y0:y1, x0:x1] = masks[i].cpu().numpy()
            box = boxes[i].tolist()
            yield _Candidate(
                rle.encode(whole),
                [box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0],
                float(scores[i]),
                float(stable[i]),
                (float(points[i, 0]) + x0, float(points[i, 1]) + y0),
                self._box,
            )


def _distinct(candidates: list[_Candidate], scores: list[float], limit: float) -> list[_Candidate]:
    """Of those whose boxes overlap by more than `limit`, the one with the highest score; the highest first."""
    if not candidates:
        return []
    boxes = torch.tensor([candidate.box for candidate in candidates], dtype=torch.float32)
    return [candidates[i] for i in nms(boxes, torch.tensor(scores, dtype=torch.float32), limit).tolist()]


def _tidied(candidates: list[_Candidate], area: float, limit: float, check: Check) -> list[_Candidate]:
    """Without holes and islands smaller than `area` pixels; of what became duplicates by that, one is left."""
    tidy, untouched = [], []
    for candidate in candidates:
        check()
        mask, filled = remove_small_regions(rle.decode(candidate.mask), area, mode="holes")
        mask, dropped = remove_small_regions(mask, area, mode="islands")
        if filled or dropped:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            candidate.mask = rle.encode(mask)
            candidate.box = [float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])]
        tidy.append(candidate)
        untouched.append(float(not (filled or dropped)))
    return _distinct(tidy, untouched, limit)


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
