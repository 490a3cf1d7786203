"""A process says that it is there, what it can do, and hears what it is told: run, pause or drain."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.db import processes
from common.db.engine import Database

_log = log.get(__name__)


class Presence:
    """A thread that keeps this process's row fresh. engines: names this worker runs."""

    def __init__(
        self,
        database: Database,
        name: str,
        role: str,
        *,
        lanes: Collection[str] = (),
        engines: Collection[str] = (),
        info: Mapping[str, Any] | None = None,
        beat_seconds: float = 5.0,
    ) -> None:
        self.name = name
        self.lanes = tuple(lanes)
        self.engines = tuple(engines)
        self._database = database
        self._role = role
        self._info = dict(info or {})
        self._beat_seconds = beat_seconds
        self._draining = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"presence-{name}", daemon=True)

    @property
    def draining(self) -> bool:
        """Whether this process is to end as soon as it can."""
        return self._draining.is_set()

    def drain(self) -> None:
        self._draining.set()

    def start(self) -> None:
        self._database.run(processes.register, self.name, self._role, lanes=self.lanes, info=self._info)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        try:
            with self._database.write() as tx:
                processes.gone(tx, self.name)
        except SQLAlchemyError:
            _log.warning("could not sign off; the row grows old by itself")

    def _run(self) -> None:
        while not self._over.wait(self._beat_seconds):
            try:
                with self._database.write() as tx:
                    control = processes.seen(tx, self.name)
                if control is None:
                    self._database.run(processes.register, self.name, self._role, lanes=self.lanes, info=self._info)
                elif control == "drain":
                    self._draining.set()
            except SQLAlchemyError as error:
                _log.warning("the database did not answer", error=type(error).__name__)
