"""Segment Anything as engines of the registry: the published networks and weights, on a card or on a CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from common.engines import REGISTRY
from common.params import Automatic
from worker import device as devices
from worker import tensors, weights
from worker.engine import Host
from worker.media.images import Picture
from worker.segmentation.pipeline import SegmentationEngine
from worker.segmentation.sam import automatic, prompted
from worker.segmentation.sam.attention import bound
from worker.segmentation.sam.predictor import Predictor
from worker.segmentation.segmenter import Check, Found, Prompts, Tally

_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""By which pixels are brought to the range that the networks were trained on; the weights do not hold them."""


class SegmentAnything:
    """The segmenter. version: of the weights."""

    def __init__(self, name: str, network: Sam, device: torch.device, version: str) -> None:
        self.name, self.version = name, version
        self._weights = devices.size(network)
        self._predictor: Predictor | None = Predictor(network, device, half=device.type == "cuda")
        self._device = device

    @property
    def predictor(self) -> Predictor:
        assert self._predictor is not None, "the segmenter was closed"
        return self._predictor

    def prompted(self, picture: Picture, prompts: Prompts, tally: Tally, check: Check) -> Iterator[Found | float]:
        """predicted_iou: the network's. stability_score: at logits of +1 and -1, as for automatic masks."""
        steps = self.predictor.look(picture.pixels, (picture.height, picture.width), tally, check)
        while True:
            try:
                yield 0.9 * next(steps)
            except StopIteration as ended:
                view = ended.value
                break
        yield from prompted.found(self.predictor, view, prompts, tally, check)

    def automatic(self, picture: Picture, wanted: Automatic, tally: Tally, check: Check) -> Iterator[Found | float]:
        yield from automatic.found(self.predictor, picture, wanted, tally, check)

    def memory_bytes(self) -> int:
        return self._weights + (self._predictor.kept_bytes if self._predictor else 0)

    def close(self) -> None:
        if self._predictor is not None:
            self._predictor.close()
        self._predictor = None
        devices.release(self._device)


class SamEngine(SegmentationEngine):
    """A size of it. Raises `device_missing`, `weights_missing`, `weights_invalid`, `gpu_oom`."""

    engine: ClassVar[str]
    size: ClassVar[str]

    def __init__(self, host: Host) -> None:
        spec = REGISTRY[self.engine]
        device = devices.choose(host, spec.name)
        assert spec.weights is not None
        path = weights.locate(spec.weights, host.models, host.on_fetch)
        network = load(self.build(), path, spec.name)
        bound(network)
        devices.move(network, device, spec.name)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        super().__init__(SegmentAnything(spec.name, network, device, f"sam-{digest[:16]}-1"))

    @classmethod
    def build(cls) -> Sam:
        """The network without memory for its parameters."""
        with torch.device("meta"):
            network: Sam = sam_model_registry[f"vit_{cls.size}"]()
        return network


class SamViTB(SamEngine):
    engine, size = "sam-vit-b", "b"


class SamViTL(SamEngine):
    engine, size = "sam-vit-l", "l"


class SamViTH(SamEngine):
    engine, size = "sam-vit-h", "h"


def load(network: Sam, path: Path, name: str) -> Sam:
    """Puts the tensors of a file into a network without memory, ready to run. Raises `weights_invalid`."""
    tensors.load(network, path, name)
    network.pixel_mean = torch.tensor(_MEAN).view(-1, 1, 1)
    network.pixel_std = torch.tensor(_DEVIATION).view(-1, 1, 1)
    return network.float().eval().requires_grad_(False)
