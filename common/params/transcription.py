"""Transcription: what is said in a recording, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.engines import DEFAULTS, Kind
from common.params.base import MediaRequest, Params


class TranscriptionParams(Params):
    language: str | None = Field(
        None,
        min_length=2,
        max_length=16,
        pattern=r"^[a-z]+$",
        description="Language spoken, as a code (`en`, `de`, `haw`); empty: what the engine hears at the beginning",
    )
    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="In the language spoken, or translated to English"
    )


class TranscriptionRequest(MediaRequest):
    """Writes down what is said in a recording. Its outputs are `transcript` (JSON), `text` and `captions` (WebVTT)."""

    kind: Literal["transcription"] = "transcription"
    engine: str = Field(DEFAULTS[Kind.TRANSCRIPTION], max_length=64)
    params: TranscriptionParams = TranscriptionParams()
