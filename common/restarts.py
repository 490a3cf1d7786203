"""Pure: what becomes of a supervised program that has ended."""

from __future__ import annotations

import signal
from collections.abc import Collection
from dataclasses import dataclass

# sysexits.h: the configuration is wrong, and starting again will not mend it.
EX_CONFIG = 78


@dataclass(frozen=True)
class Backoff:
    """The pause before a restart doubles from `first_seconds` to `most_seconds`; `healthy_seconds` of life reset it."""

    first_seconds: float = 1.0
    most_seconds: float = 60.0
    healthy_seconds: float = 60.0

    def pause(self, failures: int) -> float:
        """Seconds before the restart that follows the n-th death in a row, n from 1."""
        # The exponent is bounded: a program that dies for weeks must not overflow a float.
        return min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))


@dataclass(frozen=True)
class Done:
    """It ended because somebody told it to: not started again."""


@dataclass(frozen=True)
class Hopeless:
    """It cannot run as things are configured: everything is to stop."""


@dataclass(frozen=True)
class Again:
    """It died: to be started again. failures: deaths in a row, this one counted."""

    in_seconds: float
    failures: int


def after_exit(
    code: int, uptime: float, failures: int, backoff: Backoff, done: Collection[int] = (0,),
    hopeless: Collection[int] = (EX_CONFIG,),
) -> Done | Hopeless | Again:  # fmt: skip
    """What to do about an exit. code: as `subprocess` tells it, negative for a signal.  uptime: seconds it had lived.
    failures: deaths in a row before this one."""
    if code in done:
        return Done()
    if code in hopeless:
        return Hopeless()
    failures = 1 if uptime >= backoff.healthy_seconds else failures + 1
    return Again(backoff.pause(failures), failures)


def describe(code: int) -> str:
    """An exit in words: `exit status 3`, `SIGKILL`."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
