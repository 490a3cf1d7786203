"""What the children that decode have in common: their confinement, and how they speak."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

from worker.media import wire

MEMORY_BYTES = 2 << 30


class Refused(Exception):
    """The input cannot be decoded: a code of the catalogue and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def take_stdout() -> int:
    """A descriptor for the messages, in the place of stdout: what a library prints goes nowhere."""
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return out


def confine(cpu_seconds: int) -> None:
    """Bounds on memory and processor time; no file can be written."""
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)


def forbid_threads() -> None:
    """To be called when the libraries are imported: some start theirs then."""
    _limit(resource.RLIMIT_NPROC, 0)


def send(out: int, kind: bytes, body: bytes) -> None:
    view = memoryview(wire.HEADER.pack(kind, len(body)) + body)
    while view:
        view = view[os.write(out, view) :]


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    # macOS refuses some of them; the others still hold.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (value, value))
