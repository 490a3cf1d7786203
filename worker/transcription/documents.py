"""Pure: a transcription as JSON, as plain text and as WebVTT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.transcription.segments import Segment

# A pause this long, seconds, begins a paragraph of the plain text.
_PARAGRAPH_SECONDS = 2.0


def document(segments: Sequence[Segment], language: str | None, duration: float, origin: Mapping[str, Any]) -> Any:
    """`language`, as a code; `duration`; `text`; `segments`: start, end, text; `provenance`. Seconds."""
    return {
        "language": language,
        "duration": round(duration, 3),
        "text": " ".join(segment.text for segment in segments),
        "segments": [segment.as_dict() for segment in segments],
        "provenance": dict(origin),
    }


def text(segments: Sequence[Segment]) -> str:
    """A paragraph between long pauses."""
    written, ended = "", None
    for segment in segments:
        if ended is not None:
            written += "\n\n" if segment.start - ended >= _PARAGRAPH_SECONDS else " "
        written += segment.text
        ended = segment.end
    return written + "\n" if written else ""


def webvtt(segments: Sequence[Segment]) -> str:
    """A cue a segment, after https://www.w3.org/TR/webvtt1/."""
    cues = [
        f"{number}\n{_clock(round(1000 * s.start))} --> {_clock(max(round(1000 * s.end), round(1000 * s.start) + 1))}\n"
        + s.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for number, s in enumerate(segments, start=1)
    ]
    return "\n\n".join(("WEBVTT", *cues)) + "\n"


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{rest:03d}"
