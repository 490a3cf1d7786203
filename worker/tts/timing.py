"""Pure: who speaks what when, as JSON for programs and as WebVTT for players."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from worker.tts.script import Piece, Script


@dataclass(frozen=True)
class Spoken:
    """A piece and where it lies, seconds of the whole."""

    piece: Piece
    start: float
    end: float


def document(script: Script, spoken: Sequence[Spoken], duration: float) -> dict[str, Any]:
    """`duration`; `speakers`: name, voice, cloned; `turns`: index, speaker, start, end, text, and its `pieces` with
    start, end and text. Seconds."""
    turns: list[dict[str, Any]] = []
    for one in spoken:
        if not turns or turns[-1]["index"] != one.piece.turn:
            turns.append({"index": one.piece.turn, "speaker": one.piece.speaker, "start": _seconds(one.start)})
            turns[-1] |= {"end": 0.0, "text": "", "pieces": []}
        turn = turns[-1]
        turn["end"] = _seconds(one.end)
        turn["text"] = f"{turn['text']} {one.piece.text}".strip()
        turn["pieces"].append({"start": _seconds(one.start), "end": _seconds(one.end), "text": one.piece.text})
    speakers = [{"name": s.name, "voice": s.voice, "cloned": s.cloned} for s in script.speakers]
    return {"duration": _seconds(duration), "speakers": speakers, "turns": turns}


def webvtt(script: Script, spoken: Sequence[Spoken]) -> str:
    """A cue a piece, after https://www.w3.org/TR/webvtt1/; with the speaker's name where there are several."""
    return "\n\n".join(("WEBVTT", *_cues(script, spoken))) + "\n"


def _cues(script: Script, spoken: Sequence[Spoken]) -> Iterator[str]:
    for number, one in enumerate(spoken, start=1):
        # A cue must end after it starts, also where it is shorter than a millisecond.
        start, end = round(1000 * one.start), max(round(1000 * one.end), round(1000 * one.start) + 1)
        name = script.speakers[one.piece.speaker].name
        said = _escaped(one.piece.text)
        yield f"{number}\n{_clock(start)} --> {_clock(end)}\n" + (f"<v {_escaped(name)}>{said}</v>" if name else said)


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{rest:03d}"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _seconds(value: float) -> float:
    return round(value, 3)
