"""Jobs that a worker does at once, so that what they want computed can share batches.

Each attempt goes its own way in a thread of its own: it fetches, stores and ends as one alone does. Only the steps of
the engine are taken elsewhere, all in the one thread that calls `compute`: no two jobs ever compute at a time, and what
one of them raises is raised in its own thread, and in no other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from queue import SimpleQueue
from time import monotonic, sleep

from worker.engine import Demand, Event, Interrupted

Steps = Generator[Event | Demand, None, None]

# So many events may wait for a job's own thread, which may be storing a block, before the job is taken no further.
_UNHEARD = 8
_PAUSE_SECONDS = 0.02


class _End:
    """Of a job's events. error: what ended them, if it was no good end."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Member:
    """A job that is being computed. steps: taken in the computing thread alone."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.told: SimpleQueue[Event | _End] = SimpleQueue()
        self.demand: Demand | None = None
        self.leaving = threading.Event()
        self.gone = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether it may go on, as far as its own thread is concerned."""
        return self.leaving.is_set() or self.told.qsize() < _UNHEARD

    @property
    def wanting(self) -> bool:
        return self.demand is not None and not self.demand.over

    def step(self) -> None:
        """Goes on to what it wants computed, to its next event, or to its end."""
        self.demand = None
        try:
            if self.leaving.is_set():
                self._steps.close()
                self._end()
                return
            step = next(self._steps)
        except StopIteration:
            self._end()
        except BaseException as error:
            self._end(error)
        else:
            if isinstance(step, Demand):
                self.demand = step
            else:
                self.told.put(step)

    def fail(self, error: BaseException) -> None:
        """Ends it by an error that its demand met."""
        self.demand = None
        try:
            self._steps.throw(error)
        except BaseException as raised:
            self._end(raised)
        else:
            self._steps.close()
            self._end(error)

    def _end(self, error: BaseException | None = None) -> None:
        self.told.put(_End(error))
        self.gone.set()


class Company:
    """size: of the attempts that belong to it; each is to call `leave` once, when it is over."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._present = size
        self._coming: deque[_Member] = deque()
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
        """What a job tells while it is computed; for its own thread. Closing it closes `steps`, and waits for that."""
        member = _Member(steps)
        with self._changed:
            if self._broken is not None:
                raise _no_more(self._broken)
            self._coming.append(member)
            self._changed.notify_all()
        try:
            while not isinstance(told := member.told.get(), _End):
                yield told
            if told.error is not None:
                raise told.error
        finally:
            member.leaving.set()
            with self._changed:
                self._changed.notify_all()
            member.gone.wait()

    def compute(self) -> None:
        """Computes what the jobs want until all attempts have left."""
        members: deque[_Member] = deque()
        try:
            while self._gather(members):
                ready = [member for member in members if member.ready]
                for member in ready:
                    member.step()
                if wanting := [member for member in members if member.wanting]:
                    _batch(wanting)
                elif not ready:
                    sleep(_PAUSE_SECONDS)
                for member in [member for member in members if member.gone.is_set()]:
                    members.remove(member)
                # Where not all that is wanted fits into a batch, another job is to be the first of the next.
                members.rotate(-1)
        except BaseException as error:
            # No job is to wait for ever for what nobody computes any more.
            with self._changed:
                self._broken = error
            for member in (*members, *self._coming):
                member.fail(_no_more(error))
            raise

    def _gather(self, members: deque[_Member]) -> bool:
        """Takes in who has come, waiting where nobody is there yet. False: all have left."""
        with self._changed:
            self._changed.wait_for(lambda: members or self._coming or not self._present)
            members.extend(self._coming)
            self._coming.clear()
            return bool(members or self._present)

    def _count(self) -> None:
        now = monotonic()
        self._seconds += (now - self._since) / max(1, self._present)
        self._since = now


def _no_more(why: BaseException) -> RuntimeError:
    return RuntimeError(f"the worker has stopped computing: {type(why).__name__}: {why}")


def _batch(wanting: Sequence[_Member]) -> None:
    """Computes one batch. A job that has to end, and one whose own demand fails, ends; the others stand as they
    stood."""
    demands = {id(member.demand): member for member in wanting}
    first, *others = (member.demand for member in wanting if member.demand is not None)
    try:
        first.compute(others)
    except Interrupted as stop:
        demands[id(stop.demand)].fail(stop.cause)
    except Exception as error:
        # Perhaps another's doing: then it comes to that one when its demand is the first.
        wanting[0].fail(error)
