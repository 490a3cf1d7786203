"""The total time of an exchange and the caller's wish to stop, seen wherever the exchange waits."""

from __future__ import annotations

import time
from collections.abc import Callable

# No wait is longer before the caller is asked again.
SLICE_SECONDS = 0.5


class DeadlinePassed(Exception):
    """The time for the whole exchange is over."""


def _never() -> None:
    return


class Deadline:
    """`seconds` from now. check: raises when the caller wants to stop; asked about twice a second, in this thread."""

    def __init__(
        self, seconds: float, check: Callable[[], None] = _never, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._check = check
        self._end = clock() + seconds
        self._asked = -1e9

    def tick(self) -> float:
        """Seconds left. Raises DeadlinePassed, and whatever `check` raises."""
        now = self._clock()
        if now - self._asked >= SLICE_SECONDS:
            self._asked = now
            self._check()
        if now >= self._end:
            raise DeadlinePassed(f"over after {self.seconds:g} s")
        return self._end - now

    def wait(self, happened: Callable[[float], bool], limit: float | None = None) -> bool:
        """Waits until `happened(span)`, which waits at most `span` seconds, is true; False after `limit` seconds."""
        end = None if limit is None else self._clock() + limit
        while True:
            span = min(self.tick(), SLICE_SECONDS)
            if end is not None:
                now = self._clock()
                if now >= end:
                    return False
                span = min(span, end - now)
            if happened(span):
                return True

    def sleep(self, seconds: float) -> None:
        def _pause(span: float) -> bool:
            time.sleep(span)
            return False

        self.wait(_pause, seconds)
