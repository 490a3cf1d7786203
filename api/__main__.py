"""`python -m api`: the API on gunicorn, as the settings say."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from common import log
from common.db import migrate
from common.settings import Settings, load


class Lines(Logger):
    """gunicorn's own lines in the form of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Worker(ThreadWorker):
    """Tells those who wait that the process is to end: event streams would hold it for as long as their jobs run."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.stopping.set()
        super().handle_exit(sig, frame)


class Server(BaseApplication):
    """gunicorn with threads. Each process builds its own application after the fork: connections do not survive one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.stopping = threading.Event()
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        for name, value in {
            "bind": [f"{host}:{settings.port}"],
            "worker_class": Worker,
            "workers": settings.api_processes,
            "threads": settings.api_threads,
            "worker_connections": max(1000, 4 * settings.api_threads),
            "keepalive": 15,
            "graceful_timeout": 10,
            "control_socket_disable": True,
            "proc_name": "nightshift-api",
            "when_ready": _announce,
            "accesslog": None,
            "logger_class": Lines,
            "loglevel": settings.log_level.lower(),
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        from api import create_app

        log.setup(self._settings)
        return create_app(self._settings, stopping=self.stopping)


def _announce(server: Any) -> None:
    """Prints where it listens, with the port that the system gave for port 0. Programs read this line."""
    for listener in server.LISTENERS:
        host, port = listener.sock.getsockname()[:2]
        print(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description="Serves the API.")
    parser.add_argument("--migrate", action="store_true", help="bring the database to the newest schema first")
    options = parser.parse_args(arguments)
    settings = load()
    log.setup(settings)
    if options.migrate:
        migrate.upgrade(settings.database)
    Server(settings).run()


if __name__ == "__main__":
    main(sys.argv[1:])
