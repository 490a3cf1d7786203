"""Official checkpoints into the network, strictly: every tensor has its place, or is named among the skipped.

The network is built without memory; each tensor goes from the mapped file straight to its device and dtype.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.errors import NightshiftError
from worker.separation.sam_audio.codec import NormedConv1d, NormedConvTranspose1d
from worker.separation.sam_audio.config import SamAudioConfig
from worker.separation.sam_audio.network import Network

SKIPPED = ("vision_encoder.",)
"""Prefixes of what text and time spans do not use."""

# Nine tenths of the weights and nearly all of the time. The ends of the field, its text and its time are small, and
# nearly half of the error of a shorter format would come from them.
_SHORTENED = ("transformer.layers.", "transformer.x_embedder.")
_NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint: the shape of each by name, and a way to read one."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def open_checkpoint(folder: Path) -> Weights:
    """The `checkpoint.pt` of a folder, mapped, not read. Raises `weights_missing`, `weights_invalid`."""
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise NightshiftError("weights_missing", f"{folder} has no checkpoint.pt.")
    try:
        tensors = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or ["not a checkpoint"])[0]
        raise NightshiftError("weights_invalid", f"{path} cannot be read: {reason}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise NightshiftError("weights_invalid", f"{path} does not hold tensors by name.")
    return Weights({name: tuple(value.shape) for name, value in tensors.items()}, tensors.__getitem__)


def build(config: SamAudioConfig) -> Network:
    """The network without memory for its parameters (on the meta device)."""
    with torch.device("meta"):
        return Network(config).eval().requires_grad_(False)


def layout(network: Network) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint must hold for this network."""
    return {name: shape for place in _places(network) for name, shape in place.stored.items()}


def assemble(
    config: SamAudioConfig,
    weights: Weights,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Network:
    """The network with its weights on `device`, ready to run.

    dtype: of the matrices of the transformer's layers. Everything else is float32 always.
    Raises `weights_invalid` and names every tensor that is missing, unexpected or of another shape.
    """
    network = build(config)
    check(layout(network), weights.shapes)
    state: dict[str, Tensor] = {}
    for place in _places(network):
        stored = {name: weights.read(name) for name in place.stored}
        strange = [name for name, value in stored.items() if not value.is_floating_point()]
        if strange:
            raise NightshiftError("weights_invalid", f"Tensors of whole numbers: {', '.join(strange)}.")
        target = torch.float32 if _stays_float32(place.name) else dtype
        moved = [value.to(device=device, dtype=target, copy=True) for value in stored.values()]
        state[place.name] = _folded(*moved) if len(moved) == 2 else moved[0]
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    network.settle()
    return network


def check(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `weights_invalid` where the two differ, the skipped apart."""
    said = [
        *(f"{name} is missing" for name in expected if name not in given),
        *(f"{name} is unexpected" for name in given if name not in expected and not name.startswith(SKIPPED)),
        *(
            f"{name} is {list(given[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in given and tuple(given[name]) != shape
        ),
    ]
    if said:
        more = f"; and {len(said) - _NAMED_AT_MOST} more" if len(said) > _NAMED_AT_MOST else ""
        raise NightshiftError(
            "weights_invalid",
            f"The checkpoint does not fit its config.json: {'; '.join(said[:_NAMED_AT_MOST])}{more}.",
            hint="Fetch the checkpoint again; it may be damaged or of another release.",
            extra={"tensors": len(said)},
        )


def weight_bytes(config: SamAudioConfig, dtype: torch.dtype) -> int:
    """Bytes of memory that the network's weights take, known before any is read."""
    return sum(
        math.prod(parameter.shape) * (4 if _stays_float32(name) else dtype.itemsize)
        for name, parameter in build(config).named_parameters()
    )


def fingerprint(folder: Path) -> str:
    """Tells one checkpoint from another: a digest of the checksums that its file keeps of every tensor's bytes."""
    try:
        with zipfile.ZipFile(folder / "checkpoint.pt") as archive:
            entries = sorted((item.filename.partition("/")[2], item.file_size, item.CRC) for item in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise NightshiftError("weights_invalid", f"{folder / 'checkpoint.pt'} is not a checkpoint: {error}") from error
    return hashlib.sha256(repr(entries).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Place:
    """A parameter and the tensors of the checkpoint that it is made of: itself, or a length and a direction."""

    name: str
    stored: Mapping[str, tuple[int, ...]]


def _places(network: Network) -> Iterator[_Place]:
    normed = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, NormedConv1d | NormedConvTranspose1d)
    }
    for name, parameter in network.named_parameters():
        shape = tuple(parameter.shape)
        if name in normed:
            yield _Place(name, {f"{name}_g": (shape[0], 1, 1), f"{name}_v": shape})
        else:
            yield _Place(name, {name: shape})


def _folded(length: Tensor, direction: Tensor) -> Tensor:
    """The weight that weight normalisation makes (T. Salimans, D. Kingma, 2016), over all axes but the first."""
    return direction * (length / torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True))


def _stays_float32(name: str) -> bool:
    return not name.startswith(_SHORTENED) or "norm." in name or name.endswith("scale_shift_table")
