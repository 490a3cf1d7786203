"""SAM-Audio: a recording and a description in, the described sound and the rest out.

Shapes: B rows, N samples at 48 kHz, T latent frames of 1,920 samples, L tokens. Rows of a batch may have different
descriptions, marks and times; each gives what it would give alone, as long as all have the same number of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker import device as devices
from worker.separation.sam_audio import config as configuration
from worker.separation.sam_audio.anchors import Span, anchors, marks
from worker.separation.sam_audio.compiled import Compiled, Velocity
from worker.separation.sam_audio.config import WATERMARK_BITS
from worker.separation.sam_audio.loading import assemble, open_checkpoint
from worker.separation.sam_audio.network import Network
from worker.separation.sam_audio.noise import noise
from worker.separation.sam_audio.sampler import REFERENCE, Schedule, integrate
from worker.separation.sam_audio.text import TextEncoder, TextStates, find_text_encoder, load_text_encoder
from worker.separation.sam_audio.watermark import message_of

if TYPE_CHECKING:
    from worker.separation.sam_audio.official import OfficialNetwork


Backend = Literal["native", "official"]
"""Whose network computes: this project's, or that of the official package."""


@dataclass(frozen=True)
class Conditions:
    """Everything the field is told that stays the same over all evaluations.

    frames: float32 [B, T, dim], of the recording and the marks.  memory: float32 [B, L, dim], of the text.
    mask: bool [B, L], or None where no row is padded.
    """

    frames: Tensor
    memory: Tensor
    mask: Tensor | None


def joined(parts: Sequence[Conditions]) -> Conditions:
    """Those of several batches as of one; all have the same number of frames. Shorter texts are padded."""
    frames = torch.cat([part.frames for part in parts])
    longest = max(part.memory.shape[1] for part in parts)
    if all(part.mask is None and part.memory.shape[1] == longest for part in parts):
        return Conditions(frames, torch.cat([part.memory for part in parts]), None)
    memory, masks = [], []
    for part in parts:
        rows, tokens, _ = part.memory.shape
        missing = longest - tokens
        mask = torch.ones(rows, tokens, dtype=torch.bool, device=frames.device) if part.mask is None else part.mask
        memory.append(F.pad(part.memory, (0, 0, 0, missing)))
        masks.append(F.pad(mask, (0, missing)))
    return Conditions(frames, torch.cat(memory), torch.cat(masks))


class SamAudio:
    """A loaded model on one device. Nothing here keeps gradients."""

    def __init__(self, network: Network | OfficialNetwork, text_encoder: TextEncoder) -> None:
        self.network, self.text_encoder = network, text_encoder
        self.config = network.config
        self.device = network.proj.weight.device
        self._velocity: Velocity = network.velocity

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        t5: Path | str | None = None,
        token: str | None = None,
    ) -> Self:
        """The model of a checkpoint's folder. Raises `weights_missing`, `weights_invalid`.

        dtype: of the matrices of the transformer's layers.
        t5: the text encoder's folder, where it is not what config.json names.
        """
        config = configuration.read(folder)
        weights = open_checkpoint(folder)
        source = find_text_encoder(config.text_encoder, folder) if t5 is None else t5
        text_encoder = load_text_encoder(config.text_encoder, source, device, token)
        return cls(assemble(config, weights, device, dtype), text_encoder)

    def compile(self, frames: int, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compiles the field for windows of so many frames, when it is first evaluated."""
        self._velocity = Compiled(self.network, frames, backend)

    @contextmanager
    def interruptible(self, check: Callable[[], None]) -> Iterator[None]:
        """Inside, `check` is called while the model computes on a CPU, where one evaluation may take a minute; what it
        raises ends the work. On a card an evaluation is short, and asking in every layer would keep the card waiting;
        and a field that was compiled has no layers that could ask."""
        asking: nn.Module = self.network if self._velocity == self.network.velocity else self.network.audio_codec
        with devices.interruptible(asking, check) if self.device.type == "cpu" else nullcontext():
            yield

    def memory_bytes(self) -> int:
        """Of the weights."""
        return devices.size(self.network) + devices.size(self.text_encoder.model)

    def frames(self, samples: int) -> int:
        """Latent frames of a clip."""
        return -(-samples // self.config.audio_codec.hop)

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Float32 [B, 1, N] to the latent, float32 [B, 128, T]. The last frame is filled by reflection.

        A clip too short to be reflected is filled with silence: the published model cannot take it at all.
        """
        if wave.ndim != 3 or wave.shape[1] != 1 or not wave.shape[-1]:
            raise ValueError(f"a wave is [B, 1, N], not {list(wave.shape)}")
        hop = self.config.audio_codec.hop
        if wave.shape[-1] <= hop // 2:
            wave = F.pad(wave, (0, hop - wave.shape[-1]))
        with _exact():
            return self.network.audio_codec.encode(wave.to(self.device, torch.float32))

    @staticmethod
    def features(latent: Tensor) -> Tensor:
        """The latent [B, 128, T] as the field hears it, beside target and residual alike: [B, T, 256]."""
        return torch.cat((latent, latent), dim=1).transpose(1, 2)

    @torch.inference_mode()
    def text(self, descriptions: Sequence[str]) -> TextStates:
        """The states of each description; those met lately are not computed again."""
        return self.text_encoder(descriptions)

    @torch.inference_mode()
    def conditions(self, features: Tensor, text: TextStates, marked: Tensor | None = None) -> Conditions:
        """features: float32 [B, T, 256].  text: B rows.  marked: int64 [B, T] of `anchors.marks`; None: no marks."""
        if features.shape[1] > self.config.transformer.max_positions:
            raise ValueError(
                f"{features.shape[1]} frames at once; the model takes {self.config.transformer.max_positions}"
            )
        if marked is None:
            marked = torch.zeros(features.shape[:2], dtype=torch.long)
        with _exact():
            return Conditions(
                self.network.condition(features.to(self.device), marked.to(self.device)),
                self.network.remember(text.states.to(self.device)),
                None if text.mask is None else text.mask.to(self.device),
            )

    @torch.inference_mode()
    def evaluate(self, state: Tensor, time: float | Tensor, conditions: Conditions) -> Tensor:
        """One evaluation of the field: float32 [B, T, 256] for a state of that shape, at one time or one a row."""
        times = torch.as_tensor(time, dtype=torch.float32, device=state.device).expand(state.shape[0])
        with _exact():
            return self._velocity(state, times, conditions.frames, conditions.memory, conditions.mask)

    def velocity(
        self, state: Tensor, time: float | Tensor, features: Tensor, text: TextStates, marked: Tensor | None = None
    ) -> Tensor:
        """One evaluation from scratch, float32 [B, T, 256]; see `conditions` and `evaluate`."""
        return self.evaluate(state.to(self.device), time, self.conditions(features, text, marked))

    @torch.inference_mode()
    def sample(
        self,
        start: Tensor,
        features: Tensor,
        text: TextStates,
        marked: Tensor | None = None,
        schedule: Schedule = REFERENCE,
        check: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """From noise [B, T, 256] to the latents of target (channels 0-127) and residual (128-255), same shape.

        check: called before every evaluation; raises to stop.
        """
        conditions = self.conditions(features, text, marked)
        return integrate(
            lambda time, state: self.evaluate(state, time, conditions),
            start.to(self.device, torch.float32),
            schedule,
            check,
        )

    @torch.inference_mode()
    def decode(self, latent: Tensor, message: Tensor) -> Tensor:
        """Float32 [B, 128, T] to waves [B, 1, 1920 * T] that carry `message`: zeros and ones, [B, 16] or [1, 16]."""
        if message.shape[-1] != WATERMARK_BITS or not bool(((message == 0) | (message == 1)).all()):
            raise ValueError(f"a watermark's message is {WATERMARK_BITS} zeros and ones")
        with _exact():
            return self.network.audio_codec.decode(latent.to(self.device, torch.float32), message)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The state [B, T, 256] as two latents [B, 128, T]: target and residual."""
        target, residual = state.transpose(1, 2).chunk(2, dim=1)
        return target, residual

    def separate(
        self,
        wave: Tensor,
        description: str,
        spans: Sequence[Span] = (),
        *,
        seed: int = 0,
        start: Tensor | None = None,
        message: Tensor | None = None,
        schedule: Schedule = REFERENCE,
        check: Callable[[], None] = lambda: None,
        whole_frames: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One clip at once, as the published procedure does: float32 [1, N] to target and residual, [1, N] each.

        start: the noise [1, T, 256]; else that of `seed`.  message: [2, 16], the target's and the residual's; else one
        of `seed` for both.  whole_frames: leaves the last frame whole instead of cutting at N.
        """
        codec = self.config.audio_codec
        samples = wave.shape[-1]
        total = self.frames(samples)
        spanned = anchors(spans, codec.sample_rate, codec.hop, samples / codec.sample_rate)
        if start is None:
            start = torch.from_numpy(noise(seed, 0, total, self.config.state_channels))[None]
        if message is None:
            message = message_of(str(seed)).expand(2, -1)
        features = self.features(self.encode(wave[None]))
        marked = torch.from_numpy(marks(spanned, 0, total))[None]
        state = self.sample(start, features, self.text([description]), marked, schedule, check)
        check()
        waves = self.decode(torch.cat(self.split(state)), message)[:, 0]
        if not whole_frames:
            waves = waves[:, :samples]
        return waves[:1], waves[1:]


@contextmanager
def _exact() -> Iterator[None]:
    """Convolutions of float32 weights in float32, not in a card's shorter format for them."""
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield
