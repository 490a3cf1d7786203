"""The engines `sam-audio-small`, `-base` and `-large`: weights found, model loaded, windows fitted to the card."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from common.errors import NightshiftError
from worker import device as devices
from worker import hub
from worker.batches import Batches
from worker.engine import Host
from worker.separation.pipeline import SeparationEngine
from worker.separation.sam_audio import config as configuration
from worker.separation.sam_audio import official
from worker.separation.sam_audio.config import SamAudioConfig, TransformerConfig
from worker.separation.sam_audio.fitting import LEAST_BYTES
from worker.separation.sam_audio.loading import fingerprint, weight_bytes
from worker.separation.sam_audio.longform import LongForm, window_bytes
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.separator import SamAudioSeparator

IMPLEMENTATION = "1"
"""To be raised when the same weights would give another result."""

SIZES = {
    "sam-audio-small": SamAudioConfig(transformer=TransformerConfig(1536, 12, 12, context_dim=1536)),
    "sam-audio-base": SamAudioConfig(),
    "sam-audio-large": SamAudioConfig(transformer=TransformerConfig(2816, 22, 22, context_dim=2816)),
}
"""The published networks, smallest first."""


class SamAudioEngine(SeparationEngine):
    """A size of the registry, on its host's card; on a CPU where the host allows it.

    Construction raises `weights_missing`, `weights_refused`, `weights_invalid`, `device_missing` and, where the card
    cannot hold the weights, `gpu_oom`.
    """

    registered: ClassVar[str]

    def __init__(self, host: Host) -> None:
        super().__init__(separator(self.registered, hub.folder_of(self.registered, host), host))


class SamAudioSmall(SamAudioEngine):
    registered = "sam-audio-small"


class SamAudioBase(SamAudioEngine):
    registered = "sam-audio-base"


class SamAudioLarge(SamAudioEngine):
    registered = "sam-audio-large"


def separator(
    name: str,
    folder: Path,
    host: Host,
    dtype: torch.dtype | None = None,
    *,
    window: int = 750,
    overlap: int = 125,
) -> SamAudioSeparator:
    """A checkpoint's folder, loaded.

    dtype: of the transformer's layers; None: as the host says, `auto` being the fastest that its device has.
    window, overlap: latent frames; they and the dtype are part of the version.
    Raises `weights_missing`, `weights_invalid`, `device_missing`, `gpu_oom`.
    """
    device = devices.choose(host, name)
    dtype = dtype or _dtype(host, device)
    config = configuration.read(folder)
    # Before they are read: the weights, and the least that computing takes beside them.
    stored = torch.float32 if host.sam_audio_backend == "official" else dtype
    needed = weight_bytes(config, stored) + window_bytes(config, window) + LEAST_BYTES
    there = devices.memory(device)
    if there is not None and needed > there.free:
        raise too_small(name, device, needed, stored)
    try:
        model = _load(folder, device, dtype, host)
    except RuntimeError as error:
        if not devices.out_of_memory(error):
            raise
        raise too_small(name, device, needed, stored) from error
    if host.compile_models:
        model.compile(window)
    # The other half of the memory is for the codec.
    batches = Batches(name, device, window_bytes(config, window), fraction=host.memory_fraction / 2)
    kind = str(dtype).rpartition(".")[2]
    version = f"{IMPLEMENTATION}-{fingerprint(folder)}-{kind}-{window}-{overlap}"
    if host.sam_audio_backend != "native":
        version += f"-{host.sam_audio_backend}"
    form = LongForm(model, batches, window=window, overlap=overlap)
    return SamAudioSeparator(name, version, form)


def fitting(free: int, dtype: torch.dtype, window: int = 750) -> list[str]:
    """The published sizes that so many free bytes would do for, the largest first."""
    needed = {
        name: weight_bytes(config, dtype) + window_bytes(config, window) + LEAST_BYTES
        for name, config in reversed(SIZES.items())
    }
    return [name for name, size in needed.items() if size <= free]


def too_small(name: str, device: torch.device, needed: int, dtype: torch.dtype) -> NightshiftError:
    """`gpu_oom`, with the sizes that would fit where this one does not."""
    error = devices.does_not_fit(f"{name}'s weights do", device, needed)
    if there := devices.memory(device):
        names = [other for other in fitting(there.free, dtype) if other != name]
        error.hint += f" What is free now would do for {names[0]}." if names else " No smaller size would fit either."
    return error


def _dtype(host: Host, device: torch.device) -> torch.dtype:
    if host.sam_audio_dtype == "auto":
        return devices.matrix_dtype(device)
    chosen: torch.dtype = getattr(torch, host.sam_audio_dtype)
    return chosen


def _load(folder: Path, device: torch.device, dtype: torch.dtype, host: Host) -> SamAudio:
    if host.sam_audio_backend == "official":
        return official.load(folder, device=device, dtype=dtype)
    return SamAudio.load(folder, device=device, dtype=dtype, token=host.token)
