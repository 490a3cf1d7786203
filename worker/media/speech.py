"""A spoken passage by espeak-ng, from the library that the wheel espeakng-loader carries.

The library keeps global state and speaks to its caller by callbacks, so it runs in a child process:
`python -m worker.media.speech VOICE WORDS_PER_MINUTE`, text on stdin, a JSON line and 16-bit PCM on stdout. The wheel
is GPL-3.0 and therefore optional; nothing of it is imported in this process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from common.errors import NightshiftError

# speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_RATE_PARAMETER = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_INSTALL = "pip install espeakng-loader (GPL-3.0), or install Nightshift with its extra: espeak."
_TIMEOUT_SECONDS = 300.0


def available() -> bool:
    """Whether espeakng-loader is installed."""
    return importlib.util.find_spec("espeakng_loader") is not None


def speech(
    text: str, path: Path | None = None, *, voice: str = "en-us", words_per_minute: int = 160
) -> tuple[np.ndarray, int]:
    """The text spoken: float32 mono [n] and its rate in Hz; also written to `path` as 16-bit wav where one is given.

    Raises `engine_not_ready` where espeakng-loader is not installed, `engine_failed` where it does not speak.
    """
    if not available():
        raise NightshiftError("engine_not_ready", "espeak-ng is not installed.", hint=_INSTALL)
    ran = subprocess.run(
        [sys.executable, "-s", "-P", "-m", "worker.media.speech", voice, str(words_per_minute)],
        input=text.encode(),
        capture_output=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
        env={"PYTHONPATH": os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)},
    )
    header, _, pcm = ran.stdout.partition(b"\n")
    if ran.returncode != 0 or not pcm:
        reason = ran.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {ran.returncode}"]
        raise NightshiftError("engine_failed", f"espeak-ng did not speak: {reason[0]}")
    rate = int(json.loads(header)["sample_rate"])
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768.0
    if path is not None:
        import soundfile

        soundfile.write(path, samples, rate, format="WAV", subtype="PCM_16")
    return samples, rate


def main(arguments: list[str]) -> int:
    """The child: speaks stdin to stdout."""
    import espeakng_loader

    voice, words_per_minute = arguments[0], int(arguments[1])
    text = sys.stdin.buffer.read()
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 500, data, _INITIALIZE_DONT_EXIT)
    if rate <= 0:
        raise SystemExit(f"espeak_Initialize gave {rate}")
    pieces: list[bytes] = []

    @_CALLBACK
    def take(wave: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if wave and count > 0:
            pieces.append(ctypes.string_at(wave, count * 2))
        return 0

    library.espeak_SetSynthCallback(take)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise SystemExit(f"there is no voice {voice!r}")
    library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
    size = ctypes.c_size_t(len(text) + 1)
    failed = library.espeak_Synth(text + b"\0", size, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    library.espeak_Terminate()
    if failed:
        raise SystemExit(f"espeak_Synth gave {failed}")
    sys.stdout.buffer.write(json.dumps({"sample_rate": rate}).encode() + b"\n" + b"".join(pieces))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
