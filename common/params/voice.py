"""The preparation of a voice: the service submits it for whoever makes a voice; it cannot be submitted as a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from common.engines import DEFAULTS, Kind
from common.params.base import Input, Params, Request

Transcript = Annotated[str, StringConstraints(min_length=1, max_length=10_000, strip_whitespace=True)]


class VoiceParams(Params):
    voice: str = Field(max_length=64, description="Id of the voice")
    transcript: Transcript | None = Field(None, description="The exact words of the whole recording")


class VoiceRequest(Request):
    """Makes of a recording what models need to speak in its voice.

    inputs: the recording; with a second, the transcript of it that a transcription job made.
    """

    kind: Literal["voice"] = "voice"
    engine: str = Field(DEFAULTS[Kind.VOICE], max_length=64)
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=2)
    params: VoiceParams
