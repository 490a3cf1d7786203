"""Pure: how long results are kept, and when their owner is warned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Retention:
    """seconds: from the end of a job or batch, or the arrival of an upload.  warning_seconds: nothing is deleted sooner
    after its owner was warned; 0: nobody is."""

    seconds: float
    warning_seconds: float = 0.0

    def expires_at(self, ended: datetime | None, told: datetime | None = None) -> datetime | None:
        """When what ended then is deleted, at the earliest; None while it has not ended. told: when that was told."""
        if ended is None:
            return None
        due = ended + timedelta(seconds=self.seconds)
        if told is None or not self.warning_seconds:
            return due
        return max(due, told + timedelta(seconds=self.warning_seconds))
