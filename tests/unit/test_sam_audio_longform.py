"""Blocks in windows: what they must not depend on, and how near they come to the whole."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from common.errors import NightshiftError
from tests.sam_audio import Fixed, relative, tiny, tiny_folder, torch
from worker.engine import Interrupted, alone
from worker.separation.sam_audio.anchors import anchors
from worker.separation.sam_audio.longform import Evaluation, LongForm, Task
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.noise import noise
from worker.separation.sam_audio.sampler import Schedule

__all__ = ["tiny", "tiny_folder"]

FEW = Schedule("midpoint", 2)
TASKS = (Task(0, "man speaking"), Task(1, "a dog"), Task(0, "rain on a roof", anchors([("+", 1.0, 3.0)])))


def finish(steps: Generator[Any, None, Any]) -> tuple[list[float], Any]:
    steps, fractions = alone(steps), []
    while True:
        try:
            fractions.append(next(steps))
        except StopIteration as finished:
            return fractions, finished.value


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(2, 128, 170, generator=torch.Generator().manual_seed(5))


def whole(model: SamAudio, latents: torch.Tensor, schedule: Schedule, seed: int = 9) -> torch.Tensor:
    """Each task by one evaluation over all frames at a time."""
    drawn = torch.from_numpy(noise(seed, 0, latents.shape[-1], 256))[None]
    plain = [task for task in TASKS if not task.anchors]
    features = model.features(latents)
    return torch.cat(
        [model.sample(drawn, features[[task.row]], model.text([task.description]), schedule=schedule) for task in plain]
    )


@pytest.mark.parametrize("scheme", ["shared", "independent"])
def test_one_window_is_the_plain_sampler(tiny: SamAudio, latents: torch.Tensor, scheme: Any) -> None:
    _, state = finish(LongForm(tiny, Fixed(8), window=200).separate(latents, TASKS[:2], 0, 9, FEW, scheme=scheme))
    assert relative(state, whole(tiny, latents, FEW)) < 1e-5


@pytest.mark.parametrize("scheme", ["shared", "independent"])
def test_windows_come_near_the_whole(tiny: SamAudio, latents: torch.Tensor, scheme: Any) -> None:
    """Noise by frame is what makes it so: with noise of its own for each window the error is of the order of one."""
    schedule = Schedule("midpoint", 4)
    form = LongForm(tiny, Fixed(8), window=60, overlap=20)
    _, state = finish(form.separate(latents, TASKS[:2], 0, 9, schedule, scheme=scheme))
    reference = whole(tiny, latents, schedule)
    error = (state - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    assert float(error) < 0.05
    other = whole(tiny, latents, schedule, seed=10)
    assert float((other - reference).square().mean().sqrt() / reference.square().mean().sqrt()) > 0.5


@pytest.mark.parametrize("scheme", ["shared", "independent"])
def test_the_batch_does_not_matter(tiny: SamAudio, latents: torch.Tensor, scheme: Any) -> None:
    results = [
        finish(LongForm(tiny, Fixed(batch), window=60, overlap=20).separate(latents, TASKS, 50, 9, FEW, scheme=scheme))[
            1
        ]
        for batch in (1, 4, 100)
    ]
    assert all(relative(result, results[0]) < 1e-5 for result in results[1:])


def test_tasks_do_not_matter_to_each_other(tiny: SamAudio, latents: torch.Tensor) -> None:
    form = LongForm(tiny, Fixed(8), window=60, overlap=20)
    _, together = finish(form.separate(latents, TASKS, 0, 9, FEW))
    for index, task in enumerate(TASKS):
        _, alone = finish(form.separate(latents, [task], 0, 9, FEW))
        assert relative(together[index : index + 1], alone) < 1e-5


def test_marks_are_of_the_file_not_of_the_block(tiny: SamAudio, latents: torch.Tensor) -> None:
    """The same sound and noise, marked at the same place, once as a block that begins later in the file."""
    form = LongForm(tiny, Fixed(8), window=60, overlap=20)
    early = Task(0, "dog", anchors([("+", 2.0, 4.0)]))
    late = Task(0, "dog", anchors([("+", 12.0, 14.0)]))
    unmarked = Task(0, "dog")
    states = [finish(form.separate(latents, [task], 250, 9, FEW))[1] for task in (early, late, unmarked)]
    assert torch.equal(states[0], states[2])
    assert relative(states[1], states[2]) > 1e-3


def test_progress_rises_to_the_end_and_stops_when_told(tiny: SamAudio, latents: torch.Tensor) -> None:
    fractions, _ = finish(LongForm(tiny, Fixed(3), window=60, overlap=20).separate(latents, TASKS, 0, 9, FEW))
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    # Four windows for each of three tasks, three at a time, four evaluations.
    assert len(fractions) == 4 * 4
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        finish(LongForm(tiny, Fixed(3), window=60, overlap=20).separate(latents, TASKS, 0, 9, FEW, check))


def short_of_memory(model: SamAudio, most: int) -> Callable[..., Any]:
    evaluate = model.evaluate

    def limited(state: torch.Tensor, *rest: Any) -> torch.Tensor:
        if state.shape[0] > most:
            raise torch.OutOfMemoryError("out of memory")
        return evaluate(state, *rest)

    return limited


def test_a_batch_that_does_not_fit_is_halved(
    tiny: SamAudio, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = finish(LongForm(tiny, Fixed(8), window=60, overlap=20).separate(latents, TASKS, 0, 9, FEW))
    monkeypatch.setattr(tiny, "evaluate", short_of_memory(tiny, 2))
    form = LongForm(tiny, Fixed(8), window=60, overlap=20)
    fractions, after = finish(form.separate(latents, TASKS, 0, 9, FEW))
    assert relative(after, before) < 1e-5
    # Twelve windows two at a time, four evaluations.
    assert len(fractions) == 6 * 4


def test_memory_for_no_window_is_an_error(
    tiny: SamAudio, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "evaluate", short_of_memory(tiny, 0))
    with pytest.raises(NightshiftError, match="gpu_oom"):
        finish(LongForm(tiny, Fixed(8), window=60, overlap=20).separate(latents, TASKS, 0, 9, FEW))


def side_by_side(steps: list[Generator[Any, None, Any]]) -> list[Any]:
    """What each gives, where all are computed at once; an exception where it has to end."""
    states: list[Any] = [None] * len(steps)
    wanted: dict[int, Evaluation] = {}
    left = dict(enumerate(steps))
    while left:
        for index in list(left):
            try:
                while not isinstance(step := next(left[index]), Evaluation):
                    pass
                wanted[index] = step
            except StopIteration as finished:
                states[index] = finished.value
                del left[index]
                wanted.pop(index, None)
        if not wanted:
            continue
        first, *others = wanted.values()
        try:
            first.compute(others)
        except Interrupted as stop:
            (index,) = [index for index, one in wanted.items() if one is stop.demand]
            states[index] = stop.cause
            left.pop(index).close()
            wanted.pop(index)
    return states


def test_blocks_of_several_jobs_share_batches_and_give_what_each_gives_alone(
    tiny: SamAudio, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of other lengths, tasks, seeds, places and schedules: whatever has windows of the same length."""
    blocks = [(latents, TASKS, 0, 9, FEW), (latents[:1, :, :100], TASKS[:1], 50, 4, FEW), (latents, TASKS[1:], 25, 9,
              Schedule("euler", 3))]  # fmt: skip
    forms = [LongForm(tiny, Fixed(32), window=60, overlap=20) for _ in blocks]
    expected = [finish(form.anew().separate(*block))[1] for form, block in zip(forms, blocks, strict=True)]
    sizes: list[int] = []
    evaluate = tiny.evaluate

    def counting(state: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(state.shape[0])
        return evaluate(state, *rest)

    monkeypatch.setattr(tiny, "evaluate", counting)
    made = side_by_side([form.separate(*block) for form, block in zip(forms, blocks, strict=True)])
    for ours, alone_ in zip(made, expected, strict=True):
        assert relative(ours, alone_) < 1e-5
    # Four windows for each of three tasks, two for one, four for each of two; the last ends after three evaluations.
    assert sizes == [12 + 2 + 8] * 3 + [12 + 2]
    assert [(form.evaluations, form.windows_evaluated) for form in forms] == [(4, 48), (4, 8), (3, 24)]


def test_windows_of_another_length_share_no_batch(
    tiny: SamAudio, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [(latents[:1, :, :40], TASKS[:1], 0, 9, FEW), (latents[:1, :, :50], TASKS[:1], 0, 9, FEW)]
    form = LongForm(tiny, Fixed(32), window=60, overlap=20)
    expected = [finish(form.separate(*block))[1] for block in blocks]
    made = side_by_side([form.anew().separate(*block) for block in blocks])
    assert all(relative(ours, alone_) < 1e-5 for ours, alone_ in zip(made, expected, strict=True))


def test_a_job_that_has_to_end_leaves_the_others_as_they_stood(tiny: SamAudio, latents: torch.Tensor) -> None:
    """It may be asked in the middle of an evaluation that it shares."""
    form = LongForm(tiny, Fixed(32), window=60, overlap=20)
    _, expected = finish(form.separate(latents, TASKS[:1], 0, 9, FEW))
    for at in (1, 40):
        asked = 0

        def check(at: int = at) -> None:
            nonlocal asked
            asked += 1
            if asked == at:
                raise InterruptedError

        first, second = side_by_side(
            [
                form.anew().separate(latents, TASKS[1:], 0, 9, FEW, check),
                form.anew().separate(latents, TASKS[:1], 0, 9, FEW),
            ]
        )
        assert isinstance(first, InterruptedError) and asked == at
        assert relative(second, expected) < 1e-5
        assert not any(layer._forward_pre_hooks for layer in tiny.network.modules())
