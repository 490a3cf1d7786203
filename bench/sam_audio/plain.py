"""SAM-Audio's published procedure, step by step, on the same network and weights: the baseline.

The whole clip is one evaluation's input; nothing is kept from one evaluation to the next; heads lie where the
checkpoint has them, so that attention cannot use a fused kernel; the codec's weights are normed at every use; both
stems are decoded at once, every layer over the whole. One candidate, no ranking, no predicted spans, as it comes when
asked for a plain separation. It computes the same function as `SamAudio.separate`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from worker.separation.sam_audio import tiles
from worker.separation.sam_audio.anchors import Span, anchors, marks
from worker.separation.sam_audio.codec import NormedConv1d, NormedConvTranspose1d, ResidualUnit, Snake
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.network import Network
from worker.separation.sam_audio.noise import noise
from worker.separation.sam_audio.sampler import REFERENCE, Schedule, integrate
from worker.separation.sam_audio.transformer import Attention, waves
from worker.separation.sam_audio.watermark import MarkUnit, message_of


def unprepare(network: Network) -> None:
    """Takes back what loading prepares: heads apart again, the codec's weights as direction and length."""
    scatter_heads(network)
    for module in list(network.audio_codec.modules()):
        if isinstance(module, NormedConv1d | NormedConvTranspose1d):
            parametrizations.weight_norm(module)
        elif isinstance(module, Snake):
            module.forward = partial(_snake, module)
        elif isinstance(module, ResidualUnit | MarkUnit):
            module.forward = partial(_added, module.block)
    network.requires_grad_(False)


def scatter_heads(network: Network) -> None:
    """The projections' rows in the checkpoint's order: output d * heads + h is channel d of head h."""
    for module in network.modules():
        if isinstance(module, Attention) and module.gathered:
            for layer in (module.wq, module.wk, module.wv):
                for values in layer.parameters():
                    values.data = (
                        values.data.unflatten(0, (module.heads, -1)).transpose(0, 1).flatten(0, 1).contiguous()
                    )
            module.gathered = False


@contextmanager
def undivided() -> Iterator[None]:
    """Inside, the codec's layers run over all they are given, on a CPU too."""
    kept = tiles.TILE
    tiles.TILE = sys.maxsize
    try:
        yield
    finally:
        tiles.TILE = kept


@dataclass(frozen=True)
class Took:
    """Seconds of the steps."""

    encode: float
    sample: float
    decode: float


class Plain:
    """The procedure on a model whose network is its own from then on. As published, that is a float32 one.

    clock: what its steps are timed by.
    """

    def __init__(self, model: SamAudio, clock: Callable[[], float] = time.perf_counter) -> None:
        unprepare(model.network)
        self.model, self.network, self._clock = model, model.network, clock
        self.took = Took(0.0, 0.0, 0.0)

    @torch.inference_mode()
    def separate(
        self,
        wave: Tensor,
        description: str,
        spans: Sequence[Span] = (),
        *,
        seed: int = 0,
        schedule: Schedule = REFERENCE,
    ) -> Tensor:
        """float32 [1, N] to target and residual, [2, N]."""
        codec, device = self.network.audio_codec, self.model.device
        clocks = [self._now()]
        with undivided():
            latent = codec.encode(wave[None].to(device))
        clocks.append(self._now())
        state = self.sample(latent, description, spans, seed=seed, schedule=schedule)
        clocks.append(self._now())
        target, residual = state.transpose(1, 2).chunk(2, dim=1)
        message = message_of(str(seed)).to(device).expand(2, -1)
        with undivided():
            waves = codec.decode(torch.cat((target, residual)), message)[:, 0, : wave.shape[-1]]
        clocks.append(self._now())
        self.took = Took(*(after - before for before, after in pairwise(clocks)))
        return waves

    @torch.inference_mode()
    def sample(
        self,
        latent: Tensor,
        description: str,
        spans: Sequence[Span] = (),
        *,
        seed: int = 0,
        schedule: Schedule = REFERENCE,
    ) -> Tensor:
        """The latent [1, 128, T] of a clip to the state [1, T, 256] of its separation."""
        codec, device = self.network.config.audio_codec, self.model.device
        features = torch.cat((latent, latent), dim=1).transpose(1, 2)
        marked = torch.from_numpy(marks(anchors(spans, codec.sample_rate, codec.hop), 0, features.shape[1]))[None]
        states, mask = self.model.text_encoder.encode([description])
        drawn = torch.from_numpy(noise(seed, 0, features.shape[1], features.shape[2]))[None].to(device)
        field = partial(self.velocity, features=features, states=states, mask=mask, marked=marked.to(device))
        return integrate(field, drawn, schedule)

    def velocity(
        self, at: float, state: Tensor, *, features: Tensor, states: Tensor, mask: Tensor | None, marked: Tensor
    ) -> Tensor:
        """One evaluation, from its inputs on."""
        network = self.network
        frames = network.proj(torch.cat((state, torch.zeros_like(features), features), dim=2))
        frames = frames + self._video(frames) + self._anchors(marked)
        times = torch.full((state.shape[0],), at, device=state.device)
        memory = network.memory_proj(states) + waves(times, network.rates)[:, None]
        return network.transformer(frames, times, memory, mask)

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return self._clock()

    def _video(self, frames: Tensor) -> Tensor:
        term = self.network.align_masked_video
        dark = frames.new_zeros(frames.shape[0], term.inputs, frames.shape[1])
        return term.gate.tanh() * term.layer_norm(term.conv(dark).transpose(1, 2))

    def _anchors(self, marked: Tensor) -> Tensor:
        term = self.network.embed_anchors
        return term.gate.tanh() * term.proj(term.embed(marked))


def _snake(layer: Snake, x: Tensor) -> Tensor:
    return x + (layer.alpha + 1e-9).reciprocal() * torch.sin(layer.alpha * x).pow(2)


def _added(block: nn.Module, x: Tensor) -> Tensor:
    return x + block(x)
