"""The whole network of a checkpoint, under the checkpoint's names: codec, inputs of the velocity field, the field."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.separation.sam_audio.codec import Codec
from worker.separation.sam_audio.config import SamAudioConfig
from worker.separation.sam_audio.transformer import Transformer, frequencies, matmul, waves


class VideoTerm(nn.Module):
    """What a video adds to the frames. Without one the model was given zeros, which do not add nothing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.gate = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv1d(inputs, outputs, 1)
        self.layer_norm = nn.LayerNorm(outputs)

    def without_video(self) -> Tensor:
        """The constant that stands at every frame where there is no video, float32 [dim]."""
        dark = torch.zeros(1, self.inputs, 1, device=self.gate.device)
        seen = F.conv1d(dark, self.conv.weight.float(), self.conv.bias.float())[0, :, 0]
        norm = self.layer_norm
        seen = F.layer_norm(seen, seen.shape, norm.weight.float(), norm.bias.float(), norm.eps)
        return self.gate.float().tanh() * seen


class AnchorTerm(nn.Module):
    """What the mark at a frame adds to it: null, wanted, unwanted or padding."""

    def __init__(self, marks: int, width: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.embed = nn.Embedding(marks, width)
        self.proj = nn.Linear(width, outputs, bias=False)

    def table(self) -> Tensor:
        """The term of each mark, float32 [marks, dim]."""
        return self.gate.float().tanh() * F.linear(self.embed.weight.float(), self.proj.weight.float())


class Network(nn.Module):
    """Everything a checkpoint holds but the vision encoder."""

    def __init__(self, config: SamAudioConfig) -> None:
        super().__init__()
        dim = config.transformer.dim
        self.config = config
        self.audio_codec = Codec(config.audio_codec)
        self.transformer = Transformer(config.transformer)
        self.proj = nn.Linear(config.in_channels, dim)
        self.align_masked_video = VideoTerm(config.video_dim, dim)
        self.embed_anchors = AnchorTerm(config.num_anchors + 1, config.anchor_embedding_dim, dim)
        self.memory_proj = nn.Linear(config.text_encoder.dim, dim)
        self.register_buffer("rates", frequencies(dim // 2), persistent=False)
        self.register_buffer("marks", torch.empty(0, device="cpu"), persistent=False)

    def settle(self) -> None:
        """To be called once the weights are there: reorders heads, computes what no input changes."""
        self.transformer.gather_heads()
        self.marks = self.embed_anchors.table() + self.align_masked_video.without_video()

    def condition(self, features: Tensor, marks: Tensor) -> Tensor:
        """What the recording itself gives the field, the same at every evaluation: float32 [B, T, dim].

        features: [B, T, 2 * latent channels].  marks: int64 [B, T], as of `anchors.marks`.
        """
        # The input is the state, zeros where the published training put a hint of the target, and the features.
        first = self.proj.weight.shape[1] - features.shape[-1]
        heard = F.linear(features.float(), self.proj.weight[:, first:].float(), self.proj.bias.float())
        return heard + self.marks[marks]

    def remember(self, states: Tensor) -> Tensor:
        """T5's states [B, L, text dim] as the field remembers them, the same at every evaluation: [B, L, dim]."""
        return matmul(self.memory_proj, states).float()

    def velocity(self, state: Tensor, time: Tensor, condition: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """One evaluation: float32 [B, T, 2 * latent channels].

        state: float32 of the same shape.  time: float32 [B], 0 to 1.  condition: of `condition`.
        memory, mask: of `remember` and the text's mask, bool [B, L] or None.
        """
        weight = self.proj.weight[:, : state.shape[-1]]
        frames = F.linear(state.to(weight.dtype), weight).float() + condition
        return self.transformer(frames, time, memory + waves(time, self.rates)[:, None], mask)
