"""Engines for tests, registered by NIGHTSHIFT_EXTRA_ENGINES=tests.engines:FAST,…; each has one known behaviour."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common.engines import EngineSpec, Kind, Lane
from common.errors import NightshiftError
from worker.engine import Event, Host, Progress, Work
from worker.separation.fixed_rate import FixedRateEngine

FAST = EngineSpec(
    name="fast",
    kind=Kind.SEPARATION,
    target="tests.engines:Fast",
    lane=Lane.CPU,
    summary="Halves the mix at once",
    licence="Apache-2.0",
)
SLOW = replace(FAST, name="slow", target="tests.engines:Slow", summary="Takes 0.1 s per second of audio")
SLOW_GPU = replace(SLOW, name="slow-gpu", lane=Lane.GPU)
HANGS = replace(FAST, name="hangs", target="tests.engines:Hangs", summary="Never comes back")
CRASHES = replace(FAST, name="crashes", target="tests.engines:Crashes", summary="Kills its process")
BREAKS = replace(FAST, name="breaks", target="tests.engines:Breaks", summary="Raises")
REFUSES = replace(FAST, name="refuses", target="tests.engines:Refuses", summary="Fails for good")
ABSENT = replace(
    FAST, name="absent", target="tests.engines:Fast", packages=("no_such_package",), install="pip install it"
)

ALL = ",".join(
    f"tests.engines:{name}" for name in ("FAST", "SLOW", "SLOW_GPU", "HANGS", "CRASHES", "BREAKS", "REFUSES", "ABSENT")
)


class Fast(FixedRateEngine):
    def __init__(self, host: Host) -> None:
        super().__init__(0.0, block_seconds=2.0)


class Slow(FixedRateEngine):
    def __init__(self, host: Host) -> None:
        super().__init__(0.1, block_seconds=5.0)


class _Odd:
    """What the odd ones share. Each ignores `work.check`, as a kernel that hangs does."""

    name = "odd"
    version = "1"

    def __init__(self, host: Host) -> None:
        self.host = host

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class Hangs(_Odd):
    def run(self, work: Work) -> Iterator[Event]:
        yield Progress("separate", 0, 1)
        while True:
            time.sleep(60)


class Crashes(_Odd):
    def run(self, work: Work) -> Iterator[Event]:
        yield Progress("separate", 0, 1)
        os.kill(os.getpid(), signal.SIGKILL)


class Breaks(_Odd):
    def run(self, work: Work) -> Iterator[Event]:
        yield Progress("separate", 0, 1)
        raise ZeroDivisionError("at https://user:secret@host/path with ns_abcdefghijklmnop")


class Refuses(_Odd):
    def run(self, work: Work) -> Iterator[Event]:
        yield Progress("separate", 0, 1)
        raise NightshiftError("corrupt_media", "Nothing decodes.", hint="Send another file.")


def scratch_of(home: Path) -> list[Path]:
    """What workers have left in their scratch folders."""
    return [path for path in (home / "scratch").rglob("*") if path.is_file()]
