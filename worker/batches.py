"""How much a card computes at once: as much as fits, less where it did not, remembered for the next time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import torch

from common import log
from worker import device as devices

_log = log.get(__name__)

MOST = 64
"""The largest batch: beyond it a card gains nothing that a checkpoint would not miss."""

_CPU_SHARE = 2 / 3
"""On a CPU, items that are smaller than a whole one share a batch up to this part of one. With SAM-Audio's base widths
in bfloat16, rows of a seventh of a window take 13 % less time by two and 26 % less by four, rows of a third 4 % and
10 %; whole ones gain nothing."""

# What fitted, by model and kind of card: for as long as the process lives, whatever engines come and go in it.
_fitted: dict[tuple[str, str], int] = {}

Item = TypeVar("Item")
Made = TypeVar("Made")


class Batches:
    """Items of equal cost, computed in batches on one device.

    model: what the figures are remembered under.  item_bytes: what one item takes beside the weights, about.
    most: the largest batch, at most `MOST`.  fraction: share of the free memory that a batch may take.
    On a CPU the batch is one, where the items are whole: more gains nothing there.
    """

    def __init__(
        self, model: str, device: torch.device, item_bytes: int, *, most: int = MOST, fraction: float = 0.9
    ) -> None:
        if not 1 <= most <= MOST:
            raise ValueError(f"a batch has 1 to {MOST} items")
        self._model, self._device, self._item_bytes = model, device, item_bytes
        self._most, self._fraction = most, fraction

    @property
    def size(self) -> int:
        """Items of the next batch, by the memory that is free now and by what has fitted before."""
        there = devices.memory(self._device)
        if there is None:
            return 1
        room = int(there.free * self._fraction) // self._item_bytes
        return max(1, min(room, _fitted.get(self._key, self._most), self._most))

    def run(
        self, items: Sequence[Item], compute: Callable[[Sequence[Item]], Made], share: float = 1.0
    ) -> Generator[tuple[Sequence[Item], Made], None, None]:
        """Gives consecutive parts of the items, in their order, with what `compute` made of each.

        share: of a whole item that each of these is.

        Where memory runs out, what torch holds unused is given back and the batch is halved. Raises `gpu_oom` where not
        even one item fits, and what `compute` raises.
        """
        size, at = self._sized(share), 0
        while at < len(items):
            batch = items[at : at + size]
            try:
                made = compute(batch)
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
            else:
                at += len(batch)
                yield batch, made
                # The next batch is to find the memory of this one free.
                del made
                continue
            # Only here, with the exception gone, does nothing hold the tensors of the failed batch any more.
            size = self._halved(len(batch))

    def stepwise(
        self, items: Sequence[Item], compute: Callable[[Sequence[Item]], Generator[float, None, Made]]
    ) -> Generator[float, None, list[Made]]:
        """As `run`, for computing that tells how far it is: yields the share of all items that is done, 0 to 1, and
        returns what was made of each part."""
        size, at = self.size, 0
        found: list[Made] = []
        while at < len(items):
            batch = items[at : at + size]
            try:
                working = compute(batch)
                while True:
                    try:
                        share = next(working)
                    except StopIteration as ended:
                        found.append(ended.value)
                        break
                    yield (at + share * len(batch)) / len(items)
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
            else:
                at += len(batch)
                continue
            finally:
                working.close()
            del working
            size = self._halved(len(batch))
        return found

    def _sized(self, share: float) -> int:
        if self._device.type != "cpu":
            return self.size
        return max(self.size, min(int(_CPU_SHARE / share), self._most))

    def _halved(self, size: int) -> int:
        """The next size after one that did not fit. Raises `gpu_oom`."""
        devices.release(self._device)
        if size == 1:
            raise devices.does_not_fit(f"{self._model} does", self._device, self._item_bytes)
        smaller = size // 2
        _fitted[self._key] = smaller
        _log.warning("memory ran out", model=self._model, batch=size, next_batch=smaller)
        return smaller

    @property
    def _key(self) -> tuple[str, str]:
        return self._model, devices.name(self._device)
