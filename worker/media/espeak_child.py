"""The child that holds espeak-ng: `python -m worker.media.espeak_child`, started by `worker.media.espeak`.

A request is a JSON line on stdin: `voice`, `words_per_minute`, `text`. The answer on stdout is a JSON line with
`sample_rate` and `bytes`, then so many bytes of 16-bit PCM; or a line with `error`.

The library keeps state from one utterance to the next, even across its own re-initialisation. So each is spoken in a
fork of the process as it was at the start: what a text sounds like depends on the text alone, and a crash costs one
utterance.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import espeakng_loader

# speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_RATE_PARAMETER = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_OUT = 1


def main() -> int:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 500, data, _INITIALIZE_DONT_EXIT)
    if rate <= 0:
        _answer({"error": f"espeak_Initialize gave {rate}"})
        return 1
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            os._exit(_speak(library, rate, json.loads(line)))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0:
            _answer({"error": f"it ended with status {status}"})
    return 0


def _speak(library: Any, rate: int, request: dict[str, Any]) -> int:
    """In the fork: speaks and answers. A status other than 0 means that nothing was written."""
    pieces: list[bytes] = []

    def take(wave: Any, count: int, _events: int) -> int:
        if wave and count > 0:
            pieces.append(ctypes.string_at(wave, count * 2))
        return 0

    heard: Callable[..., int] = _CALLBACK(take)
    library.espeak_SetSynthCallback(heard)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        _answer({"error": f"there is no voice {request['voice']!r}"})
        return 0
    library.espeak_SetParameter(_RATE_PARAMETER, int(request["words_per_minute"]), 0)
    text = request["text"].encode() + b"\0"
    failed = library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    if failed:
        _answer({"error": f"espeak_Synth gave {failed}"})
        return 0
    pcm = b"".join(pieces)
    _answer({"sample_rate": rate, "bytes": len(pcm)}, pcm)
    return 0


def _answer(header: dict[str, Any], body: bytes = b"") -> None:
    left = memoryview(json.dumps(header).encode() + b"\n" + body)
    while left:
        left = left[os.write(_OUT, left) :]


if __name__ == "__main__":
    sys.exit(main())
