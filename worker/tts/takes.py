"""Takes on disk: trimmed to what is heard, written without loss, and read back by whoever goes on with them.

What follows is always made from these files, also from those just written, so that it makes no difference which an
earlier attempt had finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from common.errors import NightshiftError
from worker.media.encode import AudioWriter
from worker.tts.synthesizer import FLAWS, Take

_HEARD_DB = -50.0
_SILENT = 1e-4
_MARGIN_SECONDS = 0.025
_FADE_SECONDS = 0.005
_SILENCE_SECONDS = 0.1


@dataclass(frozen=True)
class Kept:
    """A take on disk. samples: how many."""

    path: Path
    samples: int
    flaws: tuple[str, ...]
    tries: int


class Takes:
    """The takes of one job in one folder. rate: Hz."""

    def __init__(self, folder: Path, rate: int) -> None:
        self._folder, self._rate = folder, rate
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, index: int, take: Take) -> dict[str, Path]:
        """The files of a take: `speech`, and `take`, what is known of it."""
        samples, flaws = trimmed(take.samples, self._rate), take.flaws
        if not samples.size:
            samples = np.zeros(round(_SILENCE_SECONDS * self._rate), np.float32)
            flaws = ("silent",)
        path = self._folder / f"{index:06d}.flac"
        with AudioWriter(path, self._rate, 1, "flac", bit_depth=24) as writer:
            writer.write(samples[None])
        said = path.with_suffix(".json")
        said.write_text(json.dumps({"flaws": list(flaws), "tries": take.tries, "samples": samples.size}))
        return {"speech": path, "take": said}

    def kept(self, index: int, files: Mapping[str, Path]) -> Kept:
        """Raises `storage_failed` for files that are not what `write` gave."""
        try:
            said = json.loads(files["take"].read_text())
            kept = Kept(files["speech"], int(said["samples"]), tuple(map(str, said["flaws"])), int(said["tries"]))
            info = soundfile.info(kept.path)
        except (KeyError, TypeError, ValueError, OSError, soundfile.LibsndfileError) as error:
            raise _broken(index, f"cannot be read ({type(error).__name__})") from error
        held = (info.samplerate, info.channels, info.frames)
        if held != (self._rate, 1, kept.samples):
            raise _broken(index, f"holds {held} instead of {(self._rate, 1, kept.samples)}")
        if unknown := set(kept.flaws) - FLAWS.keys():
            raise _broken(index, f"says {sorted(unknown)}")
        return kept

    def read(self, index: int, kept: Kept) -> np.ndarray:
        """float32 [n]. Raises `storage_failed`."""
        try:
            samples, _ = soundfile.read(kept.path, dtype="float32")
        except (OSError, soundfile.LibsndfileError) as error:
            raise _broken(index, f"cannot be read ({error})") from error
        if samples.shape != (kept.samples,):
            raise _broken(index, f"holds {len(samples)} samples instead of {kept.samples}")
        return samples


def trimmed(samples: np.ndarray, rate: int) -> np.ndarray:
    """Without what is not heard at both ends, so that pauses last as long as they should; float32 [n], empty where
    nothing is heard. The ends are faded over 5 ms."""
    loudness = np.abs(samples)
    peak = float(loudness.max(initial=0.0))
    if peak < _SILENT:
        return np.zeros(0, np.float32)
    heard = np.flatnonzero(loudness > peak * 10 ** (_HEARD_DB / 20))
    margin, fade = round(_MARGIN_SECONDS * rate), round(_FADE_SECONDS * rate)
    cut = samples[max(0, heard[0] - margin) : heard[-1] + 1 + margin].astype(np.float32)
    fade = min(fade, cut.size // 2)
    ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    cut[:fade] *= ramp
    cut[cut.size - fade :] *= ramp[::-1]
    return cut


def _broken(index: int, what: str) -> NightshiftError:
    return NightshiftError("storage_failed", f"The stored piece {index} {what}.")
