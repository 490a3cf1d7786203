"""espeak-ng, the speech synthesiser, from the library that the wheel espeakng-loader carries.

The wheel is GPL-3.0 and therefore optional; it is imported in a child process only, never in this one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import NightshiftError

INSTALL = "pip install espeakng-loader (GPL-3.0), or install Nightshift with its extra: espeak."

_TIMEOUT_SECONDS = 300.0
_LOOK_SECONDS = 0.1
_CHUNK = 1 << 16
_HEADER_BYTES = 10_000


def available() -> bool:
    """Whether espeakng-loader is installed."""
    return importlib.util.find_spec("espeakng_loader") is not None


class Espeak:
    """The synthesiser in its child process, which starts with the first word and again after a crash; a context
    manager. The same text in the same voice always gives the same samples. Of one thread at a time."""

    def __init__(self, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """timeout_seconds: for one text. Raises `engine_not_ready` where espeakng-loader is not installed."""
        if not available():
            raise NightshiftError("engine_not_ready", "espeak-ng is not installed.", hint=INSTALL)
        self._timeout = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""

    def __enter__(self) -> Espeak:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def speak(
        self, text: str, voice: str = "en-us", words_per_minute: int = 160, check: Callable[[], None] = lambda: None
    ) -> tuple[np.ndarray, int]:
        """The text spoken: float32 mono [n] and its rate in Hz. Plain text: markup is read out.

        check: called ten times a second; what it raises ends the child and is raised here.
        Raises `engine_failed` where espeak-ng does not speak; n may be 0 where it finds nothing to say.
        """
        request = {"voice": voice, "words_per_minute": words_per_minute, "text": text.replace("\0", " ")}
        try:
            process = self._started()
            self._send(process, json.dumps(request).encode() + b"\n", check)
            header = json.loads(self._line(process, check))
            if "error" in header:
                raise NightshiftError("engine_failed", f"espeak-ng did not speak: {header['error']}")
            pcm = self._exactly(process, int(header["bytes"]), check)
        except BaseException:
            # Whatever it was saying, the next text is to find it silent.
            self.close()
            raise
        return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768.0, int(header["sample_rate"])

    def close(self) -> None:
        """Ends the child; safe to call again."""
        process, self._process, self._read = self._process, None, b""
        if process is None:
            return
        # The group: the fork that speaks is a process of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "worker.media.espeak_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                # The modules this process can see, and nothing of its environment: secrets live there.
                env={
                    "PYTHONPATH": os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                start_new_session=True,
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _send(self, process: subprocess.Popen[bytes], data: bytes, check: Callable[[], None]) -> None:
        assert process.stdin is not None
        pipe, left, deadline = process.stdin.fileno(), memoryview(data), time.monotonic() + self._timeout
        while left:
            self._wait(process, [], [pipe], deadline, check)
            try:
                left = left[os.write(pipe, left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._died(process) from None

    def _line(self, process: subprocess.Popen[bytes], check: Callable[[], None]) -> bytes:
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._read:
            self._more(process, deadline, check)
            if len(self._read) > _HEADER_BYTES and b"\n" not in self._read[:_HEADER_BYTES]:
                raise NightshiftError("engine_failed", "espeak-ng's process answers with something else.")
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _exactly(self, process: subprocess.Popen[bytes], size: int, check: Callable[[], None]) -> bytes:
        deadline = time.monotonic() + self._timeout
        parts, have = [self._read], len(self._read)
        while have < size:
            self._read = b""
            self._more(process, deadline, check)
            parts.append(self._read)
            have += len(self._read)
        whole = b"".join(parts)
        self._read = whole[size:]
        return whole[:size]

    def _more(self, process: subprocess.Popen[bytes], deadline: float, check: Callable[[], None]) -> None:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        self._wait(process, [pipe], [], deadline, check)
        piece = os.read(pipe, _CHUNK)
        if not piece:
            raise self._died(process)
        self._read += piece

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        reading: list[int],
        writing: list[int],
        deadline: float,
        check: Callable[[], None],
    ) -> None:
        """Until one of the pipes is ready."""
        while not any(select.select(reading, writing, [], _LOOK_SECONDS)):
            check()
            if time.monotonic() > deadline:
                raise NightshiftError("engine_failed", f"espeak-ng did not speak within {self._timeout:g} s.")
        check()

    @staticmethod
    def _died(process: subprocess.Popen[bytes]) -> NightshiftError:
        return NightshiftError("engine_failed", f"espeak-ng's process ended with status {process.wait()}.")
