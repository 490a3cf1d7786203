"""The engines of `busy`: they take the time a card would take, and remember when they did."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from common.engines import EngineSpec, Kind, Lane
from common.params import SeparationParams
from worker.engine import Demand, Host
from worker.separation.fixed_rate import FixedRate
from worker.separation.pipeline import SeparationEngine
from worker.separation.separator import BlockAudio, Stems

TIMES_REAL_TIME = 30.0

CARD = EngineSpec(
    name="bench-card",
    kind=Kind.SEPARATION,
    target="bench.engines:Card",
    lane=Lane.CPU,
    summary="Takes the time that a card takes, and leaves the processor alone meanwhile",
    licence="Apache-2.0",
)


SHARED = replace(CARD, name="bench-shared-card", target="bench.engines:SharedCard")


@dataclass(frozen=True)
class Span:
    """One block's computing, on the clock of `time.monotonic`. start: of the block in its recording, in samples."""

    began: float
    ended: float
    start: int


class _Remembering(FixedRate):
    spans: list[Span]

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float, None, Stems]:
        began = time.monotonic()
        stems = yield from super().separate(block, params, check)
        self.spans.append(Span(began, time.monotonic(), block.start))
        return stems


class Card(SeparationEngine):
    """spans: what all engines of this process have computed, in order."""

    spans: list[Span] = []  # noqa: RUF012 (shared on purpose)

    def __init__(self, host: Host) -> None:
        separator = _Remembering(1 / TIMES_REAL_TIME)
        separator.spans = Card.spans
        super().__init__(separator)


class _Seconds(Demand):
    """What a card owes a block. Shared with others' it takes as long as by itself: what is gained is that the card need
    not wait."""

    STEP = 0.05

    def __init__(self, owed: float, check: Callable[[], None]) -> None:
        self._owed, self._check = owed, check

    @property
    def over(self) -> bool:
        return self.seconds >= self._owed

    def compute(self, others: Sequence[Demand]) -> None:
        self._check()
        began = time.monotonic()
        time.sleep(min(self.STEP, self._owed - self.seconds))
        self.seconds += time.monotonic() - began
        SharedCard.seconds += time.monotonic() - began


class _Shared(FixedRate):
    shares = True

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float | Demand, None, Stems]:
        wanted = _Seconds(block.kept.shape[1] / block.rate / TIMES_REAL_TIME, check)
        while not wanted.over:
            yield wanted
        return (yield from super().separate(block, params, check))


class SharedCard(SeparationEngine):
    """seconds: what all engines of this process have computed."""

    seconds = 0.0

    def __init__(self, host: Host) -> None:
        super().__init__(_Shared())
