"""The protocol of separators: one block in, its stems out. The pipeline around it does everything else."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, cast

import numpy as np

from common.params import Prompt, SeparationParams
from worker.engine import Demand

Stems = Mapping[str, np.ndarray]
"""Stem name to float32 [channels, samples]."""


@dataclass(frozen=True)
class BlockAudio:
    """A block as a separator hears it.

    samples: float32 [channels, n], context included; equal channels have been reduced to one.
    rate: samples per second, the file's own.
    start: absolute position of the first sample in the file; `start / rate` is its second.
    keep: the slice of `samples` that the stems must cover, exactly.
    """

    index: int
    samples: np.ndarray
    rate: int
    start: int
    keep: slice

    @property
    def kept(self) -> np.ndarray:
        """The mix over `keep`, [channels, keep.stop - keep.start]."""
        return self.samples[:, self.keep]


class Separator(Protocol):
    """A model with the block length and context it wants.

    block_seconds: length of a block.  context_seconds: what it needs to hear before and after.
    overlap_seconds: how long neighbouring blocks are cross-faded.
    Whole seconds of block and context keep block borders on whole samples at every rate the model converts to.
    """

    name: str
    version: str
    block_seconds: float
    context_seconds: tuple[float, float]
    overlap_seconds: float

    @property
    def shares(self) -> bool:
        """Whether several jobs are better done at once: it yields demands, and a batch may hold those of all."""
        ...

    def for_job(self) -> Separator:
        """The same for one job: with all that is loaded, but with figures, and a memory of what it heard, of its own.
        Where there is neither, itself."""
        ...

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float | Demand, None, Stems]:
        """Yields the fraction of the block that is done, now and then, and what must be computed before it goes on;
        returns the stems of `wanted(params)`.

        The stems depend on nothing but the block and the parameters. `check` raises when the work must stop and is to
        be called at least every two seconds.
        """
        ...

    def figures(self) -> Mapping[str, float]:
        """What it has done since it was made, for the metrics of its job."""
        ...

    def memory_bytes(self) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Stem:
    """One stem that was asked for."""

    name: str
    prompt: Prompt
    part: Literal["target", "residual"]


def wanted(params: SeparationParams) -> tuple[Stem, ...]:
    """The stems a job asked for, in the order of its prompts; targets before residuals."""
    stems: list[Stem] = []
    for prompt in params.prompts:
        if "target" in params.outputs:
            stems.append(Stem(prompt.name, prompt, "target"))
        if "residual" in params.outputs:
            stems.append(Stem(params.residual_name(prompt), prompt, "residual"))
    return tuple(stems)


T = TypeVar("T")


def share(steps: Generator[float, None, T], index: int, count: int) -> Generator[float, None, T]:
    """Part `index` of `count` equal parts of a whole: passes its fractions on as the whole's, returns its result."""
    with closing(steps):
        while True:
            try:
                fraction = next(steps)
            except StopIteration as finished:
                return cast(T, finished.value)
            yield (index + fraction) / count
