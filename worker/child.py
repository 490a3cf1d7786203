"""The life of the spawned child that owns the card: its runner is opened when it starts and closed when it ends.

The main process imports this module too, for it reads the names of the tasks; it opens nothing, and passes SIGTERM on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from billiard.process import active_children
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown, worker_shutting_down

from common import log, settings, tether
from worker.compose import open_runner
from worker.runner import Runner

_log = log.get(__name__)

_LOOK_SECONDS = 0.5
_DRAIN = signal.SIGUSR2


def _open() -> Runner:
    made = settings.load()
    return open_runner(made, lanes=made.worker_lanes, device=made.worker_device)


# What makes the runner; tests of the wiring put another in its place.
opener: Callable[[], Runner] = _open

_runner: Runner | None = None


def runner() -> Runner:
    """This child's runner; opened now where the database did not answer when the child started."""
    global _runner
    if _runner is None:
        opened = opener()
        opened.start()
        _runner = opened
        threading.Thread(target=_retire_when_drained, args=(opened,), name="retire", daemon=True).start()
    return _runner


@setup_logging.connect(weak=False)
def _log_as_we_do(**_: Any) -> None:
    log.setup(settings.load())


@worker_process_init.connect(weak=False)
def _child_started(**_: Any) -> None:
    tether.tie(os.getppid())
    # A thread of its own waits for the signal: the main thread may be deep in a kernel, where no handler is run.
    signal.pthread_sigmask(signal.SIG_BLOCK, {_DRAIN})
    threading.Thread(target=_drain_when_told, name="drain", daemon=True).start()
    try:
        runner()
    except Exception:
        # Celery would swallow it. The next bell tries again.
        _log.exception("the worker could not open; it will try again")


@worker_process_shutdown.connect(weak=False)
def _child_ends(**_: Any) -> None:
    global _runner
    if _runner is not None:
        _runner.close()
        _runner = None


@worker_shutting_down.connect(weak=False)
def _main_told_to_end(**_: Any) -> None:
    """Celery would wait for the job's end. The child is told to give it back at the end of its block."""
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, _DRAIN)


def _drain_when_told() -> None:
    signal.sigwait({_DRAIN})
    if _runner is not None:
        _runner.presence.drain()


def _retire_when_drained(opened: Runner) -> None:
    """A drained worker that went on listening would only pass bells on: its main process is told to end."""
    while not opened.presence.draining:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getppid(), signal.SIGTERM)
