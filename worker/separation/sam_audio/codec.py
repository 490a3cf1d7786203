"""The audio codec: waveforms to latent frames and back.

A variational autoencoder after "High-Fidelity Audio Compression with Improved RVQGAN" (R. Kumar et al., 2023): strided
convolutions with snake activations, a latent of 128 channels at 25 frames a second. Names of modules are those of the
checkpoint; weight normalisation is folded into the weights when they are loaded.

For inference only: activations are overwritten in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.separation.sam_audio.config import WATERMARK_RATES, CodecConfig
from worker.separation.sam_audio.tiles import tiled
from worker.separation.sam_audio.watermark import WAVE_KERNEL, CausalConv1d, CausalConvTranspose1d, MarkUnit, Watermark


class NormedConv1d(nn.Conv1d):
    """A convolution that checkpoints hold as direction and length (weight normalisation); keeps stride * length."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        padding = (kernel - stride) * dilation // 2
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation)


class NormedConvTranspose1d(nn.ConvTranspose1d):
    """Its counterpart that makes `rate` samples of one."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        super().__init__(inputs, outputs, 2 * rate, stride=rate, padding=rate // 2)


class Snake(nn.Module):
    """x + sin²(ax) / a, a per channel (L. Ziyin et al., "Neural Networks Fail to Learn Periodic Functions", 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # One temporary: this runs at up to 48,000 steps a second on up to 96 channels.
        wave = torch.mul(x, self.alpha).sin_().square_()
        return wave.mul_((self.alpha + 1e-9).reciprocal()).add_(x)


DILATIONS = (1, 3, 9)
"""Of the residual units of a block."""

HEARD_BY_UNITS = sum(3 * dilation for dilation in DILATIONS)
"""Samples to each side that what comes out of a block's residual units depends on: their kernels are 7 long."""


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            NormedConv1d(channels, channels, 7, dilation=dilation),
            Snake(channels),
            NormedConv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).add_(x)


class EncoderBlock(nn.Module):
    """Takes `rate` samples into one, of twice the channels."""

    def __init__(self, channels: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.block = nn.Sequential(
            *(ResidualUnit(channels, dilation) for dilation in DILATIONS),
            Snake(channels),
            NormedConv1d(channels, 2 * channels, 2 * rate, stride=rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        heard = HEARD_BY_UNITS + self.rate
        return tiled(self.block, x, left=heard, right=heard, down=self.rate)


class Encoder(nn.Module):
    """[B, 1, T * hop] to [B, latent_dim, T]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.encoder_dim
        layers: list[nn.Module] = [NormedConv1d(1, channels, 7)]
        for rate in config.encoder_rates:
            layers.append(EncoderBlock(channels, rate))
            channels *= 2
        layers += [Snake(channels), NormedConv1d(channels, config.latent_dim, 3)]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Bottleneck(nn.Module):
    """The projections into the latent, as mean and scale, and out of it."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.in_proj = NormedConv1d(config.latent_dim, 2 * config.codebook_dim, 1)
        self.out_proj = NormedConv1d(config.codebook_dim, config.latent_dim, 1)


class DecoderBlock(nn.Module):
    """Makes `rate` samples of one, of half the channels; and carries the watermark's layers of that level.

    The checkpoint numbers the layers of both in one list. Those of the audio are 0, 1, 4, 5 and 8.
    """

    def __init__(self, channels: int, rate: int, mark_rate: int) -> None:
        super().__init__()
        self.rate, self.mark_rate = rate, mark_rate
        half = channels // 2
        wide, narrow = channels // 3, half // 3
        self.block = nn.ModuleList(
            (
                Snake(channels),
                NormedConvTranspose1d(channels, half, rate),
                nn.ELU(),
                CausalConvTranspose1d(wide, narrow, mark_rate),
                ResidualUnit(half, DILATIONS[0]),
                ResidualUnit(half, DILATIONS[1]),
                MarkUnit(narrow),
                MarkUnit(narrow),
                ResidualUnit(half, DILATIONS[2]),
                nn.Identity(),
                nn.ELU(),
                CausalConv1d(narrow, wide, 2 * mark_rate, stride=mark_rate),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        heard = -(-HEARD_BY_UNITS // self.rate) + 1
        return tiled(self._layers(0, 1, 4, 5, 8), x, left=heard, right=heard, up=self.rate)

    def slower(self, mark: Tensor) -> Tensor:
        """The watermark's way down from the wave: `mark_rate` steps into one."""
        return tiled(self._layers(7, 10, 11), mark, left=MarkUnit.PAST + self.mark_rate, down=self.mark_rate)

    def faster(self, mark: Tensor) -> Tensor:
        """And up again."""
        heard = -(-MarkUnit.PAST // self.mark_rate) + 1
        return tiled(self._layers(2, 3, 6), mark, left=heard, up=self.mark_rate)

    def _layers(self, *indices: int) -> Callable[[Tensor], Tensor]:
        return nn.Sequential(*(self.block[index] for index in indices))


class Decoder(nn.Module):
    """[B, latent_dim, T] and a message [B, 16] of zeros and ones to [B, 1, T * hop]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.decoder_dim
        layers: list[nn.Module] = [NormedConv1d(config.latent_dim, channels, 7)]
        for rate, mark_rate in zip(config.decoder_rates, WATERMARK_RATES, strict=True):
            layers.append(DecoderBlock(channels, rate, mark_rate))
            channels //= 2
        self.model = nn.ModuleList(layers)
        to_wave = nn.Sequential(Snake(channels), NormedConv1d(channels, 1, WAVE_KERNEL))
        self.wm_model = Watermark(to_wave, channels // 3, config.decoder_dim // 3)

    def forward(self, x: Tensor, message: Tensor) -> Tensor:
        for layer in self.model:
            x = layer(x)
        wave, mark = self.wm_model.begin(x)
        blocks = self.model[1:]
        for block in reversed(blocks):
            mark = block.slower(mark)
        mark = self.wm_model.write(mark, message)
        for block in blocks:
            mark = block.faster(mark)
        return self.wm_model.end(wave, mark)


class Codec(nn.Module):
    """Encoder, bottleneck and decoder.

    cudnn: whether convolutions may use cuDNN. The published codec turns it off because of a fault seen on H100 cards.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Bottleneck(config)
        self.decoder = Decoder(config)
        self.cudnn = False

    def encode(self, wave: Tensor) -> Tensor:
        """float32 [B, 1, N] to the latent's mean [B, codebook_dim, ceil(N / hop)]; N more than half a frame."""
        excess = wave.shape[-1] % self.config.hop
        if excess:
            wave = F.pad(wave, (0, self.config.hop - excess), mode="reflect")
        with torch.backends.cudnn.flags(enabled=self.cudnn, allow_tf32=False):
            mean, _ = self.quantizer.in_proj(self.encoder(wave)).chunk(2, dim=1)
        return mean

    def decode(self, latent: Tensor, message: Tensor) -> Tensor:
        """float32 [B, codebook_dim, T] and a message of bits [B, 16] to [B, 1, T * hop]."""
        with torch.backends.cudnn.flags(enabled=self.cudnn, allow_tf32=False):
            return self.decoder(self.quantizer.out_proj(latent), message)
