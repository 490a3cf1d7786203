"""Conversation: a question is answered by a language model, and the answer is spoken."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from common.engines import DEFAULTS, EngineSpec, Kind, Lane, lookup
from common.errors import NightshiftError
from common.params.base import Input, Params, Previous, Request, Strict
from common.params.separation import AudioOutput
from common.params.transcription import TranscriptionParams
from common.params.tts import TtsParams, VoiceName, built_in

INSTRUCTIONS = (
    "You are in a spoken conversation. Answer in the language of the question, in a few plain sentences that sound "
    "right when they are read aloud: no lists, no headings, no symbols, no emoji."
)


class Speech(Strict):
    """How the answer is spoken; as in a job of the kind `tts`."""

    engine: str = Field(DEFAULTS[Kind.TTS], max_length=64)
    voice: VoiceName | None = Field(None, description="Id of one of your voices, or a voice of the engine")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    output: AudioOutput = AudioOutput()

    def params(self, text: str) -> TtsParams:
        return TtsParams(text=text, voice=self.voice, seed=self.seed, output=self.output)


class Hearing(TranscriptionParams):
    """How a spoken question is written down; as in a job of the kind `transcription`."""

    engine: str = Field(DEFAULTS[Kind.TRANSCRIPTION], max_length=64)


class ConversationParams(Params):
    text: Annotated[str, StringConstraints(min_length=1, max_length=20_000, strip_whitespace=True)] | None = Field(
        None, description="The question; or else `input`, a recording of it"
    )
    instructions: str = Field(INSTRUCTIONS, max_length=20_000, description="What the language model is told first")
    max_tokens: int = Field(512, ge=1, le=8192, description="Longest answer")
    temperature: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="How freely the model answers; empty: its own"
    )
    history_turns: int = Field(20, ge=0, le=200, description="How many earlier turns the model is told of")
    transcription: Hearing = Hearing()
    speech: Speech = Speech()


class ConversationRequest(Request):
    """Answers a question aloud. Its outputs are `question`, `answer`, `speech` and `conversation`."""

    kind: Literal["conversation"] = "conversation"
    engine: str = Field(DEFAULTS[Kind.CONVERSATION], max_length=64)
    input: Input | None = Field(None, description="The question, spoken; or else `params.text`")
    previous: Previous | None = Field(None, description="The turn of the conversation that this one follows")
    params: ConversationParams

    @model_validator(mode="after")
    def _one(self) -> ConversationRequest:
        if (self.params.text is None) == (self.input is None):
            raise ValueError("give the question either as params.text or as input")
        return self

    def voices(self) -> dict[str, str]:
        voice = self.params.speech.voice
        return {"/params/speech/voice": voice} if voice is not None and not built_in(voice) else {}

    def spec(self) -> EngineSpec:
        """The language model. Raises also what the other engines that take part refuse."""
        spec = super().spec()
        speech = self.params.speech
        try:
            speech.params("a").check(lookup(speech.engine, Kind.TTS))
        except NightshiftError as error:
            error.pointer = f"/params/speech{(error.pointer or '').removeprefix('/params')}"
            raise
        if self.input is not None:
            lookup(self.params.transcription.engine, Kind.TRANSCRIPTION, "/params/transcription/engine")
        return spec

    def lane(self) -> Lane:
        """Where all that take part can run."""
        names = [self.engine, self.params.speech.engine]
        if self.input is not None:
            names.append(self.params.transcription.engine)
        return Lane.GPU if any(lookup(name).lane is Lane.GPU for name in names) else Lane.CPU
