"""The inaudible watermark that the codec's decoder writes into every waveform: 16 bits, the same all along.

After "Proactive Detection of Voice Cloning with Localized Watermarking" (R. San Roman et al., 2024): beside the audio's
decoder, a second, causal network hears the finished wave, slows it down to 150 steps a second, adds the message and
gives a signal that is mixed in at a quarter of its strength.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.separation.sam_audio.config import WATERMARK_BITS
from worker.separation.sam_audio.tiles import tiled

LATENT = 128
"""Channels of the watermark where the message is added."""

STRENGTH = 0.25
"""Of the watermark in the finished wave."""


def message_of(identity: str) -> Tensor:
    """The message of one file, float32 [1, 16] of zeros and ones: the first bits of the identity's SHA-256."""
    number = int.from_bytes(hashlib.sha256(identity.encode()).digest()[: WATERMARK_BITS // 8], "big")
    bits = [number >> shift & 1 for shift in reversed(range(WATERMARK_BITS))]
    return torch.tensor([bits], dtype=torch.float32)


WAVE_KERNEL = 7
"""Of the convolutions that make the wave, hear it and make the watermark."""


class CausalConv1d(nn.Conv1d):
    """Hears nothing to come; [.., T] to [.., T / stride], T a multiple of the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride)
        self.past = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.past, 0)))


class CausalConvTranspose1d(nn.ConvTranspose1d):
    """Its counterpart: [.., T] to [.., T * rate]."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        super().__init__(inputs, outputs, 2 * rate, stride=rate)
        self.rate = rate

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)[..., : x.shape[-1] * self.rate]


class MarkUnit(nn.Module):
    """The watermark's residual unit: through half the channels and back."""

    PAST = 2
    """Steps before it that what is made at one depends on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(
            nn.ELU(), CausalConv1d(channels, half, self.PAST + 1), nn.ELU(), CausalConv1d(half, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).add_(x)


class Recurrent(nn.Module):
    """Two LSTM layers over time with a way round them; [B, C, T] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class Message(nn.Module):
    """One learned vector for each value of each bit; their sum is added to every step."""

    def __init__(self) -> None:
        super().__init__()
        self.msg_processor = nn.Embedding(2 * WATERMARK_BITS, LATENT)

    def forward(self, mark: Tensor, message: Tensor) -> Tensor:
        rows = 2 * torch.arange(WATERMARK_BITS, device=mark.device) + message.to(mark.device).long()
        return mark + self.msg_processor(rows).sum(dim=1).unsqueeze(-1)


class _Ends(nn.Module):
    """A half of the watermark's network: layers beside the wave, and layers beside the message."""

    def __init__(self, pre: nn.Sequential, post: nn.Sequential) -> None:
        super().__init__()
        self.pre, self.post = pre, post


class Watermark(nn.Module):
    """The ends of the watermark's network; its middle lies in the decoder's blocks.

    to_wave: the audio's own last layers. The checkpoint keeps them here.
    channels: of the watermark at the wave's rate, 32 in the published model.  width: of its recurrent layers, 512.
    """

    def __init__(self, to_wave: nn.Sequential, channels: int, width: int) -> None:
        super().__init__()
        self.encoder_block = _Ends(
            nn.Sequential(*to_wave, nn.Tanh(), CausalConv1d(1, channels, WAVE_KERNEL)),
            nn.Sequential(Recurrent(width), nn.ELU(), CausalConv1d(width, LATENT, 7)),
        )
        self.msg_processor = Message()
        self.decoder_block = _Ends(
            nn.Sequential(CausalConv1d(LATENT, width, 7), Recurrent(width)),
            nn.Sequential(nn.ELU(), CausalConv1d(channels, 1, WAVE_KERNEL)),
        )

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The finished wave [B, 1, N], unmarked, and the watermark's first layer [B, channels, N] over it."""
        wave = tiled(self.encoder_block.pre[:-1], x, left=WAVE_KERNEL // 2, right=WAVE_KERNEL // 2)
        return wave, self.encoder_block.pre[-1](wave)

    def write(self, mark: Tensor, message: Tensor) -> Tensor:
        """Adds the message, [B, 16] of zeros and ones, at the slowest level: [B, width, N / 320] to the same."""
        return self.decoder_block.pre(self.msg_processor(self.encoder_block.post(mark), message))

    def end(self, wave: Tensor, mark: Tensor) -> Tensor:
        """The marked wave [B, 1, N]."""
        return wave + STRENGTH * tiled(self.decoder_block.post, mark, left=WAVE_KERNEL - 1)
