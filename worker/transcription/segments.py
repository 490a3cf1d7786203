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
        low, high = round(max(segment.start, at), 3), round(min(segment.end, end), 3)
        text = " ".join(segment.text.split())
        if text and high > low:
            kept.append(Segment(low, high, text))
            at = high
    return kept


def settle(heard: Sequence[Segment], start: float, end: float, *, last: bool) -> tuple[list[Segment], float]:
    """What of a block stands, and where the next block begins, seconds.

    heard: tidy.  start, end: of the block.  last: whether the recording ends there. A segment that ends within the
    margin may go on behind the block, and is heard again from its start; unless that would gain less than half a block.
    """
    kept = [segment for segment in heard if last or segment.end <= end - MARGIN]
    if len(kept) == len(heard) or heard[len(kept)].start < (start + end) / 2:
        return list(heard), end
    return kept, heard[len(kept)].start
