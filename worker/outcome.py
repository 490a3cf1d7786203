"""How an attempt ended, as a value; and what each exception means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from common.errors import NightshiftError
from common.log import masked
from common.states import Reason


class Stop(Exception):
    """Raised inside a running job when it has to end now: by `Watch.check`."""


class Cancel(Stop):
    """The caller cancelled the job."""


class Lost(Stop):
    """The lease is gone: another worker may hold the job. Nothing more may be written about it."""


class YieldNow(Stop):
    """The job is to be given back, without its unfinished block."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Succeeded:
    """fingerprint: of all that decides the result; None where no other job may take it over."""

    result: Mapping[str, Any]
    fingerprint: str | None = None


@dataclass(frozen=True)
class Failed:
    """For good: trying again would not help."""

    error: Mapping[str, Any]


@dataclass(frozen=True)
class Retry:
    """Trying again may help."""

    error: Mapping[str, Any]


@dataclass(frozen=True)
class Yielded:
    reason: Reason


@dataclass(frozen=True)
class Cancelled:
    pass


@dataclass(frozen=True)
class LeaseGone:
    pass


Outcome = Succeeded | Failed | Retry | Yielded | Cancelled | LeaseGone


def of_exception(error: BaseException) -> Outcome:
    """Pure: what an exception that ended an attempt means for the job."""
    match error:
        case Cancel():
            return Cancelled()
        case Lost():
            return LeaseGone()
        case YieldNow(reason=reason):
            return Yielded(reason)
        case NightshiftError():
            return Retry(error.as_job_error()) if error.retryable else Failed(error.as_job_error())
        case _:
            # Unknown: perhaps a fault of the moment. Finished blocks are kept, so another try costs little.
            return Retry(
                {
                    "code": "engine_failed",
                    "message": masked(f"{type(error).__name__}: {error}")[:500],
                    "retryable": True,
                    "hint": "If it comes again, look at the worker's log for this job.",
                }
            )


def backoff(failures: int, base_seconds: float, random: Random) -> float:
    """Pure: seconds before the next try: doubles with every failure, at most an hour, with full jitter of one half."""
    whole = min(3600.0, base_seconds * 2**failures)
    return whole / 2 + random.uniform(0, whole / 2)
