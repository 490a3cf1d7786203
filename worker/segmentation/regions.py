"""Regions of like colour: the picture smoothed by mean shift, and what then hangs together.

D. Comaniciu, P. Meer, "Mean Shift: A Robust Approach toward Feature Space Analysis", 2002: filter, join neighbours that
are alike, and give what is too small to the neighbour that it resembles most. Regions are no objects: a thing of two
colours is two of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from worker.segmentation.segmenter import Check


@dataclass(frozen=True)
class Scales:
    """spatial: pixels; colour: of 255, the reach of the mean shift.  joins: neighbours that differ by less are one.
    share: of the picture that a region has at least."""

    spatial: float = 9
    colour: float = 14
    joins: float = 7
    share: float = 0.002

    def smallest(self, shape: tuple[int, ...]) -> int:
        return max(1, round(self.share * shape[0] * shape[1]))


SCALES = Scales()
_STRICTER, _LAXER = 0.75, 1.25


@dataclass(frozen=True)
class Region:
    """mask: bool [h, w].  point: [x, y], deep inside.  stability: of the part that holds the point, its size where
    neighbours must be a quarter more alike over its size where a quarter less will do, as segment-anything compares a
    mask at two thresholds."""

    mask: np.ndarray
    point: tuple[int, int]
    stability: float


def regions(image: np.ndarray, smallest: int, check: Check, scales: Scales = SCALES) -> list[Region]:
    """The regions of uint8 [h, w, 3], the largest first. They cover the picture and do not overlap."""
    smooth = cv2.pyrMeanShiftFiltering(image, scales.spatial, scales.colour, maxLevel=1)
    check()
    colours = cv2.cvtColor(smooth, cv2.COLOR_BGR2LAB).astype(np.float32)
    labels = _merged(_joined(colours, scales.joins), colours, smallest, check)
    check()
    strict = _joined(colours, scales.joins * _STRICTER)
    lax = _joined(colours, scales.joins * _LAXER)
    strict_sizes, lax_sizes = np.bincount(strict.ravel()), np.bincount(lax.ravel())
    found = []
    for label in np.argsort(-np.bincount(labels.ravel()), kind="stable"):
        check()
        mask = labels == label
        x, y = _deepest(mask)
        found.append(Region(mask, (x, y), float(strict_sizes[strict[y, x]] / lax_sizes[lax[y, x]])))
    return found


def _joined(colours: np.ndarray, limit: float) -> np.ndarray:
    """int [h, w]: numbers of what hangs together over steps smaller than `limit`."""
    height, width = colours.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    rows = np.linalg.norm(np.diff(colours, axis=0), axis=-1) < limit
    columns = np.linalg.norm(np.diff(colours, axis=1), axis=-1) < limit
    one = np.concatenate([number[:-1][rows], number[:, :-1][columns]])
    other = np.concatenate([number[1:][rows], number[:, 1:][columns]])
    return _components(one, other, height * width).reshape(height, width)


def _components(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    graph = sparse.coo_array((np.ones(one.size, np.int8), (one, other)), shape=(count, count))
    labels: np.ndarray = csgraph.connected_components(graph.tocsr(), directed=False)[1]
    return labels


def _merged(labels: np.ndarray, colours: np.ndarray, smallest: int, check: Check) -> np.ndarray:
    """What is smaller than `smallest` goes to the neighbour whose mean colour is nearest, until nothing is."""
    while True:
        check()
        sizes = np.bincount(labels.ravel())
        small = sizes < smallest
        if not small.any() or sizes.size == 1:
            return labels
        sums = np.stack([np.bincount(labels.ravel(), colours[..., i].ravel()) for i in range(3)], axis=1)
        means = sums / sizes[:, None]
        one, other = _neighbours(labels)
        from_small = small[one]
        one, other = one[from_small], other[from_small]
        apart = np.linalg.norm(means[one] - means[other], axis=1)
        order = np.lexsort((other, apart, one))
        first = np.unique(one[order], return_index=True)[1]
        chosen = order[first]
        joined = _components(one[chosen], other[chosen], sizes.size)
        labels = joined[labels]


def _neighbours(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of labels that touch, each both ways round."""
    pairs = np.concatenate(
        [
            np.stack([labels[:-1].ravel(), labels[1:].ravel()], axis=1),
            np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], axis=1),
        ]
    )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _deepest(mask: np.ndarray) -> tuple[int, int]:
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)
