"""Published files of tensors into networks."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from common.errors import NightshiftError


def load(network: nn.Module, path: Path, name: str) -> None:
    """Puts the tensors of a file into a network without memory: exactly those it has, no others.

    name: of the engine, for the message. Raises `weights_invalid`.
    """
    try:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict(tensors, strict=True, assign=True)
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise NightshiftError(
            "weights_invalid",
            f"{path} does not hold the weights of {name}: {reason}",
            hint="Delete it and let it be fetched again, or put the published file there.",
        ) from error
