"""Pure: how much a key may have, and the day by which its hours are counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from common.engines import Kind


@dataclass(frozen=True)
class Quotas:
    """max_waiting: unfinished jobs.  max_audio_hours_per_day: hours of audio, days in UTC.  max_bytes: in the store.
    None: any."""

    max_waiting: int
    max_audio_hours_per_day: float | None = None
    max_bytes: int | None = None

    def but(self, **own: Any) -> Quotas:
        """With what a key has of its own, by name; None: nothing."""
        return replace(self, **{name: value for name, value in own.items() if value is not None})


def is_audio(kind: str) -> bool:
    """Whether the length of such a job is a time, which counts towards the hours of a day."""
    return kind != Kind.SEGMENTATION


def midnight(now: datetime) -> datetime:
    """The beginning of the day. now: UTC."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def next_midnight(now: datetime) -> datetime:
    return midnight(now) + timedelta(days=1)
