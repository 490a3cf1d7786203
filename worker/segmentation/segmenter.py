"""What a segmentation engine has to do, apart from files and jobs: masks of one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.params import Automatic, SegmentationPrompt
from worker.media.images import Picture

Check = Callable[[], None]
Tally = Counter[str]
"""Figures of a run, counted up by whoever does the work."""


@dataclass(frozen=True)
class Found:
    """A mask.

    mask: bool [height, width] of the picture.  predicted_iou: the model's own estimate of its quality, 0 to 1.
    stability_score: intersection over union of a stricter and a laxer version of it; None: not known.
    points: [x, y] each, that it was made from.  crop: [x, y, width, height] of what the model looked at; None: all.
    prompt: its place among the request's prompts.  rank: among the masks of one prompt.
    """

    mask: np.ndarray
    predicted_iou: float | None
    stability_score: float | None
    points: Sequence[tuple[float, float]] = ()
    crop: tuple[int, int, int, int] | None = None
    prompt: int | None = None
    rank: int = 0


Prompts = Sequence[tuple[int, SegmentationPrompt]]
"""Each with its place in the request; checked against the picture's size."""


class Segmenter(Protocol):
    """version: changes whenever the same picture would give other masks.

    Both ways give, in any order, masks and how much of the work is done, 0 to 1; and call `check` every few seconds.
    """

    name: str
    version: str

    def prompted(self, picture: Picture, prompts: Prompts, tally: Tally, check: Check) -> Iterator[Found | float]: ...

    def automatic(self, picture: Picture, wanted: Automatic, tally: Tally, check: Check) -> Iterator[Found | float]: ...

    def memory_bytes(self) -> int: ...

    def close(self) -> None: ...
