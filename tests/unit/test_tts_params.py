"""Requests for speech: what is taken, what is refused, and what that says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common import espeak as names
from common.errors import NightshiftError
from common.params import TtsParams, TtsRequest, parse_request
from common.params.tts import LONGEST_TEXT

VOICE = "voi_01M7WNVGXTQCY39AZ0WQ47XNR7"


def request(engine: str | None = None, **params: Any) -> TtsRequest:
    body = {"kind": "tts", "params": params} | ({"engine": engine} if engine else {})
    made = parse_request(body)
    assert isinstance(made, TtsRequest)
    return made


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"text": ""},
        {"text": "…!? — \n"},
        {"text": "🎧"},
        {"text": "a" * (LONGEST_TEXT + 1)},
        {"text": "a", "script": [{"text": "b"}]},
        {"script": []},
        {"script": [{"text": "."}]},
        {"script": [{"text": "a" * 150_000}, {"text": "b" * 150_000}]},
        {"script": [{"text": "a", "speaker": "\u200b"}]},
        {"script": [{"text": "a", "speaker": "A", "voice": "csm:1"}, {"text": "b", "speaker": "A", "voice": "csm:2"}]},
        {"script": [{"text": "a", "speaker": f"S{i}"} for i in range(17)]},
        {"text": "a", "voice": "../../etc/passwd"},
        {"text": "a", "voice": ""},
        {"text": "a", "temperature": float("nan")},
        {"text": "a", "temperature": -1},
        {"text": "a", "loudness_lufs": 0},
        {"text": "a", "sample_rate": 12_345},
        {"text": "a", "speed": 9},
        {"text": "a", "pauses": {"turn": 1e9}},
        {"text": "a", "markup": "ssml"},
    ],
)
def test_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request(**params)


@pytest.mark.parametrize(
    ("engine", "params", "code", "pointer", "hint"),
    [
        (None, {"voice": VOICE}, "engine_unsupported", "/params/voice", "csm-1b"),
        (None, {"voice": "csm:1"}, "engine_unsupported", "/params/voice", "csm-1b"),
        ("csm-1b", {"voice": "espeak:de"}, "engine_unsupported", "/params/voice", "espeak"),
        (None, {"voice": "espeak:klingon"}, "voice_missing", "/params/voice", "/v1/engines/espeak"),
        (None, {"voice": "espeak:de+nobody"}, "voice_missing", "/params/voice", "/v1/engines/espeak"),
        ("csm-1b", {"voice": "csm:1+f3"}, "voice_missing", "/params/voice", "csm:0"),
        (None, {"temperature": 0.5}, "engine_unsupported", "/params/temperature", "csm-1b"),
        ("csm-1b", {"speed": 1.5}, "engine_unsupported", "/params/speed", "espeak"),
        (None, {"context_turns": 2}, "engine_unsupported", "/params/context_turns", "csm-1b"),
    ],
)
def test_what_an_engine_cannot_do_names_those_that_can(
    engine: str | None, params: dict[str, Any], code: str, pointer: str, hint: str
) -> None:
    with pytest.raises(NightshiftError) as refused:
        request(engine, text="Hello.", **params).spec()
    assert (refused.value.code, refused.value.pointer) == (code, pointer)
    assert hint in refused.value.hint


def test_the_turn_is_pointed_at() -> None:
    with pytest.raises(NightshiftError) as refused:
        request(script=[{"text": "a"}, {"text": "b", "voice": "espeak:xx"}]).spec()
    assert refused.value.pointer == "/params/script/1/voice"


def test_a_caller_s_voices_are_named_and_an_engine_s_are_not() -> None:
    made = request("csm-1b", voice=VOICE, script=[{"text": "a"}, {"text": "b", "voice": "csm:3"}])
    assert made.voices() == {"/params/voice": VOICE}
    assert made.spec().name == "csm-1b"
    assert made.sources() == {}


def test_a_speaker_keeps_the_voice_it_was_given_once() -> None:
    turns = TtsParams.model_validate(
        {
            "voice": "espeak:en-us",
            "script": [
                {"text": "a", "speaker": "Anna"},
                {"text": "b", "voice": "espeak:de"},
                {"text": "c", "speaker": " Anna\n", "voice": "espeak:fr"},
                {"text": "d"},
                {"text": "e", "voice": "espeak:de"},
            ],
        }
    ).turns()
    assert [(turn.speaker, turn.voice) for turn in turns] == [
        (0, "espeak:fr"), (1, "espeak:de"), (0, "espeak:fr"), (2, "espeak:en-us"), (1, "espeak:de"),
    ]  # fmt: skip
    assert [turn.name for turn in turns] == ["Anna", "Speaker 2", "Anna", "Speaker 3", "Speaker 2"]


def test_espeak_brings_the_voices_it_is_said_to_bring() -> None:
    from worker.media.espeak import Espeak, available

    if not available():
        pytest.skip("espeakng-loader is not installed")
    text = {"cmn": "你好", "hak": "你好", "yue": "你好", "ja": "こんにちは", "ko": "안녕하세요"}
    with Espeak() as espeak:
        for language in names.LANGUAGES:
            assert espeak.speak(text.get(language, "one 2 3"), language)[0].size, language
        sounds = {variant: espeak.speak("Hello.", f"en-us+{variant}")[0] for variant in names.VARIANTS}
        plain, _ = espeak.speak("Hello.")
    for variant, sound in sounds.items():
        assert sound.size != plain.size or (sound != plain).any(), f"{variant} changes nothing"
