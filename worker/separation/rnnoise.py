"""RNNoise as a separator: speech against everything else, on any CPU.

RNNoise (J.-M. Valin, "A Hybrid DSP/Deep Learning Approach to Real-Time Full-Band Speech Enhancement", 2018) gives an
estimate of the speech; a Wiener mask from it, applied to the mix, keeps more of the voice and less of the rest than
the estimate does by itself. The residual is the mix minus the speech, at the file's own rate.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Generator, Mapping
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np

from common.errors import NightshiftError
from common.params import SeparationParams
from worker.engine import Host
from worker.separation.pipeline import SeparationEngine
from worker.separation.resample import convert
from worker.separation.separator import BlockAudio, Stems, share, wanted
from worker.separation.wiener import wiener

RATE = 48_000
FRAME = 480
DELAY = 960
"""Samples at 48 kHz by which the network's output lags behind its input (20 ms; measured by cross-correlation)."""

_FRAMES_A_STEP = 400
_INT16_SCALE = 32768.0
# Far beyond any real recording; above it the network's powers leave the range of float32.
_LOUDEST = 64.0


class RNNoise:
    """The separator.

    The network remembers for long. Over music (speech at 3 dB) the first two seconds of a block come within 0.4 dB of
    SI-SDR of an undivided run after ten seconds of warm-up; five seconds lose 1.0 dB, two 1.3. Over noise they differ
    from that run by 34 dB less than the speech. The cross-fade hides the join.
    """

    name = "rnnoise"
    block_seconds = 60.0
    context_seconds = (10.0, 1.0)
    overlap_seconds = 0.1
    shares = False

    def __init__(self) -> None:
        _library()
        self.version = f"pyrnnoise-{importlib.metadata.version('pyrnnoise')}-wiener-1"

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float, None, Stems]:
        """Every prompt means speech, so it is computed once for all of them."""
        kept = block.kept
        speech = np.empty(kept.shape, np.float32)
        channels = block.samples.shape[0]
        for channel, heard in enumerate(block.samples):
            # One channel's estimate, mask and conversion are alive at a time.
            isolated = yield from share(self._speech(heard, block.rate, check), channel, channels)
            speech[channel] = isolated[block.keep]
        stems = wanted(params)
        parts = {"target": speech}
        if any(stem.part == "residual" for stem in stems):
            parts["residual"] = kept - speech
        return {stem.name: parts[stem.part] for stem in stems}

    def _speech(self, heard: np.ndarray, rate: int, check: Callable[[], None]) -> Generator[float, None, np.ndarray]:
        """The speech in one channel, float32 [n] at `rate`."""
        peak = float(np.abs(heard).max(initial=0.0))
        scale = np.float32(peak if peak > _LOUDEST else 1.0)
        mix = convert(heard if scale == 1 else heard / scale, rate, RATE)
        check()
        frames = -(-(mix.shape[0] + DELAY) // FRAME)
        noisy = np.zeros(frames * FRAME, np.float32)
        np.multiply(mix, _INT16_SCALE, out=noisy[: mix.shape[0]])
        with Denoiser() as denoiser:
            for first in range(0, frames, _FRAMES_A_STEP):
                check()
                denoiser.run(noisy[first * FRAME : (first + _FRAMES_A_STEP) * FRAME])
                yield min(1.0, (first + _FRAMES_A_STEP) / frames)
        estimate = noisy[DELAY : DELAY + mix.shape[0]]
        estimate /= _INT16_SCALE
        check()
        speech = convert(wiener(mix, estimate), RATE, rate, heard.shape[0])
        return speech if scale == 1 else speech * scale

    def for_job(self) -> Self:
        return self

    def figures(self) -> Mapping[str, float]:
        return {}

    def memory_bytes(self) -> int:
        return _library_path().stat().st_size

    def close(self) -> None:
        """The library stays mapped; it holds no state between blocks."""


class RNNoiseEngine(SeparationEngine):
    """The engine of the registry. It computes on the processor, whatever the device of its host."""

    def __init__(self, host: Host | None = None) -> None:
        super().__init__(RNNoise())


class Denoiser:
    """One recurrent state of the network, freed at the end of the `with`."""

    def __init__(self) -> None:
        self._library = _library()
        self._state: int | None = None

    def __enter__(self) -> Self:
        self._state = self._library.rnnoise_create(None)
        if not self._state:
            raise MemoryError("no memory for a denoiser")
        return self

    def __exit__(self, *_: object) -> None:
        self._library.rnnoise_destroy(self._state)
        self._state = None

    def run(self, samples: np.ndarray) -> None:
        """Goes on with contiguous float32 [k * 480] at 48 kHz in the range of 16-bit samples, in place."""
        process, state, at = self._library.rnnoise_process_frame, self._state, samples.ctypes.data
        for frame in range(at, at + samples.nbytes, FRAME * samples.itemsize):
            process(state, frame, frame)


def _library_path() -> Path:
    """The C library inside the package. The package itself is not imported: it brings a plotting library with it."""
    found = importlib.util.find_spec("pyrnnoise")
    suffix = {"darwin": "librnnoise.dylib", "win32": "rnnoise.dll"}.get(sys.platform, "librnnoise.so")
    path = Path(found.origin).with_name(suffix) if found and found.origin else None
    if path is None or not path.is_file():
        raise NightshiftError(
            "engine_not_ready", "The RNNoise library is not installed.", hint="Run: pip install pyrnnoise"
        )
    return path


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library_path()))
    library.rnnoise_get_frame_size.restype = ctypes.c_int
    library.rnnoise_create.argtypes = [ctypes.c_void_p]
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_destroy.restype = None
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.rnnoise_process_frame.restype = ctypes.c_float
    size = library.rnnoise_get_frame_size()
    if size != FRAME:
        raise NightshiftError("engine_not_ready", f"This RNNoise works on {size} samples, {FRAME} were expected.")
    return library
