"""The official `sam_audio` package as the network, inside this project's way through long recordings.

Windows, noise, blocks and the codec's pieces stay as they are, so that the two networks can be held against each other
at every step. Parts that text and time spans do not use are neither built nor fetched: the vision encoder, the rankers
and the span predictor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import NightshiftError
from worker.separation.sam_audio import config as configuration
from worker.separation.sam_audio.config import SamAudioConfig
from worker.separation.sam_audio.loading import SKIPPED, Weights, open_checkpoint
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.text import TextEncoder, find_text_encoder

SOURCE = "https://github.com/facebookresearch/sam-audio"
_MARKS = 4


def load(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    t5: Path | str | None = None,
    weights: Weights | None = None,
) -> SamAudio:
    """The model of a checkpoint's folder, computed by the official code.

    dtype: of its matrices at work, by autocast; the weights are float32, as the official code loads them.
    t5: see `SamAudio.load`.  weights: else those of the folder's checkpoint.
    Raises `engine_not_ready` where the package is not there, `weights_missing`, `weights_invalid`.
    """
    package = _package()
    config = configuration.read(folder)
    source = find_text_encoder(config.text_encoder, folder) if t5 is None else t5
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values["text_encoder"] = {**(values.get("text_encoder") or {}), "name": str(source)}
    values |= {"visual_ranker": None, "text_ranker": None, "span_predictor": None}
    try:
        with _blind(package):
            made = package.SAMAudio(package.SAMAudioConfig(**values)).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NightshiftError("weights_missing", f"The official model cannot be built: {reason}") from error
    given = weights or open_checkpoint(folder)
    try:
        made.load_state_dict({name: given.read(name) for name in given.shapes if not name.startswith(SKIPPED)})
    except RuntimeError as error:
        raise NightshiftError(
            "weights_invalid", f"The official code refuses the checkpoint in {folder}: {error}"
        ) from error
    text = made.text_encoder
    made.text_encoder = None
    text_encoder = TextEncoder(text.model.to(device).eval(), text.tokenizer, text.max_length)
    return SamAudio(OfficialNetwork(made.to(device), config, dtype), text_encoder)


class OfficialNetwork(nn.Module):
    """An official model with the members of `Network` that `SamAudio` uses."""

    def __init__(self, made: Any, config: SamAudioConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.made, self.config, self.dtype = made, config, dtype
        self.proj: nn.Linear = made.proj
        self.audio_codec = OfficialCodec(made.audio_codec)

    def condition(self, features: Tensor, marks: Tensor) -> Tensor:
        """Both, [B, T, 2 * latent channels + 1]: the official code mixes them with the state at every evaluation."""
        return torch.cat((features.float(), marks[..., None].float()), dim=-1)

    def remember(self, states: Tensor) -> Tensor:
        return states

    def velocity(self, state: Tensor, time: Tensor, condition: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """As `Network.velocity`."""
        rows, frames, _ = state.shape
        features, marks = condition[..., :-1], condition[..., -1].long()
        with torch.autocast(state.device.type, self.dtype, enabled=self.dtype != torch.float32):
            made: Tensor = self.made(
                noisy_audio=state,
                audio_features=features,
                text_features=memory,
                time=time,
                masked_video_features=features.new_zeros(rows, self.config.video_dim, frames),
                text_mask=mask,
                anchor_ids=torch.arange(_MARKS, device=state.device).expand(rows, -1),
                anchor_alignment=marks,
            )
        return made.float()


class OfficialCodec(nn.Module):
    """The official codec with a message of our choice; its own is drawn anew at every call."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec

    def encode(self, wave: Tensor) -> Tensor:
        latent: Tensor = self.codec(wave)
        return latent

    def decode(self, latent: Tensor, message: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            wave: Tensor = self.codec.decoder(
                self.codec.quantizer.out_proj(latent), message.expand(latent.shape[0], -1)
            )
        return wave


class _Package:
    """What is used of the package."""

    def __init__(self) -> None:
        from sam_audio.model import model as module

        self.module = module
        self.SAMAudio, self.SAMAudioConfig = module.SAMAudio, module.SAMAudioConfig


def _package() -> _Package:
    try:
        return _Package()
    except (ImportError, AttributeError) as error:
        raise NightshiftError(
            "engine_not_ready",
            f"The backend official needs the package sam_audio with all it depends on ({error}).",
            hint=f"Install it from {SOURCE} (the sam-audio of PyPI is another, empty package), or set "
            "NIGHTSHIFT_SAM_AUDIO_BACKEND=native.",
            retryable=False,
        ) from error


@contextmanager
def _blind(package: _Package) -> Iterator[None]:
    """Inside, official models are built without the vision encoder, a third of all weights."""
    seeing = package.module.PerceptionEncoder
    package.module.PerceptionEncoder = _Blind
    try:
        yield
    finally:
        package.module.PerceptionEncoder = seeing


class _Blind(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dim = config.dim
