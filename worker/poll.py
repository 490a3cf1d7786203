"""The worker without a broker: woken by looking into the database. One process per card, like any other."""

from __future__ import annotations

import signal
import sys
import threading

from sqlalchemy.exc import SQLAlchemyError

from common import log, settings
from worker.compose import open_runner
from worker.runner import Runner

_log = log.get(__name__)


def serve(runner: Runner, over: threading.Event, poll_seconds: float) -> None:
    """Runs jobs until `over` is set or the worker is told to drain; looks again at once after each job."""
    while not over.is_set() and not runner.presence.draining:
        try:
            found = runner.run()
        except SQLAlchemyError as error:
            _log.warning("the database did not answer", error=type(error).__name__)
            found = False
        if not found:
            over.wait(poll_seconds)


def main() -> int:
    """Runs until SIGTERM or SIGINT: the running job is then given back at its block's end, within the drain bound."""
    made = settings.load()
    runner = open_runner(made, lanes=made.worker_lanes, device=made.worker_device)
    over = threading.Event()

    def stop(*_: object) -> None:
        over.set()
        runner.presence.drain()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    runner.start()
    _log.info("polling worker is there", name=runner.presence.name, engines=list(runner.presence.engines))
    try:
        serve(runner, over, made.poll_seconds)
    finally:
        runner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
