"""The cards of this machine, as NVML tells them. NVML needs no CUDA, so looking leaves every card untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class GraphicsCard:
    """index: NVML's, by bus address.  uuid: what CUDA_VISIBLE_DEVICES may name.  memory: bytes; None where
    the card shares the machine's and NVML tells no figure."""

    index: int
    uuid: str
    name: str
    memory: int | None


class Nvml(Protocol):
    """The part of `pynvml` that is used here."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...


@dataclass(frozen=True)
class Found:
    """cards: those this process may use.  why: why there are none, as a sentence."""

    cards: tuple[GraphicsCard, ...]
    why: str = ""


def find(nvml: Nvml, visible: str | None = None) -> Found:
    """The cards that `visible`, the value of CUDA_VISIBLE_DEVICES, leaves; all of them where it is None."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Found((), f"NVML, NVIDIA's management library, says: {error}.")
    try:
        cards = tuple(_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as error:
        return Found((), f"NVML cannot read the cards: {error}.")
    finally:
        nvml.nvmlShutdown()
    if not cards:
        return Found((), "The driver knows no card.")
    left = visible_of(cards, visible)
    return Found(left) if left else Found((), f"CUDA_VISIBLE_DEVICES={visible!r} leaves none of {len(cards)} cards.")


def visible_of(cards: tuple[GraphicsCard, ...], visible: str | None) -> tuple[GraphicsCard, ...]:
    """CUDA's rule: indices or beginnings of uuids, in the order wanted; the first that names no card ends the list.

    An index counts as NVML counts, by bus address (CUDA_DEVICE_ORDER=PCI_BUS_ID). Where all cards are alike, CUDA
    counts the same.
    """
    if visible is None:
        return cards
    left: list[GraphicsCard] = []
    for word in (part.strip() for part in visible.split(",")):
        named = [card for card in cards if _names(word, card)]
        if len(named) != 1 or named[0] in left:
            break
        left += named
    return tuple(left)


def _names(word: str, card: GraphicsCard) -> bool:
    if word.isdigit():
        return int(word) == card.index
    return word.startswith("GPU-") and card.uuid.startswith(word)


def _card(nvml: Nvml, index: int) -> GraphicsCard:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:
        memory = None
    return GraphicsCard(index, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), memory)
