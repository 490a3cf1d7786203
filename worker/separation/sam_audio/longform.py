"""Separation of a block of any length in windows that share one noise and are blended as latents.

Two ways: `shared` (MultiDiffusion, O. Bar-Tal et al., 2023) keeps one state for the whole block and averages the
velocities of overlapping windows at every evaluation; `independent` carries each window from the shared noise to its
end by itself and averages what comes out. The result depends on the plan of the windows, never on how many share a
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from time import monotonic
from typing import Literal, Self, cast

import numpy as np
import torch
from torch import Tensor

from worker.batches import Batches
from worker.engine import Demand, Interrupted
from worker.separation.sam_audio.anchors import Anchor, marks
from worker.separation.sam_audio.config import SamAudioConfig
from worker.separation.sam_audio.model import Conditions, SamAudio, joined
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

    evaluations, windows_evaluated: since it was made; an evaluation is of all windows of a batch, whosever they are.
    """

    def __init__(self, model: SamAudio, batches: Batches, *, window: int = 750, overlap: int = 125) -> None:
        if not 0 <= overlap < window:
            raise ValueError("a window has frames of its own")
        self.model, self.batches = model, batches
        self.window, self.overlap = window, overlap
        self.evaluations = self.windows_evaluated = 0

    def anew(self) -> Self:
        """The same, having done nothing yet."""
        return type(self)(self.model, self.batches, window=self.window, overlap=self.overlap)

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
    ) -> Generator[float | Demand, None, Tensor]:
        """Yields what is to be evaluated, and the fraction done after every batch; returns the states, float32
        [tasks, T, 256].

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
            wanted = Evaluation(self, block, block.cut(state) if together else state, time, check)
            while not wanted.over:
                yield wanted
                yield (evaluation + wanted.share) / schedule.evaluations
            try:
                time, state = steps.send(block.blend(wanted.velocities) if together else wanted.velocities)
            except StopIteration as finished:
                state = cast(Tensor, finished.value)
        return state if together else block.blend(state)


class Evaluation(Demand):
    """One evaluation of all windows of a block: states and velocities are [tasks * windows, length, 256].

    Windows of several blocks share a batch where they are equally long and of one model. done: windows, so far.
    """

    def __init__(self, form: LongForm, block: _Block, states: Tensor, time: float, check: Callable[[], None]) -> None:
        self.form, self.block, self.states, self.time, self.check = form, block, states, time, check
        self.velocities = torch.empty_like(states)
        self.done = 0

    @property
    def over(self) -> bool:
        return self.done == len(self.states)

    @property
    def share(self) -> float:
        return self.done / len(self.states)

    @torch.inference_mode()
    def compute(self, others: Sequence[Demand]) -> None:
        """See `Demand`. Raises `gpu_oom` where not one window fits."""
        fitting = [self, *(other for other in others if isinstance(other, Evaluation) and self._goes_with(other))]
        windows = [(wanted, row) for wanted in fitting for row in range(wanted.done, len(wanted.states))]
        began = monotonic()
        # One batch of them: what comes next is for the jobs to say, which may have ended meanwhile.
        share = self.states.shape[1] / self.form.window
        with closing(self.form.batches.run(windows, lambda batch: _evaluate(_rows(batch)), share)) as batches:
            batch, made = next(batches)
        took = monotonic() - began
        at = 0
        for wanted, rows in _rows(batch):
            count = len(rows)
            wanted.velocities[rows.start : rows.stop] = made[at : at + count]
            wanted.done += count
            wanted.seconds += took * count / len(batch)
            wanted.form.evaluations += 1
            wanted.form.windows_evaluated += count
            at += count

    def _goes_with(self, other: Evaluation) -> bool:
        return other.form.model is self.form.model and other.states.shape[1:] == self.states.shape[1:]


def _rows(batch: Sequence[tuple[Evaluation, int]]) -> list[tuple[Evaluation, range]]:
    """The windows of a batch by evaluation; those of one follow each other."""
    found = []
    for wanted, windows in groupby(batch, key=lambda window: window[0]):
        rows = [row for _, row in windows]
        found.append((wanted, range(rows[0], rows[-1] + 1)))
    return found


def _evaluate(parts: Sequence[tuple[Evaluation, range]]) -> Tensor:
    """Velocities of these windows. Raises Interrupted where the job of one has to end."""

    def ask() -> None:
        for wanted, _ in parts:
            try:
                wanted.check()
            except Exception as stop:
                raise Interrupted(wanted, stop) from stop

    ask()
    first, rows = parts[0]
    model = first.form.model
    with model.interruptible(ask):
        if len(parts) == 1:
            return model.evaluate(first.states[rows.start : rows.stop], first.time, first.block.conditions(rows))
        states = torch.cat([wanted.states[rows.start : rows.stop] for wanted, rows in parts])
        times = torch.tensor([wanted.time for wanted, rows in parts for _ in rows], device=states.device)
        return model.evaluate(states, times, joined([wanted.block.conditions(rows) for wanted, rows in parts]))


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
