"""Segment Anything with random weights: what automatic masks of a large picture take, and what kept embeddings and
batches of prompts save against `SamPredictor` called in a loop.

On a card where there is one, with the largest network there; else on the processor with the smallest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.apart import apart, own_peak_mb
from bench.figures import Figure, Goal, figure, in_turns
from bench.place import Missing
from bench.scale import Scale
from common.params import Automatic, SegmentationPrompt

LIMIT_MB = 4000.0
PROMPTS = 16


def run(scale: Scale) -> Iterator[Figure]:
    try:
        import torch
        from segment_anything import sam_model_registry  # noqa: F401
    except ImportError as error:
        raise Missing(f"{error.name} is not installed") from error
    size, width, height = scale.pick(quick=("tiny", 640, 480), normal=("vit_b", 6000, 4000))
    took, peak, found = apart(automatic, size, width, height)
    yield figure(
        "segmentation-memory", f"peak memory of automatic masks, {width * height / 1e6:.3g} megapixels, {size}",
        f"{LIMIT_MB:g} MB", [peak / LIMIT_MB], Goal("<=", 1.0),
        {"peak_mb": peak, "seconds": took, "masks": float(found)},
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if size != "tiny" and device == "cuda":
        size = "vit_h"
    # On a processor an encoding takes most of a minute.
    yield from _against_the_package(size, device, 5 if device == "cuda" else 1)


def automatic(size: str, width: int, height: int) -> tuple[float, float, int]:
    """Seconds, peak of the process in MB and masks, on the processor. Nothing is sorted out before it is enlarged and
    little of it after: the worst case."""
    segmenter, _ = _networks(size, "cpu")
    wanted = Automatic(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=0.95)
    began = time.monotonic()
    events = segmenter.automatic(_picture(width, height), wanted, Counter(), lambda: None)
    found = sum(not isinstance(event, float) for event in events)
    return time.monotonic() - began, own_peak_mb(), found


def _against_the_package(size: str, device: str, repetitions: int) -> Iterator[Figure]:
    from segment_anything import SamPredictor

    segmenter, network = _networks(size, device)
    predictor = SamPredictor(network)
    pictures = [_picture(1200, 900, seed) for seed in range(repetitions + 1)]
    random = np.random.default_rng(0)
    corners = random.integers(0, 400, (PROMPTS, 2))
    boxes = np.concatenate([corners, corners + random.integers(50, 400, (PROMPTS, 2))], axis=1)
    prompts = [(i, SegmentationPrompt(box=tuple(box))) for i, box in enumerate(boxes.tolist())]

    def ours(picture: Any) -> float:
        began = time.monotonic()
        for _ in segmenter.prompted(picture, prompts, Counter(), lambda: None):
            pass
        return time.monotonic() - began

    def loop(picture: Any, *, encode: bool) -> float:
        began = time.monotonic()
        if encode:
            predictor.set_image(picture.pixels)
        for box in boxes:
            predictor.predict(box=box, multimask_output=False)
        return time.monotonic() - began

    # The first picture warms up; the last that both have seen stays.
    for picture in pictures[:1]:
        ours(picture)
        loop(picture, encode=True)
    fresh = iter(pictures[1:])
    pairs = []
    for picture in fresh:
        pairs.append((ours(picture), loop(picture, encode=True)))
    yield figure(
        "segmentation-once", f"masks per second, {PROMPTS} boxes on a picture seen first ({size}, {device})",
        "SamPredictor, encoding once and predicting in a loop", [theirs / own for own, theirs in pairs], None,
        {"masks_per_second": PROMPTS * len(pairs) / sum(own for own, _ in pairs)},
    )  # fmt: skip
    last = pictures[-1]
    pairs = in_turns(lambda: ours(last), lambda: loop(last, encode=True), repetitions)
    yield figure(
        "segmentation-kept", f"masks per second, {PROMPTS} boxes on a picture seen before ({size}, {device})",
        "SamPredictor, which encodes it again", [theirs / own for own, theirs in pairs], Goal(">=", 2.0),
        {"masks_per_second": PROMPTS * len(pairs) / sum(own for own, _ in pairs)},
    )  # fmt: skip
    pairs = in_turns(lambda: ours(last), lambda: loop(last, encode=False), repetitions)
    yield figure(
        "segmentation-batch", f"masks per second, {PROMPTS} boxes together on a kept embedding ({size}, {device})",
        "SamPredictor's predict in a loop on its embedding", [theirs / own for own, theirs in pairs], None,
        {"masks_per_second": PROMPTS * len(pairs) / sum(own for own, _ in pairs)},
    )  # fmt: skip


def _networks(size: str, device: str) -> tuple[Any, Any]:
    """Our segmenter, and the package's network of the same random weights, there."""
    import copy

    import torch
    from segment_anything import sam_model_registry

    from tests.sam import network, weights
    from worker.segmentation.sam.attention import bound
    from worker.segmentation.sam.engine import SegmentAnything

    torch.manual_seed(0)
    if size == "tiny":
        theirs = network()
        theirs.load_state_dict(weights())
    else:
        theirs = sam_model_registry[size]()
    theirs = theirs.eval().requires_grad_(False).to(device)
    own = copy.deepcopy(theirs)
    bound(own)
    return SegmentAnything(size, own, torch.device(device), "bench"), theirs


def _picture(width: int, height: int, seed: int = 0) -> Any:
    from worker.media.images import Picture

    return Picture(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8), "png")
