"""How much is measured: a glance that only shows that everything works, the usual run, or the whole length."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Scale(StrEnum):
    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"

    def pick(self, *, quick: T, normal: T, full: T | None = None) -> T:
        if self is Scale.QUICK:
            return quick
        return full if self is Scale.FULL and full is not None else normal
