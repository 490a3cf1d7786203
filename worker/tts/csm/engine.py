"""The engine `csm-1b`: weights found, model loaded, rows fitted to the card."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from worker import device as devices
from worker import hub
from worker.batches import Batches
from worker.engine import Host
from worker.tts.csm.model import Csm
from worker.tts.csm.synthesizer import CsmSynthesizer
from worker.tts.pipeline import SpeechEngine

# Joining a frame to the cache copies it once; the rest is what the layers hold for a moment.
_COPIES = 2.5
_OVERHEAD_BYTES = 64 << 20


class CsmEngine(SpeechEngine):
    """A CSM of the registry, on its host's card; on a CPU where the host allows it.

    Construction raises `weights_missing`, `weights_refused`, `weights_invalid`, `device_missing` and, where the card
    cannot hold the weights, `gpu_oom`.
    """

    registered: ClassVar[str]

    def __init__(self, host: Host) -> None:
        super().__init__(synthesizer(self.registered, hub.folder_of(self.registered, host), host))


class Csm1b(CsmEngine):
    registered = "csm-1b"


def synthesizer(name: str, folder: Path, host: Host, dtype: torch.dtype | None = None) -> CsmSynthesizer:
    """A checkpoint's folder, loaded. dtype: of the transformers; None: bfloat16 on a card, float32 on a CPU.

    Raises `weights_invalid`, `device_missing`, `gpu_oom`.
    """
    device = devices.choose(host, name)
    model = Csm.load(folder, device, dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16), name)
    row = int(_COPIES * model.position_bytes * model.positions) + _OVERHEAD_BYTES
    return CsmSynthesizer(name, model, Batches(name, device, row, fraction=host.memory_fraction))
