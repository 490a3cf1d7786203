"""Engines for tests, registered by NIGHTSHIFT_EXTRA_ENGINES=tests.engines:FAST,…; each has one known behaviour."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common.engines import EngineSpec, Kind, Lane
from common.errors import NightshiftError
from common.params import SeparationParams
from worker.engine import Demand, Event, Host, Interrupted, Progress, Work
from worker.separation.fixed_rate import FixedRate, FixedRateEngine
from worker.separation.pipeline import SeparationEngine
from worker.separation.separator import BlockAudio, Stems

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
SHARES = replace(FAST, name="shares", target="tests.engines:Shares", summary="Gains from doing several jobs at once")
HANGS = replace(FAST, name="hangs", target="tests.engines:Hangs", summary="Never comes back")
CRASHES = replace(FAST, name="crashes", target="tests.engines:Crashes", summary="Kills its process")
BREAKS = replace(FAST, name="breaks", target="tests.engines:Breaks", summary="Raises")
REFUSES = replace(FAST, name="refuses", target="tests.engines:Refuses", summary="Fails for good")
ABSENT = replace(
    FAST, name="absent", target="tests.engines:Fast", packages=("no_such_package",), install="pip install it"
)

ALL = ",".join(
    f"tests.engines:{name}"
    for name in ("FAST", "SLOW", "SLOW_GPU", "SHARES", "HANGS", "CRASHES", "BREAKS", "REFUSES", "ABSENT")
)


class Fast(FixedRateEngine):
    def __init__(self, host: Host) -> None:
        super().__init__(0.0, block_seconds=2.0)


class Slow(FixedRateEngine):
    def __init__(self, host: Host) -> None:
        super().__init__(0.1, block_seconds=5.0)


class _Halving(Demand):
    """Two seconds of audio, in twenty steps, which any number of jobs may take at once.

    Where the audio says so, with its first sample at the top of its range, it kills its process; at the bottom, it
    hangs.
    """

    STEPS = 20

    def __init__(self, separator: Halving, check: Callable[[], None], first: float) -> None:
        self.separator, self.check, self.first = separator, check, first
        self.done = 0

    @property
    def over(self) -> bool:
        return self.done == self.STEPS

    def compute(self, others: Sequence[Demand]) -> None:
        batch = [self, *(other for other in others if isinstance(other, _Halving))]
        for one in batch:
            try:
                one.check()
            except Exception as stop:
                raise Interrupted(one, stop) from stop
        time.sleep(0.02)
        for one in batch:
            if one.done == self.STEPS // 2 and one.first >= 0.99:
                os.kill(os.getpid(), signal.SIGKILL)
            while one.done == self.STEPS // 2 and one.first <= -0.99:
                time.sleep(60)
            one.done += 1
            one.seconds += 0.02 / len(batch)
            one.separator.steps += 1
            one.separator.shared += len(batch) > 1


class Halving(FixedRate):
    """steps, shared: how many it had computed for its job, and of these with others'."""

    name = "shares"
    shares = True

    def __init__(self) -> None:
        super().__init__(0.0, block_seconds=2.0)
        self.steps = self.shared = 0

    def for_job(self) -> Halving:
        return Halving()

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float | Demand, None, Stems]:
        wanted = _Halving(self, check, float(block.kept[0, 0]) if block.index else 0.0)
        while not wanted.over:
            yield wanted
            yield wanted.done / wanted.STEPS
        return (yield from super().separate(block, params, check))

    def figures(self) -> Mapping[str, float]:
        return {"steps": self.steps, "steps_shared": self.shared}


class Shares(SeparationEngine):
    def __init__(self, host: Host) -> None:
        super().__init__(Halving())


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
