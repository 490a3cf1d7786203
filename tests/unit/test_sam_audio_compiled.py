"""The compiled field gives what the plain one gives, and is compiled once for all blocks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sam_audio import Fixed, relative, tiny_config, torch
from worker.engine import alone
from worker.separation.sam_audio.anchors import anchors
from worker.separation.sam_audio.compiled import padded, parts
from worker.separation.sam_audio.generated import write_checkpoint
from worker.separation.sam_audio.longform import LongForm, Task
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import Schedule

FEW = Schedule("midpoint", 2)
SHORT, LONG = Task(0, "dog"), Task(1, "rain on the roof of a house", anchors([("+", 1.0, 3.0)]))


class Counting:
    """A compiler that leaves the graph as it is, and counts what it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, graph: Any, inputs: list[Any]) -> Any:
        self.shapes.append(next(tuple(value.shape) for value in inputs if value.ndim == 3 and value.shape[-1] == 256))
        return graph.forward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one layer: compiling takes its time for each."""
    path = tmp_path_factory.mktemp("one-layer")
    write_checkpoint(path, tiny_config(dim=32, n_heads=1, n_layers=1, context_dim=32))
    return path


@pytest.fixture
def model(folder: Path) -> Iterator[SamAudio]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield SamAudio.load(folder)
    torch._dynamo.reset()


def separated(model: SamAudio, tasks: list[Task], frames: int, batch: int = 5, start: int = 0) -> Any:
    latents = torch.randn(2, 128, frames, generator=torch.Generator().manual_seed(frames + start))
    form = LongForm(model, Fixed(batch), window=60, overlap=20)
    steps = alone(form.separate(latents, tasks, start, 9, FEW))
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value


def test_nothing_is_compiled_again_from_block_to_block(folder: Path, model: SamAudio) -> None:
    plain = SamAudio.load(folder)
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_the_real_compiler_gives_what_the_plain_network_gives(folder: Path, model: SamAudio) -> None:
    plain = SamAudio.load(folder)
    model.compile(40)
    state, features = torch.randn(2, 1, 40, 256)
    for time, description in ((0.1, "dog"), (0.9, "rain")):
        text = plain.text([description])
        expected = plain.velocity(state, time, features, text)
        assert relative(model.velocity(state, time, features, text), expected) < 1e-4
    # One compilation served both.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


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
