"""Masks by points, boxes and rough masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from common.params import SegmentationPrompt
from worker.segmentation import rle
from worker.segmentation.sam.predictor import Predictor, View, stability
from worker.segmentation.segmenter import Check, Found, Prompts, Tally

STABILITY_OFFSET = 1.0
"""Of the logits, as in segment-anything's automatic masks."""


def found(predictor: Predictor, view: View, prompts: Prompts, tally: Tally, check: Check) -> Iterator[Found]:
    """Prompts of one form are decoded together: filling others up to it would change their masks."""
    forms: dict[tuple[int, bool, bool, bool], list[tuple[int, SegmentationPrompt]]] = {}
    for place, prompt in prompts:
        form = (len(prompt.points), prompt.box is not None, prompt.mask is not None, prompt.multimask)
        forms.setdefault(form, []).append((place, prompt))
    for alike in forms.values():
        yield from _of_one_form(predictor, view, alike, tally, check)


def _of_one_form(
    predictor: Predictor, view: View, alike: Sequence[tuple[int, SegmentationPrompt]], tally: Tally, check: Check
) -> Iterator[Found]:
    one = alike[0][1]
    decoded = predictor.decode(
        view,
        check,
        tally,
        points=np.array([prompt.points for _, prompt in alike]) if one.points else None,
        labels=predictor.tensor([prompt.labels for _, prompt in alike], torch.int) if one.points else None,
        boxes=np.array([prompt.box for _, prompt in alike]) if one.box else None,
        masks=torch.stack([predictor.mask_logits(view, rle.given(p.mask)) for _, p in alike if p.mask])
        if one.mask
        else None,
        multimask=one.multimask,
    )
    waiting = iter(alike)
    for part in decoded:
        for logits, scores in zip(part.logits, part.scores, strict=True):
            place, prompt = next(waiting)
            for rank in range(logits.shape[0]):
                check()
                # One at a time at the picture's size: a hundred of a large picture would not fit.
                large = predictor.enlarge(view, logits[rank : rank + 1])
                score = float(stability(large, STABILITY_OFFSET)[0])
                mask = (large[0] > predictor.network.mask_threshold).cpu().numpy()
                del large
                yield Found(
                    mask,
                    float(scores[rank]),
                    None if math.isnan(score) else score,
                    prompt.points,
                    prompt=place,
                    rank=rank,
                )
