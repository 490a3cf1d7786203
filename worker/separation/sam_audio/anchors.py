"""Time spans of a prompt as marks on latent frames. Pure: seconds in, marks out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import NightshiftError
from worker.separation.spans import outside

NULL, WANTED, UNWANTED, PAD = 0, 1, 2, 3
"""The marks the model knows: none, the sound is here (+), it is not (-), beyond the clip."""

_SIGNS = {"+": WANTED, "-": UNWANTED}

Span = tuple[str, float, float]
"""Sign, start, end; seconds of the whole file, the end exclusive."""


@dataclass(frozen=True)
class Anchor:
    """A mark on frames [start, stop) of the whole file."""

    mark: int
    start: int
    stop: int


def anchors(
    spans: Sequence[Span], rate: int = 48_000, hop: int = 1_920, seconds: float | None = None, pointer: str = "/spans"
) -> tuple[Anchor, ...]:
    """The spans as anchors, in their order: where they overlap, the later one holds.

    A frame is marked where its first sample lies in the span; a span with no such frame marks the one it lies in, since
    it would have no effect otherwise.  rate: Hz.  hop: samples of a frame.  seconds: the length of the file where it is
    known.  pointer: where the spans stand in the request.

    Raises `invalid_request` for a span before 0, that is empty or turned round, or not a number; `span_outside` for one
    after the end.
    """
    return tuple(_anchor(span, rate, hop, seconds, f"{pointer}/{index}") for index, span in enumerate(spans))


def marks(anchored: Sequence[Anchor], start: int, frames: int) -> np.ndarray:
    """The mark of each of `frames` frames from `start` on, int64 [frames]."""
    row = np.full(frames, NULL, np.int64)
    for anchor in anchored:
        row[max(anchor.start - start, 0) : max(anchor.stop - start, 0)] = anchor.mark
    return row


def _anchor(span: Span, rate: int, hop: int, seconds: float | None, pointer: str) -> Anchor:
    sign, start, end = span
    if sign not in _SIGNS:
        raise _refused(f"A span's sign is + or -, not {sign!r}.", pointer)
    if not (math.isfinite(start) and math.isfinite(end)):
        raise _refused("A span's start and end must be numbers.", pointer)
    if start < 0:
        raise _refused(f"The span from {start:g} s begins before the recording.", pointer)
    if end <= start:
        raise _refused(f"The span from {start:g} to {end:g} s must end after it starts.", pointer)
    if seconds is not None and start >= seconds:
        raise outside(start, seconds, pointer)
    first, stop = math.ceil(start * rate / hop), math.ceil(end * rate / hop)
    if first == stop:
        first = math.floor(start * rate / hop)
        stop = first + 1
    return Anchor(_SIGNS[sign], first, stop)


def _refused(detail: str, pointer: str) -> NightshiftError:
    return NightshiftError("invalid_request", detail, pointer=pointer)
