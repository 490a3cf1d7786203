"""Text-to-speech: a text in a voice, or a script of several speakers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from common import espeak
from common.engines import DEFAULTS, REGISTRY, EngineSpec, Kind, featuring
from common.errors import NightshiftError
from common.params.base import Input, Params, Request, Strict
from common.params.separation import AudioOutput

LONGEST_TEXT = 200_000
"""Characters of a job in all: about four hours of speech."""
MOST_TURNS = 2_000
MOST_SPEAKERS = 16


def _speakable(text: str) -> str:
    if not any(character.isalnum() for character in text):
        raise ValueError("there is nothing to speak: the text has no letter and no digit")
    return text


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not line:
        raise ValueError("a speaker's name needs a visible character")
    return line


Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_speakable)]
Speaker = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_one_line)]
VoiceName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")]
Pause = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class Turn(Strict):
    """What one speaker says. Without `speaker`, whoever has the same voice is the same speaker."""

    text: Text
    speaker: Speaker | None = Field(None, description="Who speaks; a name for people")
    voice: VoiceName | None = Field(None, description="As `voice` of the job; a speaker keeps the one given first")


class Pauses(Strict):
    """Silence between what is spoken, seconds."""

    sentence: Pause = Field(0.15, description="Between pieces of a paragraph, each one or a few sentences")
    paragraph: Pause = Field(0.6, description="Where a blank line stands")
    turn: Pause = Field(0.4, description="Between turns of a script")


@dataclass(frozen=True)
class SpokenTurn:
    """A turn with its speaker found out. name: for people; voice: None for the engine's own choice."""

    text: str
    speaker: int
    name: str
    voice: str | None


class TtsParams(Params):
    text: Text | None = Field(None, description="Plain text: markup is read as it stands")
    script: tuple[Turn, ...] | None = Field(
        None, min_length=1, max_length=MOST_TURNS, description="In place of `text`: turns of several speakers"
    )
    voice: VoiceName | None = Field(
        None,
        description="Id of one of your voices, or a voice of the engine, `espeak:de` or `csm:1` (see its `voices`); "
        "empty: the engine's own",
    )
    context_turns: int | None = Field(
        None, ge=0, le=8, description="How many earlier turns the engine hears before each; empty: what suits it"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1)
    temperature: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="How freely the engine draws; 0: not at all; empty: its own"
    )
    speed: float | None = Field(None, ge=0.5, le=2, allow_inf_nan=False, description="Of speech, relative to the usual")
    pauses: Pauses = Pauses()
    output: AudioOutput = AudioOutput()
    sample_rate: Literal[8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000] = Field(24_000, description="Hz")
    loudness_lufs: float | None = Field(
        -19.0,
        ge=-40,
        le=-9,
        allow_inf_nan=False,
        description="Integrated loudness of the whole; one channel at -19 sounds as loud as two at -16, what podcasts "
        "have; null: as the engine gives it",
    )

    @field_validator("script")
    @classmethod
    def _consistent(cls, script: tuple[Turn, ...] | None) -> tuple[Turn, ...] | None:
        if script is None:
            return None
        length = sum(len(turn.text) for turn in script)
        if length > LONGEST_TEXT:
            raise ValueError(f"the turns have {length} characters together; at most {LONGEST_TEXT} are allowed")
        voices: dict[str, str] = {}
        for turn in script:
            if turn.speaker is not None and turn.voice is not None:
                known = voices.setdefault(turn.speaker, turn.voice)
                if known != turn.voice:
                    raise ValueError(f"the speaker {turn.speaker!r} has two voices: {known} and {turn.voice}")
        speakers = {turn.speaker or turn.voice or "" for turn in script}
        if len(speakers) > MOST_SPEAKERS:
            raise ValueError(f"there are {len(speakers)} speakers; at most {MOST_SPEAKERS} are allowed")
        return script

    @model_validator(mode="after")
    def _one(self) -> TtsParams:
        if self.text is not None and self.script is not None:
            raise ValueError("give either text or script")
        return self

    def turns(self) -> tuple[SpokenTurn, ...]:
        """The turns, one where there is a text; speakers are numbered from 0 in the order they appear."""
        if self.script is None:
            return (SpokenTurn(self.text or "", 0, "", self.voice),)
        own = {turn.speaker: turn.voice for turn in reversed(self.script) if turn.speaker and turn.voice}
        numbers: dict[str, int] = {}
        found = []
        for turn in self.script:
            voice = (own.get(turn.speaker) if turn.speaker else turn.voice) or self.voice
            # A name and a voice that read alike are still two speakers.
            key = f"name {turn.speaker}" if turn.speaker else f"voice {voice or ''}"
            number = numbers.setdefault(key, len(numbers))
            found.append(SpokenTurn(turn.text, number, turn.speaker or f"Speaker {number + 1}", voice))
        return tuple(found)

    def named_voices(self) -> Iterator[tuple[str, str]]:
        """The voices as the request names them, each with the JSON pointer to it."""
        if self.voice is not None:
            yield "/params/voice", self.voice
        for i, turn in enumerate(self.script or ()):
            if turn.voice is not None:
                yield f"/params/script/{i}/voice", turn.voice

    def check(self, spec: EngineSpec) -> None:
        """Raises `engine_unsupported` for what the engine cannot do, naming the engines that can, and `voice_missing`
        for a voice that no engine brings."""
        for pointer, voice in self.named_voices():
            if not built_in(voice):
                _require(spec, "cloning", "speak in a recorded voice", pointer)
            elif not _brings(spec, voice):
                raise _not_there(spec, voice, pointer)
        if self.temperature is not None:
            _require(spec, "temperature", "draw with a temperature", "/params/temperature")
        if self.speed is not None:
            _require(spec, "speed", "speak faster or slower", "/params/speed")
        if self.context_turns:
            _require(spec, "context", "hear earlier turns", "/params/context_turns")


def built_in(voice: str) -> bool:
    """Whether the name is that of a voice an engine brings, not the id of a caller's own."""
    return ":" in voice


def _brings(spec: EngineSpec, voice: str) -> bool:
    base, plus, variant = voice.partition("+")
    return base in spec.voices and (not plus or ("variants" in spec.features and variant in espeak.VARIANTS))


def _require(spec: EngineSpec, feature: str, what: str, pointer: str) -> None:
    if feature not in spec.features:
        names = featuring(Kind.TTS, feature)
        raise NightshiftError(
            "engine_unsupported",
            f"The engine {spec.name} cannot {what}.",
            hint=f"Use one of: {', '.join(names)}." if names else "No engine of this service can.",
            pointer=pointer,
        )


def _not_there(spec: EngineSpec, voice: str, pointer: str) -> NightshiftError:
    others = sorted(s.name for s in REGISTRY.values() if s.kind is Kind.TTS and _brings(s, voice))
    if others:
        return NightshiftError(
            "engine_unsupported",
            f"The engine {spec.name} does not bring the voice {voice}.",
            hint=f"It belongs to {', '.join(others)}; say so in `engine`.",
            pointer=pointer,
        )
    return NightshiftError(
        "voice_missing",
        f"There is no voice {voice}.",
        hint=f"GET /v1/engines/{spec.name} lists those it brings"
        + (f", {spec.voices[0]} for instance." if spec.voices else ": none."),
        pointer=pointer,
    )


class TtsRequest(Request):
    """Speaks a text, or a script of several speakers."""

    kind: Literal["tts"] = "tts"
    engine: str = Field(DEFAULTS[Kind.TTS], max_length=64)
    input: Input | None = Field(
        None, description="In place of `params.text`: a file of plain text, UTF-8; another job's `text` for instance"
    )
    params: TtsParams = TtsParams()

    @model_validator(mode="after")
    def _one(self) -> TtsRequest:
        if [self.input, self.params.text, self.params.script].count(None) != 2:
            raise ValueError("give either params.text or params.script or input")
        return self

    def voices(self) -> dict[str, str]:
        """The caller's own voices that it names."""
        return {pointer: voice for pointer, voice in self.params.named_voices() if not built_in(voice)}
