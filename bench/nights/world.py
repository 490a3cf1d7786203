"""Simulated time, and processes that live in it and may be killed at any statement."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

from sqlalchemy import event

from common.db.engine import Database, SimulatedClock, Tx


class Killed(BaseException):
    """kill -9: no handler of the process runs; what holds its transaction rolls it back."""


class World:
    """A clock, what is to happen, and a database whose every statement may be the last of the process that sends it."""

    def __init__(self, url: str, start: datetime, seed: int) -> None:
        self.clock = SimulatedClock(start.astimezone(UTC))
        self.random = Random(seed)
        self.database = _Mortal(self, url)
        self.running: Process | None = None
        self.deaths: list[datetime] = []
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._number = count()

    @property
    def now(self) -> datetime:
        return self.clock.now

    def at(self, when: datetime, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._number), do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.now + timedelta(seconds=seconds), do)

    def run(self, over: Callable[[], bool], horizon: datetime) -> None:
        """Until it is `over`, nothing is to happen any more, or the horizon is reached."""
        while self._events and not over() and self._events[0][0] < horizon:
            self.clock.now, _, do = heapq.heappop(self._events)
            do()

    def moment(self) -> None:
        """One of the moments at which a process may die: before a statement or a commit, after a commit."""
        if self.running is not None:
            self.running.moment()


class _Mortal(Database):
    def __init__(self, world: World, url: str) -> None:
        super().__init__(url, world.clock, pool_size=4)
        self._world = world
        event.listen(self.engine, "before_cursor_execute", self._statement)
        event.listen(self.engine, "commit", lambda _connection: world.moment())
        if self.engine.dialect.name == "sqlite":
            # The machine is not switched off in the course; and the disk's time is not what is simulated.
            event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))

    def _statement(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if not statement.startswith("BEGIN"):
            self._world.moment()

    @contextmanager
    def write(self) -> Iterator[Tx]:
        with super().write() as tx:
            yield tx
        self._world.moment()


class Process:
    """Something that can be killed. Its steps are run by `step`; what it knows is lost in `forget`."""

    RESTART_SECONDS = 20.0

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.deaths = 0
        self._life = 0
        self._moments: int | None = None

    # --- What a process does ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins, or begins again after a death."""
        raise NotImplementedError

    def forget(self) -> None:
        """Loses all that was only in memory."""

    def soon(self, seconds: float, do: Callable[[], None]) -> None:
        """Does something later, in this life."""
        life = self._life
        self.world.after(seconds, lambda: self.step(do) if self._life == life and self.alive else None)

    def every(self, seconds: Callable[[], float], do: Callable[[], object]) -> None:
        """Does something again and again in this life; seconds: until the next time."""

        def again() -> None:
            self.every(seconds, do)
            do()

        self.soon(seconds(), again)

    def step(self, do: Callable[[], object]) -> None:
        """Runs a piece of the process, which may die in it."""
        self.world.running = self
        try:
            do()
        except Killed:
            self._die()
        finally:
            self.world.running = None

    # --- How it ends --------------------------------------------------------------------------------------------------

    def kill(self, moments: int | None) -> None:
        """At once, or (moments) when it has lived through so many more of them."""
        if not self.alive:
            return
        if moments is None:
            self._die()
        else:
            self._moments = moments

    def moment(self) -> None:
        if self._moments is None:
            return
        if self._moments == 0:
            raise Killed
        self._moments -= 1

    def _die(self) -> None:
        self.alive, self._moments = False, None
        self.deaths += 1
        self.world.deaths.append(self.world.now)
        self._life += 1
        self.forget()
        self.world.after(self.RESTART_SECONDS, self._rise)

    def _rise(self) -> None:
        self.alive = True
        self.step(self.start)
