"""Pure: text as CSM reads it well, with nothing in it that the model or its tokenizer would take for a command."""

from __future__ import annotations

import re
from collections.abc import Sequence

# "10:30" is read as a ratio, "10 30" as a time; brackets are read as pauses at best, as a speaker's number at worst.
_TIME = re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b")
_ANGLES = str.maketrans(
    {"<": " ", ">": " ", "|": " ", "{": ", ", "}": ", ", "[": ", ", "]": ", ", "(": ", ", ")": ", "}
)
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "’": "'", "‘": "'", "…": "...", "—": ", "})
_COMMAS = re.compile(r"\s*,(?:\s*,)+")
_BEFORE_SIGN = re.compile(r"\s*,?\s+([.!?;:,])")


def readable(text: str, special: Sequence[str] = ()) -> str:
    """The text with typographic signs as plain ones.

    special: what the tokenizer takes for commands; none of them is left, nor any that would form where one was.
    """
    while found := [token for token in special if token and token in text]:
        for token in found:
            text = text.replace(token, " ")
    text = _TIME.sub(_spoken_time, text).translate(_ANGLES).translate(_QUOTES)
    text = _COMMAS.sub(",", " ".join(text.split()))
    text = _BEFORE_SIGN.sub(r"\1", text).strip(" ,")
    # What was taken out may have brought others together.
    return readable(text, special) if any(token and token in text for token in special) else text


def _spoken_time(match: re.Match[str]) -> str:
    hours, minutes = match[1].lstrip("0") or "0", match[2]
    if minutes == "00":
        return f"{hours} o'clock"
    return f"{hours} oh {minutes[1]}" if minutes[0] == "0" else f"{hours} {minutes}"
