"""The velocity field: a diffusion transformer over latent frames, with text as memory and time in every layer.

After "Scalable Diffusion Models with Transformers" (W. Peebles, S. Xie, 2023). Names of modules are those of the
checkpoint.

Precision: matrices work in the dtype of their weights; the stream between layers, norms, rotations and everything made
of the time stay float32, whatever the weights are. `loading` says which weights may be shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.separation.sam_audio.config import TransformerConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "approx_gelu": partial(F.gelu, approximate="tanh"),
    "srelu": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


def matmul(layer: nn.Linear | nn.Conv1d, x: Tensor) -> Tensor:
    """The layer on x in the dtype of its weights."""
    return layer(x.to(layer.weight.dtype))


def frequencies(count: int, longest: float = 10_000.0) -> Tensor:
    """`count` frequencies from 1 down to nearly 1 / longest, on the CPU even where modules are built without data."""
    return torch.exp(-math.log(longest) * torch.arange(count, dtype=torch.float32, device="cpu") / count)


def waves(time: Tensor, rates: Tensor) -> Tensor:
    """Cosines, then sines, of times [B] at each rate: float32 [B, 2 * rates]."""
    angles = time.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)


class Rotary(nn.Module):
    """Turns neighbouring pairs of each head's channels by angles that grow with the frame (rotary embedding).

    The tables hold 1 / theta^(2i/d), theta = max(10000, 2 * positions), for every frame an evaluation may have.
    """

    def __init__(self, head_dim: int, positions: int) -> None:
        super().__init__()
        theta = max(10_000, 2 * positions)
        rates = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim))
        angles = torch.outer(torch.arange(positions, device="cpu"), rates)
        self.positions = positions
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, heads, T, head_dim] to the same."""
        frames = x.shape[-2]
        cos, sin = self.cos[:frames], self.sin[:frames]
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Attention over x, or over a memory.

    Checkpoints hold the heads as the fast axis of the projections: output d * heads + h is channel d of head h.
    `gather_heads` reorders the rows once, so that each head's channels lie together and the fused kernels take them.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.n_heads
        self.gathered = False
        self.wq = nn.Linear(config.dim, config.dim, bias=config.fc_bias)
        self.wk = nn.Linear(config.dim, config.dim, bias=config.fc_bias)
        self.wv = nn.Linear(config.dim, config.dim, bias=config.fc_bias)
        self.wo = nn.Linear(config.dim, config.dim, bias=config.fc_bias)
        if config.qk_norm:
            self.q_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def gather_heads(self) -> None:
        """Reorders the projections' rows in place. The function stays the same."""
        if self.gathered:
            return
        for layer in (self.wq, self.wk, self.wv):
            for values in layer.parameters():
                values.data = values.data.unflatten(0, (-1, self.heads)).transpose(0, 1).flatten(0, 1).contiguous()
        self.gathered = True

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """x [B, T, dim], memory [B, L, dim] with a mask [B, 1, 1, L] that is true where there is text."""
        source = x if memory is None else memory
        q, k = self.q_norm(self._split(matmul(self.wq, x))), self.k_norm(self._split(matmul(self.wk, source)))
        v = self._split(matmul(self.wv, source))
        if rotary is not None:
            q, k = rotary(q.float()), rotary(k.float())
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
        return matmul(self.wo, mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, dim] to [B, heads, T, head_dim]."""
        if self.gathered:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return x.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """Two matrices with an activation between, or three with a gate (SwiGLU)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.w1 = nn.Linear(inputs, hidden, bias=bias)
        self.w2 = nn.Linear(hidden, outputs, bias=bias)
        self.gated = activation == "swiglu"
        if self.gated:
            self.w3 = nn.Linear(inputs, hidden, bias=bias)
        self.activation = F.silu if self.gated else _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.w1.weight.dtype)
        hidden = self.activation(self.w1(x))
        return self.w2(hidden * self.w3(x) if self.gated else hidden)


class Layer(nn.Module):
    """Self-attention and feed-forward, shifted, scaled and gated by the time; cross-attention between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.cross_attention = Attention(config)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim, config.dim, config.non_linearity, config.fc_bias)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, config.dim))

    def forward(self, h: Tensor, time: Tensor, memory: Tensor, mask: Tensor | None, rotary: Rotary | None) -> Tensor:
        """h [B, T, dim], time [B, 6, dim]."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + time).chunk(6, dim=1)
        h = h + gate * self.attention(self.attention_norm(h) * (1 + scale) + shift, rotary=rotary)
        h = h + self.cross_attention(h, memory, mask)
        return h + ffn_gate * self.feed_forward(self.ffn_norm(h) * (1 + ffn_scale) + ffn_shift)


class _ConvBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groupnorm = nn.GroupNorm(1, channels)
        self.project = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.groupnorm
        x = F.group_norm(x.float(), 1, norm.weight.float(), norm.bias.float(), norm.eps)
        return matmul(self.project, F.silu(x))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block1 = _ConvBlock(channels)
        self.block2 = _ConvBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block2(self.block1(x))


class FrameEmbedder(nn.Module):
    """Two convolutions over neighbouring frames. Their norm spans all frames of a clip: windows want equal lengths."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = _Residual(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to the same."""
        return self.block(x.transpose(1, 2)).transpose(1, 2)


class MemoryEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm: nn.Module = RMSNorm(config.context_dim, config.norm_eps) if config.context_norm else nn.Identity()
        self.projection = FeedForward(
            config.context_dim, config.dim, config.dim, config.context_non_linearity, config.fc_bias
        )

    def forward(self, memory: Tensor) -> Tensor:
        return self.projection(self.norm(memory))


class TimeEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.register_buffer("rates", frequencies(config.frequency_embedding_dim // 2), persistent=False)
        self.projection = FeedForward(
            config.frequency_embedding_dim, config.dim, config.dim, config.timestep_non_linearity, config.fc_bias
        )

    def forward(self, time: Tensor) -> Tensor:
        """Times [B] to [B, dim]."""
        return self.projection(waves(time, self.rates))


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config.head_dim, config.max_positions) if config.use_rope else None
        self.x_embedder = FrameEmbedder(config.dim)
        self.y_embedder = MemoryEmbedder(config)
        self.t_embedder = TimeEmbedder(config)
        self.t_block = nn.Linear(config.dim, 6 * config.dim, bias=config.t_block_bias)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.final_layer_scale_shift_table = nn.Parameter(torch.zeros(2, config.dim))
        self.output = nn.Linear(config.dim, config.out_channels, bias=config.fc_bias)
        self._activate_time = _ACTIVATIONS[config.t_block_non_linearity]

    def gather_heads(self) -> None:
        for layer in self.layers:
            layer.attention.gather_heads()
            layer.cross_attention.gather_heads()

    def forward(self, frames: Tensor, time: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """The velocity, float32 [B, T, out_channels].

        frames: [B, T, dim], T at most `max_positions`.  time: [B].  memory: [B, L, context_dim].
        mask: bool [B, L], true where the memory holds text; None where it does everywhere.
        """
        h = self.x_embedder(frames.float())
        embedded = self.t_embedder(time).float()
        per_layer = matmul(self.t_block, self._activate_time(embedded)).float().unflatten(-1, (6, -1))
        remembered = self.y_embedder(memory)
        spread = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            h = layer(h, per_layer, remembered, spread, self.rotary)
        shift, scale = (self.final_layer_scale_shift_table + embedded[:, None]).chunk(2, dim=1)
        return matmul(self.output, self.norm(h) * (1 + scale) + shift).float()
