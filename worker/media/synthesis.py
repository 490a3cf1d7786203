"""Generated audio for the demo: music, noise, and a spoken passage over both. The same seed gives the same samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile

from worker.media.resample import Resampler
from worker.media.speech import speech

PASSAGE = (
    "Good evening, and welcome to the night shift. While the city sleeps, the machines go on listening. "
    "Somewhere between the music and the rain there is a voice, and tonight we shall try to find it. "
    "A recording is never only what was said. It is the room, the street outside, the neighbour who plays the piano, "
    "and the hum of the refrigerator. Our work is to take them apart again, gently, and to lose nothing on the way. "
    "So turn down the lights, put the kettle on, and stay with us until the morning."
)
RATE = 48_000

# C major 7, A minor 7, F major 7, G 6: as semitones from A4.
_CHORDS = ((-21, -17, -14, -10), (-24, -21, -17, -14), (-28, -24, -21, -17), (-26, -22, -19, -17))
_TEMPO = 92.0


def pink_noise(samples: int, channels: int, seed: int) -> np.ndarray:
    """float32 [channels, samples] whose power falls by 3 dB an octave, RMS 1."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal((channels, samples)), axis=1)
    spectrum[:, 1:] /= np.sqrt(np.arange(1, spectrum.shape[1]))
    spectrum[:, 0] = 0.0
    noise = np.fft.irfft(spectrum, n=samples, axis=1)
    return (noise / max(_rms(noise), 1e-12)).astype(np.float32)


def music(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """float32 [2, samples]: four chords, an arpeggio, a bass and soft drums at 92 beats a minute, RMS 1."""
    total = round(seconds * rate)
    rng = np.random.default_rng(seed)
    out = np.zeros((2, total))
    beat = 60.0 / _TEMPO
    for bar in range(math.ceil(seconds / (4 * beat))):
        start = bar * 4 * beat
        chord = _CHORDS[bar % len(_CHORDS)]
        for i, note in enumerate(chord):
            _place(out, start, _pad(_hertz(note + 12), 4.3 * beat, rate), 0.10, (i - 1.5) / 3, rate)
        _place(
            out, start, _bass(_hertz(chord[0] - 12 if chord[0] > -24 else chord[0]), 1.9 * beat, rate), 0.34, 0, rate
        )
        _place(out, start + 2.5 * beat, _bass(_hertz(chord[2] - 12), 1.3 * beat, rate), 0.24, 0, rate)
        for eighth in range(8):
            if rng.random() < 0.85:
                note = chord[int(rng.integers(4))] + (24 if rng.random() < 0.75 else 36)
                pan = float(rng.uniform(-0.6, 0.6))
                _place(out, start + eighth * beat / 2, _pluck(_hertz(note), 1.2, rate), 0.16, pan, rate)
            _place(out, start + eighth * beat / 2, _hat(rng, 0.07, rate), 0.05 + 0.03 * (eighth % 2), 0.25, rate)
        for kick in (0.0, 2.0):
            _place(out, start + kick * beat, _kick(0.35, rate), 0.5, 0, rate)
        for snare in (1.0, 3.0):
            _place(out, start + snare * beat, _snare(rng, 0.22, rate), 0.16, -0.1, rate)
    return (out / max(_rms(out), 1e-12)).astype(np.float32)


def demo_mix(
    seconds: float = 30.0, seed: int = 0, snr_db: float = 3.0, passage: Path | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """A spoken passage over music and noise: (mix [2, n], clean speech [2, n], 48000), float32 within full scale.

    snr_db: energy of the speech over that of the rest, over the whole. passage: a file of speech in place of the
    synthesised one. Raises `engine_not_ready` where espeakng-loader is not installed and no passage is given.
    """
    total = round(seconds * RATE)
    voice = _spoken(total, passage)
    clean = np.stack([voice, voice])
    backing = 0.9 * music(seconds, RATE, seed) + 0.35 * pink_noise(total, 2, seed + 1)
    backing *= _rms(clean) / max(_rms(backing), 1e-12) / 10 ** (snr_db / 20)
    mix = clean + backing
    gain = 0.89 / max(float(np.abs(mix).max()), 1e-12)
    return (mix * gain).astype(np.float32), (clean * gain).astype(np.float32), RATE


def _spoken(total: int, passage: Path | None) -> np.ndarray:
    if passage is None:
        spoken, rate = speech(PASSAGE)
    else:
        spoken, rate = soundfile.read(passage, dtype="float32", always_2d=True)
        spoken = spoken.mean(axis=1)
    if rate != RATE:
        resampler = Resampler(rate, RATE, 1)
        spoken = np.concatenate([resampler.push(spoken[None]), resampler.finish()], axis=1)[0]
    pause = np.zeros(RATE // 2, np.float32)
    once = np.concatenate([pause, spoken, pause])
    return np.tile(once, math.ceil(total / once.size))[:total]


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _hertz(semitones_from_a4: float) -> float:
    return 440.0 * 2 ** (semitones_from_a4 / 12)


def _place(out: np.ndarray, start: float, sound: np.ndarray, gain: float, pan: float, rate: int) -> None:
    """Adds a mono sound at a time, panned from -1 (left) to 1 with constant power."""
    at = round(start * rate)
    sound = sound[: max(0, out.shape[1] - at)]
    angle = (pan + 1) * math.pi / 4
    out[0, at : at + sound.size] += gain * math.cos(angle) * sound
    out[1, at : at + sound.size] += gain * math.sin(angle) * sound


def _time(seconds: float, rate: int) -> np.ndarray:
    return np.arange(round(seconds * rate)) / rate


def _envelope(t: np.ndarray, attack: float, decay: float) -> np.ndarray:
    """Rises within `attack` s, falls to 1/e in `decay` s, and ends at zero."""
    fade = np.clip((t[-1] - t) / 0.02, 0, 1) if t.size else t
    return np.minimum(t / attack, 1.0) * np.exp(-t / decay) * fade


def _pad(frequency: float, seconds: float, rate: int) -> np.ndarray:
    t = _time(seconds, rate)
    tone = sum(np.sin(2 * math.pi * frequency * k * d * t) / k**2 for k in (1, 2, 3) for d in (0.998, 1.002))
    return tone * np.clip(t / 0.5, 0, 1) * np.clip((seconds - t) / 0.6, 0, 1)


def _pluck(frequency: float, seconds: float, rate: int) -> np.ndarray:
    t = _time(seconds, rate)
    tone = sum(np.sin(2 * math.pi * frequency * k * t) * np.exp(-t * 3 * k) / k for k in (1, 2, 3, 4))
    return tone * _envelope(t, 0.004, 0.5)


def _bass(frequency: float, seconds: float, rate: int) -> np.ndarray:
    t = _time(seconds, rate)
    tone = np.sin(2 * math.pi * frequency * t) + 0.3 * np.sin(4 * math.pi * frequency * t)
    return tone * _envelope(t, 0.01, 0.8)


def _kick(seconds: float, rate: int) -> np.ndarray:
    t = _time(seconds, rate)
    return np.sin(2 * math.pi * (48 * t + 3.2 * (1 - np.exp(-t * 28)))) * _envelope(t, 0.002, 0.11)


def _snare(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    t = _time(seconds, rate)
    return (0.8 * rng.standard_normal(t.size) + np.sin(2 * math.pi * 185 * t)) * _envelope(t, 0.001, 0.06)


def _hat(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    t = _time(seconds, rate)
    return np.diff(rng.standard_normal(t.size + 1)) * _envelope(t, 0.001, 0.018)
