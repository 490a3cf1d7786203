"""Jobs that a worker does at once, so that what they want computed can share batches.

Each attempt goes its own way in a thread of its own, and its engine's steps with it. Only what they want computed is
done elsewhere, all of it in the one thread that calls `compute`: no two jobs ever compute at a time. What goes wrong
there is raised in the thread of the job that it concerns, and in no other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import closing
from time import monotonic

from worker.engine import Demand, Event, Interrupted

Steps = Generator[Event | Demand, None, None]

# Jobs that have just got what they wanted come back with more of the same: so long they are waited for, lest they fall
# out of step and share nothing from then on.
_GATHER_SECONDS = 0.02


class _Want:
    """What a job waits for. member: its events."""

    def __init__(self, member: object, demand: Demand) -> None:
        self.member, self.demand = member, demand
        self.served = threading.Event()
        self.error: BaseException | None = None


class Company:
    """size: of the attempts that belong to it; each is to call `leave` once, when it is over."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._present = size
        self._wanted: deque[_Want] = deque()
        self._awaited: set[object] = set()
        self._broken: BaseException | None = None
        self._since = monotonic()
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """What an attempt that is still here has had of the worker's time: every moment is shared by those present."""
        with self._changed:
            self._count()
            return self._seconds

    def leave(self) -> None:
        with self._changed:
            self._count()
            self._present -= 1
            self._changed.notify_all()

    def events(self, steps: Steps) -> Generator[Event, None, None]:
        """The steps of a job without its demands, which are computed in company; for its own thread."""
        member = object()
        with closing(steps):
            for step in steps:
                if isinstance(step, Demand):
                    self._have_computed(member, step)
                else:
                    yield step

    def compute(self) -> None:
        """Computes what the jobs want until all attempts have left."""
        try:
            while wanted := self._gather():
                self._serve(wanted)
        except BaseException as error:
            # No job is to wait for ever for what nobody computes any more.
            with self._changed:
                self._broken = error
                for want in self._wanted:
                    want.error = _no_more(error)
                    want.served.set()
            raise

    def _have_computed(self, member: object, demand: Demand) -> None:
        want = _Want(member, demand)
        with self._changed:
            if self._broken is not None:
                raise _no_more(self._broken)
            self._wanted.append(want)
            self._changed.notify_all()
        want.served.wait()
        if want.error is not None:
            raise want.error

    def _gather(self) -> list[_Want]:
        """What is wanted, the oldest first, once there is something; nothing when all have left."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or not self._present)
            self._changed.wait_for(
                lambda: self._awaited <= {want.member for want in self._wanted}, timeout=_GATHER_SECONDS
            )
            self._awaited.clear()
            return list(self._wanted)

    def _serve(self, wanted: list[_Want]) -> None:
        """Computes one batch. A job that has to end, and one whose own demand fails, hears of it; what the others want
        stands as it stood."""
        first, *others = wanted
        try:
            first.demand.compute([other.demand for other in others])
        except Interrupted as stop:
            (concerned,) = (want for want in wanted if want.demand is stop.demand)
            concerned.error = stop.cause
        except Exception as error:
            # Perhaps another's doing: then it comes to that one when its demand is the first.
            first.error = error
        with self._changed:
            for want in wanted:
                if want.error is not None or want.demand.over:
                    self._wanted.remove(want)
                    self._awaited.add(want.member)
                    want.served.set()

    def _count(self) -> None:
        now = monotonic()
        self._seconds += (now - self._since) / max(1, self._present)
        self._since = now


def _no_more(why: BaseException) -> RuntimeError:
    return RuntimeError(f"the worker has stopped computing: {type(why).__name__}: {why}")
