from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import NightshiftError
from tests import media
from worker.media import espeak as espeak_module
from worker.media.measure import si_sdr
from worker.media.speech import speech
from worker.media.synthesis import demo_mix, music, pink_noise

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


def test_music_is_the_same_for_the_same_seed() -> None:
    first = music(6.0, seed=3)
    np.testing.assert_array_equal(first, music(6.0, seed=3))
    assert not np.array_equal(first, music(6.0, seed=4))
    assert first.shape == (2, 288_000)
    assert np.sqrt(np.mean(first**2)) == pytest.approx(1, abs=1e-3)


def test_pink_noise_falls_by_3_db_an_octave() -> None:
    noise = pink_noise(1 << 18, 1, seed=0)[0]
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [10 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in range(8, 16)]
    np.testing.assert_allclose(np.diff(octaves), -3.01, atol=0.6)


@needs_espeak
def test_speech_speaks(tmp_path: Path) -> None:
    samples, rate = speech("One two three.", tmp_path / "s.wav")
    more, _ = speech("One two three. One two three. One two three.")
    assert rate == 22_050
    assert samples.dtype == np.float32
    assert 0.5 < samples.size / rate < 4
    assert more.size > 2 * samples.size
    assert np.abs(samples).max() > 0.1
    np.testing.assert_allclose(soundfile.read(tmp_path / "s.wav", dtype="float32")[0], samples)
    np.testing.assert_array_equal(speech("One two three.")[0], samples)


@needs_espeak
def test_an_unknown_voice_is_told() -> None:
    with pytest.raises(NightshiftError, match="no voice 'xx-nobody'") as caught:
        speech("Hello.", voice="xx-nobody")
    assert caught.value.code == "engine_failed"


def test_without_espeak_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak_module, "available", lambda: False)
    with pytest.raises(NightshiftError) as caught:
        speech("Hello.")
    assert caught.value.code == "engine_not_ready"
    assert "pip install espeakng-loader" in caught.value.hint


@pytest.mark.parametrize("snr_db", [0.0, 6.0])
def test_the_demo_has_the_ratio_asked_for(tmp_path: Path, snr_db: float) -> None:
    passage = media.make(tmp_path / "p.wav", 22_050, 1, 3, "noise")
    mix, clean, rate = demo_mix(8.0, 1, snr_db, passage)
    assert mix.shape == clean.shape == (2, 8 * rate)
    assert mix.dtype == clean.dtype == np.float32
    assert np.abs(mix).max() <= 0.9
    rest = mix - clean
    assert 10 * np.log10(np.sum(clean**2) / np.sum(rest**2)) == pytest.approx(snr_db, abs=0.01)
    assert si_sdr(clean, mix) == pytest.approx(snr_db, abs=0.5)


@needs_espeak
def test_the_demo_speaks_by_itself() -> None:
    first, second = demo_mix(5.0, 0), demo_mix(5.0, 0)
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1]).max() > 0.1
