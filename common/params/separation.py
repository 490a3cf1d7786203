"""Separation: sounds out of a recording."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from common.engines import DEFAULTS, EngineSpec, Kind, able
from common.errors import NightshiftError
from common.params.base import Description, MediaRequest, Name, Params, Strict, slug


def _ordered(span: tuple[str, float, float]) -> tuple[str, float, float]:
    if not span[1] < span[2]:
        raise ValueError("a span must end after it starts")
    return span


Second = Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False)]
Span = Annotated[tuple[Literal["+", "-"], Second, Second], AfterValidator(_ordered)]


def _no_default(schema: JsonDict) -> None:
    schema.pop("default", None)


class Prompt(Strict):
    """One sound to separate. A bare string is its description."""

    description: Description = Field(description="What to separate, as a lowercase noun or verb phrase")
    name: Name = Field(
        "",
        validate_default=False,
        description="Name of the stem; left out: made from the description",
        # The default is not a name that could be sent.
        json_schema_extra=_no_default,
    )
    spans: tuple[Span, ...] = Field(
        (), max_length=256, description="Where it is (+) and is not (-): [sign, start, end], seconds of the whole file"
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 500}, handler(schema)]}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"description": value}
        if isinstance(value, dict) and not value.get("name") and isinstance(value.get("description"), str):
            value = {**value, "name": slug(value["description"])}
        return value


class AudioOutput(Strict):
    """How audio is written."""

    format: Literal["flac", "wav", "mp3", "opus"] = "flac"
    bitrate_kbps: int | None = Field(None, ge=16, le=512, description="For mp3 and opus; empty: 192 and 128")


class SeparationParams(Params):
    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=16)
    outputs: tuple[Literal["target", "residual"], ...] = Field(("target", "residual"), min_length=1)
    channels: Literal["preserve", "mono"] = "preserve"
    quality: Literal["reference", "standard", "draft"] = "standard"
    windows: Literal["shared", "independent"] = Field(
        "shared",
        description="How a model that hears a long recording in windows joins them. shared: they advance together, "
        "averaged at every step (MultiDiffusion); independent: each to its end by itself, and then averaged",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1)
    output: AudioOutput = AudioOutput()

    @field_validator("prompts")
    @classmethod
    def _distinct(cls, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        names = [prompt.name for prompt in prompts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two prompts are named {name!r}: give each a name of its own")
            if name == "residual" or name.startswith("residual-"):
                raise ValueError("the name residual is taken: give the prompt another name")
        return prompts

    def residual_name(self, prompt: Prompt) -> str:
        """`residual` where there is one prompt, `residual-<name>` where there are several."""
        return "residual" if len(self.prompts) == 1 else f"residual-{prompt.name}"

    def check(self, spec: EngineSpec) -> None:
        """Raises `engine_unsupported` for what the engine cannot do, naming the engines that can."""
        for i, prompt in enumerate(self.prompts):
            spans = bool(prompt.spans)
            known = spec.vocabulary is None or prompt.description.lower() in spec.vocabulary
            if known and (spec.spans or not spans):
                continue
            names = able(Kind.SEPARATION, prompt.description, spans=spans)
            what = f"separate {prompt.description!r}" if not known else "use time spans"
            words = sorted(set(spec.vocabulary.values())) if spec.vocabulary else []
            raise NightshiftError(
                "engine_unsupported",
                f"The engine {spec.name} cannot {what}."
                + (f" It separates: {', '.join(words)}." if words and not known else ""),
                hint=f"Use one of: {', '.join(names)}." if names else "No engine of this service can.",
                pointer=f"/params/prompts/{i}/" + ("description" if not known else "spans"),
            )


class SeparationRequest(MediaRequest):
    """Separates sounds out of a recording."""

    kind: Literal["separation"] = "separation"
    engine: str = Field(DEFAULTS[Kind.SEPARATION], max_length=64)
    params: SeparationParams
