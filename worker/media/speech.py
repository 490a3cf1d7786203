"""A spoken passage by espeak-ng, for what only needs some speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import NightshiftError
from worker.media.espeak import Espeak, available

__all__ = ["available", "speech"]


def speech(
    text: str, path: Path | None = None, *, voice: str = "en-us", words_per_minute: int = 160
) -> tuple[np.ndarray, int]:
    """The text spoken: float32 mono [n] and its rate in Hz; also written to `path` as 16-bit wav where one is given.

    Raises `engine_not_ready` where espeakng-loader is not installed, `engine_failed` where it does not speak.
    """
    with Espeak() as espeak:
        samples, rate = espeak.speak(text, voice, words_per_minute)
    if not samples.size:
        raise NightshiftError("engine_failed", "espeak-ng did not speak: it found nothing to say.")
    if path is not None:
        import soundfile

        soundfile.write(path, samples, rate, format="WAV", subtype="PCM_16")
    return samples, rate
