"""Pure: segments of a transcription, and how those of consecutive blocks become one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MARGIN = 5.0
"""Seconds before a block's end where what was heard may have been cut off."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech. start, end: seconds of the recording.  text: without space around it."""

    start: float
    end: float
    text: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Segment:
        return cls(float(value["start"]), float(value["end"]), str(value["text"]))


def tidy(heard: Sequence[Segment], start: float, end: float) -> list[Segment]:
    """The segments of a block that lies from `start` to `end` seconds: in order, apart, inside, with text."""
    kept: list[Segment] = []
    at = start
    for segment in sorted(heard, key=lambda segment: (segment.start, segment.end)):
        low, high = max(segment.start, at), min(segment.end, end)
        text = " ".join(segment.text.split())
        if text and high > low:
            kept.append(Segment(round(low, 3), round(high, 3), text))
            at = high
    return kept


def settle(heard: Sequence[Segment], end: float, *, last: bool) -> tuple[list[Segment], float]:
    """What of a block stands, and where the next block begins, seconds.

    heard: tidy.  end: of the block.  last: whether the recording ends there. A segment that ends within the margin may
    go on behind the block, and is heard again from its start; unless it is all there is, and nothing would be gained.
    """
    kept = [segment for segment in heard if last or segment.end <= end - MARGIN]
    if last or len(kept) == len(heard):
        return list(heard), end
    if not kept:
        return list(heard), end
    return kept, heard[len(kept)].start
