"""`python -m worker.flower`: Flower, which shows every job on its way through Celery. For looking, behind a password.

It is started from the settings, so that neither the broker's password nor its own stands in a command line; and it only
shows, since what becomes of a job is said in the database.
"""

from __future__ import annotations

import logging
import signal
import sys

from common import log, settings
from common.queue import make_celery
from common.restarts import EX_CONFIG
from common.settings import Settings

_log = log.get(__name__)


def trouble(made: Settings) -> str | None:
    """What in the settings keeps Flower from being started; None where nothing does."""
    if made.broker is None:
        return "There is nothing to watch without a broker: set NIGHTSHIFT_BROKER_URL."
    user, _, password = (
        made.flower_basic_auth.get_secret_value().partition(":") if made.flower_basic_auth else ("",) * 3
    )
    if not user or not password:
        return "Flower is not started without a password: set NIGHTSHIFT_FLOWER_BASIC_AUTH to user:password."
    return None


def serve(made: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    from flower.app import Flower
    from flower.options import options
    from flower.urls import settings as web

    assert made.flower_basic_auth is not None
    options.address, options.port = made.host, made.flower_port
    options.basic_auth = [made.flower_basic_auth.get_secret_value()]
    options.read_only = True
    options.purge_offline_workers = 24 * 3600
    flower = Flower(capp=make_celery(made), options=options, **web)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: flower.io_loop.add_callback_from_signal(flower.stop))
    port = flower.start_http_server()
    _log.info("Flower is there", url=f"http://{made.host}:{port}")
    flower.start()


def main() -> int:
    made = settings.load()
    log.setup(made)
    # Health checks would fill the log.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    if why := trouble(made):
        sys.stderr.write(f"{why}\n")
        return EX_CONFIG
    serve(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
