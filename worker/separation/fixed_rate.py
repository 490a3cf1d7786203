"""A separator that costs a given time and does nothing clever: for benchmarks and tests of what is around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import Self

import numpy as np

from common.params import SeparationParams
from worker.separation.pipeline import SeparationEngine
from worker.separation.separator import BlockAudio, Stems, wanted


class FixedRate:
    """Targets are `gain` times the mix, residuals the rest; a second of audio costs `cost` seconds.

    spin: burns a core while it computes; else it sleeps, as a process does whose card computes.
    """

    name = "fixed-rate"
    version = "1"
    shares = False

    def __init__(
        self,
        cost: float = 0.0,
        *,
        gain: float = 0.5,
        spin: bool = False,
        block_seconds: float = 60.0,
        context_seconds: tuple[float, float] = (1.0, 1.0),
        overlap_seconds: float = 0.1,
        step_seconds: float = 0.05,
    ) -> None:
        self.cost, self.gain, self.spin, self.step_seconds = cost, gain, spin, step_seconds
        self.block_seconds = block_seconds
        self.context_seconds = context_seconds
        self.overlap_seconds = overlap_seconds
        self.computed: list[int] = []

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float, None, Stems]:
        """Costs are counted on what a block owns, so that a file costs the same on any grid."""
        started = time.monotonic()
        owed = self.cost * block.kept.shape[1] / block.rate
        while (spent := time.monotonic() - started) < owed:
            check()
            self._work(min(self.step_seconds, owed - spent))
            yield min(1.0, (time.monotonic() - started) / owed)
        check()
        self.computed.append(block.index)
        target = block.kept * np.float32(self.gain)
        residual = block.kept - target
        return {stem.name: target if stem.part == "target" else residual for stem in wanted(params)}

    def _work(self, seconds: float) -> None:
        if not self.spin:
            time.sleep(seconds)
            return
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    def for_job(self) -> Self:
        return self

    def figures(self) -> Mapping[str, float]:
        return {}

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class FixedRateEngine(SeparationEngine):
    """The same as an engine; for a registry of a test or a benchmark, never the public one."""

    def __init__(self, cost: float = 0.0, *, spin: bool = False, block_seconds: float = 60.0) -> None:
        super().__init__(FixedRate(cost, spin=spin, block_seconds=block_seconds))
