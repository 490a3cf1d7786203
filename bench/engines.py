"""The engine of `busy`: it takes the time a card would take, and remembers when it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from common.engines import EngineSpec, Kind, Lane
from common.params import SeparationParams
from worker.engine import Host
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
