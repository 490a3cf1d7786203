"""The real espeak-ng in its child process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.errors import NightshiftError
from worker.media.espeak import Espeak, available

pytestmark = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")

SENTENCES = ("Hello there, my friend.", "The quick brown fox jumps over the lazy dog.")


@pytest.fixture
def espeak() -> Iterator[Espeak]:
    with Espeak() as made:
        yield made


class Stop(Exception):
    pass


def test_what_a_text_sounds_like_does_not_depend_on_what_was_said_before(espeak: Espeak) -> None:
    first = [espeak.speak(text)[0] for text in SENTENCES]
    other, _ = espeak.speak("Etwas ganz anderes!", "de+f3", 220)
    again = [espeak.speak(text)[0] for text in reversed(SENTENCES)][::-1]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.sqrt(np.mean(one**2)) > 0.01
    assert other.size and not np.array_equal(other[:1000], first[0][:1000])


def test_faster_speech_is_shorter(espeak: Espeak) -> None:
    slow, rate = espeak.speak(SENTENCES[1], words_per_minute=100)
    fast, _ = espeak.speak(SENTENCES[1], words_per_minute=300)
    assert rate == 22_050
    assert slow.size > 2 * fast.size


def test_a_check_that_raises_ends_the_child_and_the_next_text_is_spoken(espeak: Espeak) -> None:
    espeak.speak("Hello.")
    assert espeak._process is not None
    child = espeak._process.pid
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise Stop

    with pytest.raises(Stop):
        espeak.speak("An endless text. " * 20_000, check=check)
    assert not Path(f"/proc/{child}").exists()
    samples, _ = espeak.speak("Hello.")
    np.testing.assert_array_equal(samples, Espeak().speak("Hello.")[0])


def test_a_text_that_takes_too_long_is_given_up() -> None:
    with Espeak(timeout_seconds=0.2) as espeak, pytest.raises(NightshiftError, match=r"within 0\.2 s") as caught:
        espeak.speak("An endless text. " * 20_000)
    assert caught.value.code == "engine_failed"


def test_a_child_that_died_is_told_and_replaced(espeak: Espeak) -> None:
    espeak.speak("Hello.")
    assert espeak._process is not None
    os.kill(espeak._process.pid, signal.SIGKILL)
    espeak._process.wait()
    with pytest.raises(NightshiftError, match="status -9"):
        espeak.speak("Hello.")
    assert espeak.speak("Hello.")[0].size


def test_the_child_sees_no_secret(espeak: Espeak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_HF_TOKEN", "secret")
    espeak.speak("Hello.")
    assert espeak._process is not None
    assert b"secret" not in Path(f"/proc/{espeak._process.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    "text",
    ["", " ", "...", "\0\x01\x1b[31m", "a\0b", "<speak><break time='9s'/></speak>", "[[h@loU]]", "𝔘𝔫𝔦 🎧 漢字",
     "%s%n", "\n" * 999],
)  # fmt: skip
def test_any_text_is_taken(espeak: Espeak, text: str) -> None:
    samples, rate = espeak.speak(text)
    assert rate == 22_050 and samples.dtype == np.float32 and np.isfinite(samples).all()
    # A break of nine seconds would be markup that was obeyed.
    assert samples.size < 8 * rate
