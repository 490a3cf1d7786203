"""The compiled field gives what the plain one gives, and is compiled once for all blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sam_audio import Fixed, relative, tiny_folder, torch
from worker.separation.sam_audio.anchors import anchors
from worker.separation.sam_audio.compiled import padded, parts
from worker.separation.sam_audio.longform import LongForm, Task
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import Schedule

__all__ = ["tiny_folder"]

FEW = Schedule("midpoint", 2)
SHORT, LONG = Task(0, "dog"), Task(1, "rain on the roof of a house", anchors([("+", 1.0, 3.0)]))


class Counting:
    """A compiler that leaves the graph as it is, and counts what it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, graph: Any, inputs: list[Any]) -> Any:
        self.shapes.append(next(tuple(value.shape) for value in inputs if value.ndim == 3 and value.shape[-1] == 256))
        return graph.forward


@pytest.fixture
def model(tiny_folder: Any) -> Iterator[SamAudio]:
    torch._dynamo.reset()
    yield SamAudio.load(tiny_folder)
    torch._dynamo.reset()


def separated(model: SamAudio, tasks: list[Task], frames: int, batch: int = 5, start: int = 0) -> Any:
    latents = torch.randn(2, 128, frames, generator=torch.Generator().manual_seed(frames + start))
    steps = LongForm(model, Fixed(batch), window=60, overlap=20).separate(latents, tasks, start, 9, FEW)
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value


def test_nothing_is_compiled_again_from_block_to_block(tiny_folder: Any, model: SamAudio) -> None:
    plain = SamAudio.load(tiny_folder)
    counting = Counting()
    model.compile(60, counting)
    for index, (tasks, frames) in enumerate(
        [([SHORT, LONG], 170), ([LONG, SHORT], 170), ([SHORT, SHORT], 150), ([SHORT], 41), ([LONG], 300)]
    ):
        given = separated(model, tasks, frames, start=25 * index)
        assert relative(given, separated(plain, tasks, frames, start=25 * index)) < 1e-4
        if index == 0:
            first = list(counting.shapes)
    # Eight windows, five at a time: four and one, then two and one. Descriptions of up to 16 and of up to 32 tokens.
    assert sorted(first) == [(1, 60, 256), (2, 60, 256), (4, 60, 256)]
    assert sorted(counting.shapes) == sorted([*first, *first])


def test_work_on_a_cpu_can_still_be_stopped(model: SamAudio) -> None:
    model.compile(60, Counting())

    def check() -> None:
        raise InterruptedError

    with model.interruptible(check):
        separated(model, [SHORT], 60)
        with pytest.raises(InterruptedError):
            model.encode(torch.zeros(1, 1, 5000))


@given(st.integers(1, 100))
def test_parts_cover_the_rows_in_powers_of_two(rows: int) -> None:
    cut = list(parts(rows))
    assert [index for part in cut for index in range(rows)[part]] == list(range(rows))
    assert all((part.stop - part.start).bit_count() == 1 for part in cut)
    assert len({part.stop - part.start for part in cut}) == len(cut)


@given(st.integers(1, 512), st.booleans())
def test_descriptions_have_one_of_six_lengths(tokens: int, masked: bool) -> None:
    mask = torch.ones(2, tokens, dtype=torch.bool) if masked else None
    memory, mask = padded(torch.ones(2, tokens, 3), mask)
    assert memory.shape[1] in (16, 32, 64, 128, 256, 512) and tokens <= memory.shape[1] < max(17, 2 * tokens)
    assert torch.equal(mask, memory[..., 0] > 0)
