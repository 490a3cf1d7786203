"""The image encoder's attention with bounded memory.

Over a whole picture the encoder's attention is a matrix of 4096 x 4096 for each of up to 16 heads, of which the
published code holds three copies at a time: 2.4 GB for the smallest network. Here as many heads are computed at once as
fit a bound; each is computed as before.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention, add_decomposed_rel_pos
from torch import nn

BOUND_BYTES = 256 << 20
"""Of one copy of the attention's matrices."""


class BoundedAttention(Attention):
    """Takes the place of `Attention`, with its parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, h, w, channels] to the same."""
        batch, height, width, _ = x.shape
        length = height * width
        packed = self.qkv(x).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = packed.reshape(3, batch * self.num_heads, length, -1).unbind(0)
        at_once = max(1, BOUND_BYTES // (length * length * queries.element_size()))
        given = torch.empty_like(queries)
        for start in range(0, queries.shape[0], at_once):
            part = slice(start, start + at_once)
            weights = (queries[part] * self.scale) @ keys[part].transpose(-2, -1)
            if self.use_rel_pos:
                size = (height, width)
                weights = add_decomposed_rel_pos(weights, queries[part], self.rel_pos_h, self.rel_pos_w, size, size)
            given[part] = weights.softmax(dim=-1) @ values[part]
            del weights
        heads = given.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4)
        made: torch.Tensor = self.proj(heads.reshape(batch, height, width, -1))
        return made


def bound(network: nn.Module) -> None:
    """Gives every `Attention` inside the network bounded memory."""
    for module in network.modules():
        if type(module) is Attention:
            module.__class__ = BoundedAttention
