"""SAM-Audio as a separator: one block of the pipeline in, the stems of all prompts out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from common.params import SeparationParams
from worker import device as devices
from worker.engine import Demand, computed
from worker.separation.resample import convert
from worker.separation.sam_audio.anchors import anchors
from worker.separation.sam_audio.encoding import Encoder, Reach
from worker.separation.sam_audio.fitting import Fitting
from worker.separation.sam_audio.longform import LongForm, Task
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import TIERS
from worker.separation.sam_audio.streaming import DECODE_LEFT, DECODE_RIGHT, decode_stream
from worker.separation.sam_audio.watermark import message_of
from worker.separation.separator import BlockAudio, Stem, Stems, wanted

_ENCODED, _SAMPLED = 0.05, 0.85


class SamAudioSeparator:
    """The blocks are such that five windows of 30 s with 5 s in common are exactly what a block samples.

    A block must begin at a whole second of the file: noise and marks are by the file's latent frames.
    """

    block_seconds = 120.0
    overlap_seconds = 1.0

    def __init__(
        self,
        name: str,
        version: str,
        form: LongForm,
        reach: tuple[int, int] = (5, 4),
        fitting: Fitting | None = None,
    ) -> None:
        """reach: seconds sampled before and after what a block gives.  fitting: what is known of the pieces that the
        codec's memory takes."""
        self.name, self.version, self.form = name, version, form
        self.model: SamAudio = form.model
        self._reach = Reach(*reach, self.overlap_seconds)
        self.context_seconds = self._reach.context
        self._fitting = fitting or Fitting(name, self.model.device)
        self._encoder = Encoder(self.model, self._fitting, self._reach)

    @property
    def shares(self) -> bool:
        """Not on a CPU, where a batch holds one window."""
        return self.form.batches.size > 1

    def for_job(self) -> SamAudioSeparator:
        """The same with figures, and an encoder's memory, of its own."""
        reach = self._reach.before, self._reach.after
        return SamAudioSeparator(self.name, self.version, self.form.anew(), reach, self._fitting)

    def separate(
        self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
    ) -> Generator[float | Demand, None, Stems]:
        """The sound is encoded once for all prompts. A channel that is silent all through costs nothing."""
        kept = block.keep.stop - block.keep.start
        stems = wanted(params)
        given = {stem.name: np.zeros((block.samples.shape[0], kept), np.float32) for stem in stems}
        heard = [channel for channel, samples in enumerate(block.samples) if samples.any()]
        if not heard:
            return given
        latents = yield from computed(lambda: self._encode(block, heard, check))
        yield _ENCODED
        states = yield from self._sample(block, params, latents, check)
        for done, stem in enumerate(stems):
            prompt = params.prompts.index(stem.prompt)
            own = states[prompt * len(heard) : (prompt + 1) * len(heard)]
            decode = partial(self._decode, block, own, stem, message_of(params.model_dump_json()), check)
            given[stem.name][heard] = yield from computed(decode)
            yield _SAMPLED + (1 - _SAMPLED) * (done + 1) / len(stems)
        return given

    def figures(self) -> Mapping[str, float]:
        """encoded_seconds: of single channels.  evaluations: of the network, each of a batch of windows."""
        return {
            "encoded_seconds": self._encoder.seconds,
            "evaluations": self.form.evaluations,
            "windows_evaluated": self.form.windows_evaluated,
        }

    def memory_bytes(self) -> int:
        """Of the weights."""
        return self.model.memory_bytes()

    def close(self) -> None:
        device = self.model.device
        del self.model, self.form, self._encoder
        devices.release(device)

    def _encode(self, block: BlockAudio, heard: Sequence[int], check: Callable[[], None]) -> Tensor:
        with self.model.interruptible(check):
            return self._encoder.encode(block, heard, check)

    def _sample(
        self, block: BlockAudio, params: SeparationParams, latents: Tensor, check: Callable[[], None]
    ) -> Generator[float | Demand, None, Tensor]:
        """States [prompts * heard, T, 256]."""
        codec = self.model.config.audio_codec
        tasks: list[Task] = []
        for index, prompt in enumerate(params.prompts):
            marked = anchors(prompt.spans, codec.sample_rate, codec.hop, pointer=f"/params/prompts/{index}/spans")
            tasks += [Task(row, prompt.description, marked) for row in range(latents.shape[0])]
        begin, _ = self._reach.sampled(block)
        start = round((block.start / block.rate + begin) * self.model.config.frame_rate)
        steps = self.form.separate(
            latents, tasks, start, params.seed, TIERS[params.quality], check, params.windows
        )  # fmt: skip
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                return finished.value
            yield step if isinstance(step, Demand) else _ENCODED + (_SAMPLED - _ENCODED) * step

    def _decode(
        self, block: BlockAudio, states: Tensor, stem: Stem, message: Tensor, check: Callable[[], None]
    ) -> np.ndarray:
        """The stem over what the block keeps, [heard, kept], at the block's rate."""
        codec = self.model.config.audio_codec
        target, residual = self.model.split(states)
        latent = target if stem.part == "target" else residual
        begin, _ = self._reach.sampled(block)
        # From a whole second on, which is a whole sample at any rate, with a second to spare for the conversion.
        per_second = round(self.model.config.frame_rate)
        first_second = max(begin, block.keep.start // block.rate - 1)
        first = (first_second - begin) * per_second
        last = min(latent.shape[-1], (-(-block.keep.stop // block.rate) + 1 - begin) * per_second)
        before = max(0, first - DECODE_LEFT)
        part = latent[..., before : min(last + DECODE_RIGHT, latent.shape[-1])]
        with self.model.interruptible(check):
            waves = self._fitting.run(lambda piece: decode_stream(self.model, [part], message, piece=piece), check)
        waves = waves[:, (first - before) * codec.hop : (last - before) * codec.hop]
        skipped = block.keep.start - first_second * block.rate
        stop = skipped + block.keep.stop - block.keep.start
        return np.stack([convert(wave, codec.sample_rate, block.rate, stop)[skipped:] for wave in waves.cpu().numpy()])
