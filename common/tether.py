"""A process that ends when its parent is gone, also when the parent was killed and could not say goodbye.

As a program, `python tether.py PARENT_PID COMMAND…` becomes the command, tied to the process that started it. It uses
nothing but the standard library, so that it starts at once and wherever it lies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.5


def tie(parent: int) -> None:
    """From now on this process is killed when `parent`, the process that started it, dies.

    On Linux the kernel does it, and the tie lasts through exec but not through fork; elsewhere a thread looks. The
    kernel watches the *thread* that started this process: start such processes from a thread that stays.
    """
    if not _tied_by_kernel():
        threading.Thread(target=_watch, args=(parent,), name="tether", daemon=True).start()
    if os.getppid() != parent:
        # It died before the tie: no signal will come.
        os.kill(os.getpid(), signal.SIGKILL)


def _tied_by_kernel() -> bool:
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def run(parent: int, command: list[str]) -> int:
    """Becomes the command where the kernel keeps the tie; else runs it as a child, passing signals on, and looks."""
    if _tied_by_kernel():
        if os.getppid() != parent:
            return 128 + signal.SIGKILL
        try:
            os.execvp(command[0], command)
        except OSError as error:
            sys.stderr.write(f"{command[0]}: {error.strerror}\n")
            return 127
    return stand_by(parent, command)


def stand_by(parent: int, command: list[str]) -> int:
    """Runs the command as a child until it ends or `parent` dies. Returns its exit status as a shell would."""
    child = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _frame: child.send_signal(n))
    while os.getppid() == parent:
        with suppress(subprocess.TimeoutExpired):
            code = child.wait(_LOOK_SECONDS)
            return code if code >= 0 else 128 - code
    child.kill()
    return 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
