"""Separation of a block of any length in windows that share one noise and are blended as latents.

Two ways: `shared` (MultiDiffusion, O. Bar-Tal et al., 2023) keeps one state for the whole block and averages the
velocities of overlapping windows at every evaluation; `independent` carries each window from the shared noise to its
end by itself and averages what comes out. The result depends on the plan of the windows, never on how many share a
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from worker.batches import Batches
from worker.separation.sam_audio.anchors import Anchor, marks
from worker.separation.sam_audio.config import SamAudioConfig
from worker.separation.sam_audio.model import Conditions, SamAudio
from worker.separation.sam_audio.noise import noise
from worker.separation.sam_audio.sampler import REFERENCE, Schedule, walk
from worker.separation.sam_audio.windows import WindowPlan, plan

Scheme = Literal["shared", "independent"]


@dataclass(frozen=True)
class Task:
    """One description to separate from one channel: its row of the latents, and its marks on the file's frames."""

    row: int
    description: str
    anchors: tuple[Anchor, ...] = ()


class LongForm:
    """A model with a way to cut blocks. window, overlap: frames.  batches: how many windows are computed at once.

    evaluations, windows_evaluated: since it was made; an evaluation is of all windows of a batch.
    """

    def __init__(self, model: SamAudio, batches: Batches, *, window: int = 750, overlap: int = 125) -> None:
        if not 0 <= overlap < window:
            raise ValueError("a window has frames of its own")
        self.model, self.batches = model, batches
        self.window, self.overlap = window, overlap
        self.evaluations = self.windows_evaluated = 0

    @torch.inference_mode()
    def separate(
        self,
        latents: Tensor,
        tasks: Sequence[Task],
        start: int,
        seed: int,
        schedule: Schedule = REFERENCE,
        check: Callable[[], None] = lambda: None,
        scheme: Scheme = "shared",
    ) -> Generator[float, None, Tensor]:
        """Yields the fraction done after every batch; returns the states, float32 [tasks, T, 256].

        latents: float32 [rows, 128, T] of a block that begins at frame `start` of the file.  seed: of the noise, which
        is the same for every task.  check: called before every batch; raises to stop.  Raises `gpu_oom`.
        """
        windows = plan(latents.shape[-1], self.window, self.overlap)
        block = _Block(self.model, latents, tasks, start, windows)
        drawn = torch.from_numpy(noise(seed, start, windows.frames, self.model.config.state_channels))
        state = drawn.to(self.model.device).expand(len(tasks), -1, -1)
        together = scheme == "shared"
        steps = walk(state if together else block.cut(state), schedule)
        time, state = next(steps)
        for evaluation in range(schedule.evaluations):
            cut = block.cut(state) if together else state
            velocities = torch.empty_like(cut)
            for done in self._evaluate(block, cut, time, velocities, check):
                yield (evaluation + done) / schedule.evaluations
            try:
                time, state = steps.send(block.blend(velocities) if together else velocities)
            except StopIteration as finished:
                state = cast(Tensor, finished.value)
        return state if together else block.blend(state)

    def _evaluate(
        self, block: _Block, states: Tensor, time: float, velocities: Tensor, check: Callable[[], None]
    ) -> Iterator[float]:
        """Fills in the velocities of all windows, [tasks * windows, length, 256]; gives the fraction that is done."""

        def compute(items: Sequence[int]) -> Tensor:
            check()
            self.evaluations += 1
            self.windows_evaluated += len(items)
            return self.model.evaluate(states[items[0] : items[-1] + 1], time, block.conditions(items))

        for items, made in self.batches.run(range(states.shape[0]), compute):
            velocities[items[0] : items[-1] + 1] = made
            yield (items[-1] + 1) / states.shape[0]


def window_bytes(config: SamAudioConfig, window: int) -> int:
    """Bytes that the evaluation of a window takes beside the weights, about.

    What is alive in a layer at once: some ten float32 copies of the stream, and three of the feed-forward's width.
    """
    transformer = config.transformer
    return window * 4 * (10 * transformer.dim + 3 * transformer.ffn_dim)


class _Block:
    """What the windows of a block are told, and how states are cut and joined. Items are ordered task by task."""

    def __init__(
        self, model: SamAudio, latents: Tensor, tasks: Sequence[Task], start: int, windows: WindowPlan
    ) -> None:
        self._model, self._windows = model, windows
        self._features = model.features(latents.to(model.device))
        self._source = [task.row for task in tasks]
        self._text = model.text([task.description for task in tasks])
        self._marks = torch.from_numpy(np.stack([marks(task.anchors, start, windows.frames) for task in tasks])).to(
            model.device
        )
        self._weights = torch.from_numpy(windows.weights()).to(model.device)[..., None]

    def conditions(self, numbers: Sequence[int]) -> Conditions:
        """Of these items. Made anew at every evaluation: a fraction of its cost, and of the memory of all."""
        length, starts = self._windows.length, self._windows.starts
        items = [divmod(number, len(starts)) for number in numbers]
        spans = [(task, slice(starts[window], starts[window] + length)) for task, window in items]
        features = torch.stack([self._features[self._source[task], span] for task, span in spans])
        marked = torch.stack([self._marks[task, span] for task, span in spans])
        text = self._text.rows(torch.tensor([task for task, _ in items], device=self._text.states.device))
        return self._model.conditions(features, text, marked)

    def cut(self, state: Tensor) -> Tensor:
        """[tasks, T, C] to [tasks * windows, length, C]."""
        length = self._windows.length
        return torch.stack([state[:, begin : begin + length] for begin in self._windows.starts], dim=1).flatten(0, 1)

    def blend(self, cut: Tensor) -> Tensor:
        """[tasks * windows, length, C] to [tasks, T, C]."""
        parts = cut.unflatten(0, (-1, len(self._windows.starts))) * self._weights
        whole = parts.new_zeros(parts.shape[0], self._windows.frames, parts.shape[-1])
        for window, begin in enumerate(self._windows.starts):
            whole[:, begin : begin + self._windows.length] += parts[:, window]
        return whole
