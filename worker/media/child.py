"""Starting the sandbox and reading what it says; whatever becomes of it, the caller sees a coded error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from common.errors import CATALOGUE, NightshiftError
from worker.engine import Limits
from worker.media import wire

# Decoding costs about 2 ms of processor time a second of audio; anything near this is an attack.
_CPU_SECONDS_FIXED = 60
_CPU_SECONDS_PER_SECOND = 0.05
# An image costs some 0.05 s a megapixel.
_CPU_SECONDS_PER_MEGAPIXEL = 0.5
_PIPE_BYTES = 1 << 20

HINTS = {
    "unsupported_media": "Send one audio or video file: wav, flac, mp3, m4a, opus, ogg, aiff, mp4, mkv or webm.",
    "corrupt_media": "Check that the file is complete and plays elsewhere.",
    "no_audio": "Send a file with an audio track.",
    "no_samples": "Send a file with some audio in it.",
    "too_many_channels": "Mix the channels down first, or ask the operator to raise NIGHTSHIFT_MAX_CHANNELS.",
    "unsupported_rate": "Resample the audio first.",
    "decoder_crashed": "Check that the file plays elsewhere; converting it to flac first may help.",
}

IMAGE_HINTS = {
    "unsupported_media": "Send one still image with 8 or 16 bits a channel: jpeg, png, webp or tiff.",
    "corrupt_media": "Check that the file is complete and opens elsewhere.",
    "too_many_pixels": "Scale it down first, or ask the operator to raise NIGHTSHIFT_MAX_PIXELS.",
    "image_too_small": "Send a larger image, or more of it.",
    "decoder_crashed": "Check that the file opens elsewhere; converting it to png first may help.",
}


def cpu_seconds(media: str, limits: Limits) -> int:
    """What a child may use of the processor: far more than any real input needs, and not for ever."""
    if media == "image":
        return int(_CPU_SECONDS_FIXED / 2 + limits.pixels / 1e6 * _CPU_SECONDS_PER_MEGAPIXEL)
    return int(_CPU_SECONDS_FIXED + limits.duration_seconds * _CPU_SECONDS_PER_SECOND)


class Child:
    """A sandbox working on one file; a context manager."""

    def __init__(self, mode: Literal["probe", "decode", "picture"], path: Path, limits: Limits) -> None:
        """Raises `input_missing`, `empty_input`."""
        if not path.is_file():
            raise NightshiftError("input_missing", "The input file is not there.")
        if path.stat().st_size == 0:
            raise NightshiftError("empty_input", "The input has 0 bytes.", hint="Send a file with content.")
        self._media = "image" if mode == "picture" else "audio"
        cpu = cpu_seconds(self._media, limits)
        given = json.dumps({"channels": limits.channels, "pixels": limits.pixels, "cpu_seconds": cpu})
        module = "worker.media.image_sandbox" if mode == "picture" else "worker.media.sandbox"
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", module, mode, str(path.resolve()), given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # The modules this process can see, and nothing of its environment: secrets live there.
            env={
                "PYTHONPATH": os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path),
                "PYTHONDONTWRITEBYTECODE": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
            start_new_session=True,
        )
        self._out = self._process.stdout
        assert self._out is not None
        _widen(self._out.fileno())

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """The messages up to the child's end. Raises the child's own refusals and `decoder_crashed`."""
        while header := self._exactly(wire.HEADER.size):
            kind, size = wire.HEADER.unpack(header)
            if size > wire.LARGEST.get(kind, wire.MAX_JSON):
                raise self._crashed("it sent more than it may")
            body = self._exactly(size)
            if body is None:
                raise self._crashed(self._fate())
            if kind == wire.ERROR:
                raise self._refusal(json.loads(body))
            yield kind, body
        if self._process.wait() != 0:
            raise self._crashed(self._fate())

    def close(self) -> None:
        """Ends the child; safe to call again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._out is not None:
            self._out.close()

    def _exactly(self, size: int) -> bytes | None:
        assert self._out is not None
        body = self._out.read(size)
        return body if len(body) == size else None

    def _fate(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return f"it used more processor time than any real {self._media} needs"
        if code < 0:
            return f"it died of {signal.Signals(-code).name}"
        return f"it ended with status {code}"

    def _crashed(self, how: str) -> NightshiftError:
        return NightshiftError(
            "decoder_crashed", f"The decoder crashed on this input: {how}.", hint=self._hints["decoder_crashed"]
        )

    def _refusal(self, body: dict[str, Any]) -> NightshiftError:
        code = body["code"] if body.get("code") in CATALOGUE else "corrupt_media"
        return NightshiftError(code, str(body.get("detail", ""))[:500], hint=self._hints.get(code, ""))

    @property
    def _hints(self) -> dict[str, str]:
        return IMAGE_HINTS if self._media == "image" else HINTS


def _widen(pipe: int) -> None:
    # Fewer switches between the two processes; Linux only, and not vital.
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass
