"""Pure: presets, named work in versions. Those built in are here; a key's own ones shadow them by name.

A request that names one is merged with it before anything else looks at it: what the request says itself wins, and
`preset` becomes `name@version`, so that a job tells for ever what it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
REFERENCE = rf"{NAME}(@[1-9][0-9]{{0,5}})?"


@dataclass(frozen=True)
class Preset:
    """work: any of the request's members kind, engine and params."""

    name: str
    version: int
    description: str
    work: Mapping[str, Any] = field(default_factory=dict)
    built_in: bool = False

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


BUILT_IN: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "podcast-voice",
            1,
            "The voices of a podcast without music and noise, on any machine",
            {
                "kind": "separation",
                "engine": "rnnoise",
                "params": {"prompts": ["speech"], "outputs": ["target"]},
            },
            built_in=True,
        ),
        Preset(
            "music-out",
            1,
            "A recording without its music; for a card",
            {
                "kind": "separation",
                "engine": "hdemucs",
                "params": {"prompts": ["music"], "outputs": ["residual"]},
            },
            built_in=True,
        ),
        Preset(
            "one-speaker",
            1,
            "One speaker of several, and the others; say which one in params.prompts; for a card, gated weights",
            {
                "kind": "separation",
                "engine": "sam-audio-base",
                "params": {"prompts": [{"description": "man speaking", "name": "speaker"}]},
            },
            built_in=True,
        ),
    )
}


def reference(text: str) -> tuple[str, int | None]:
    """Name and version of `name@3` or `name`. Raises ValueError."""
    if not re.fullmatch(REFERENCE, text):
        raise ValueError(f"{text!r} is not the name of a preset, with @ and its version or without")
    name, _, version = text.partition("@")
    return name, int(version) if version else None


def merged(preset: Preset, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request `body` with what it leaves to the preset."""
    given = {} if body.get("params") is None else body["params"]
    # What is no object is left for the request's own validation to refuse.
    params = {**preset.work.get("params", {}), **given} if isinstance(given, Mapping) else given
    own = {name: value for name, value in body.items() if value is not None}
    return {**preset.work, **own, "params": params, "preset": preset.reference}
