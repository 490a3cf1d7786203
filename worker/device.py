"""The device a torch engine computes on: its choice, its memory, and the road of a network onto it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from common.errors import NightshiftError
from worker.engine import Host

# What cuBLAS and cuDNN say where torch has no class for it, and torch itself of the machine's memory.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")


@dataclass(frozen=True)
class Memory:
    """Bytes of a card. free: what this process could take, with what torch holds unused."""

    free: int
    total: int

    def __str__(self) -> str:
        return f"{gib(self.free)} free of {gib(self.total)}"


def choose(host: Host, engine: str) -> torch.device:
    """The device for an engine made for a card. Raises `device_missing` where the host has none and it may not do
    without."""
    if lacking := host.lacks_card:
        raise NightshiftError("device_missing", f"{engine}: {lacking[0]}.", hint=lacking[1])
    device = torch.device(host.device)
    if device.type == "cpu":
        return device
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= found:
        raise NightshiftError(
            "device_missing",
            f"{engine} was to run on {host.device}, but torch sees {found} cards.",
            hint="Look at `nvidia-smi`, at CUDA_VISIBLE_DEVICES, and whether torch was built for this driver.",
        )
    return device


def matrix_dtype(device: torch.device) -> torch.dtype:
    """The format a network's large matrices are computed in: bfloat16 on a card, and on a CPU that has units for it
    (AMX, AVX-512 BF16: three to four times as fast as float32 there); float32 on any other, which would only emulate
    it."""
    if device.type != "cpu":
        return torch.bfloat16
    # Not every torch tells; where it does not, float32 is never wrong.
    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if told.get("amx_bf16") or told.get("avx512_bf16") else torch.float32


def memory(device: torch.device) -> Memory | None:
    """The card's memory now; None for a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Memory(free + unused, total)


def name(device: torch.device) -> str:
    """What tells kinds of cards apart; `cpu` for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def release(device: torch.device) -> None:
    """Gives the card what torch holds unused."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def size(network: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def move(network: nn.Module, device: torch.device, engine: str) -> None:
    """Puts the network there. Raises `gpu_oom` where it does not fit."""
    try:
        network.to(device)
        return
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    network.to("cpu")
    release(device)
    raise does_not_fit(f"{engine}'s weights do", device, size(network))


def out_of_memory(error: BaseException) -> bool:
    """Whether a failure of torch was one of memory, which less work may avoid."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def does_not_fit(what: str, device: torch.device, needed: int) -> NightshiftError:
    """`gpu_oom`. what: subject and verb, `… do` or `… does`.  needed: bytes that would do, about."""
    there = memory(device)
    card = f"{name(device)}: {there}" if there else "the machine's memory is used up"
    return NightshiftError(
        "gpu_oom",
        f"{what} not fit ({card}).",
        hint=f"About {gib(needed)} free would do: use a card with more memory, or end what else uses this one.",
        extra={"bytes_needed": needed} | ({"bytes_free": there.free, "bytes_total": there.total} if there else {}),
    )


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


@contextmanager
def interruptible(network: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Inside, every layer of the network calls `check` before it computes; what `check` raises ends the evaluation.

    On a CPU one evaluation may take a minute, and a cancelled job is to stop within seconds.
    """

    def ask(*_: object) -> None:
        check()

    hooks = [layer.register_forward_pre_hook(ask) for layer in network.modules() if not any(layer.children())]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
