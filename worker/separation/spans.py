"""Time spans of prompts against the length of the recording, once that is known. Pure but for `length`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import NightshiftError
from common.params import Prompt, SeparationParams
from worker.engine import Limits
from worker.media.decode import AudioReader


@dataclass(frozen=True)
class Beyond:
    """A span that reaches beyond a recording's end.  pointer: to it, in the request."""

    prompt: Prompt
    start: float
    end: float
    pointer: str


def beyond(params: SeparationParams, seconds: float) -> Iterator[Beyond]:
    """The spans that end after `seconds`, in the request's order."""
    for i, prompt in enumerate(params.prompts):
        for j, (_, start, end) in enumerate(prompt.spans):
            if end > seconds:
                yield Beyond(prompt, start, end, f"/params/prompts/{i}/spans/{j}")


def clamped(params: SeparationParams, seconds: float) -> list[str]:
    """Sentences on the spans that are cut off at the end, at `seconds`. Raises `span_outside` where nothing is left."""
    found = list(beyond(params, seconds))
    for span in found:
        if span.start >= seconds:
            raise outside(span.start, seconds, span.pointer)
    return [
        f"The span of {span.prompt.name!r} from {span.start:g} to {span.end:g} s counts as ending with the recording, "
        f"at {seconds:.3f} s."
        for span in found
    ]


def outside(start: float, seconds: float, pointer: str) -> NightshiftError:
    return NightshiftError(
        "span_outside",
        f"The span from {start:g} s begins after the recording's end at {seconds:.3f} s.",
        hint="Give spans in seconds of the whole recording, or leave this one out.",
        pointer=pointer,
        extra={"duration_seconds": round(seconds, 6)},
    )


def length(path: Path, limits: Limits, check: Callable[[], None]) -> float:
    """Seconds of a recording, counted by decoding it: what files say of themselves is not always so."""
    with AudioReader(path, limits) as reader:
        for _ in reader:
            check()
        return reader.samples_read / reader.info.sample_rate
