"""Batches shrink where memory runs out, and say so when that does not help. The card is feigned, the failures are
torch's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import pytest

torch = pytest.importorskip("torch")

from common.errors import NightshiftError  # noqa: E402
from worker import batches, device  # noqa: E402
from worker.batches import Batches  # noqa: E402
from worker.device import Memory  # noqa: E402

CARD = torch.device("cuda:0")
GIB = 2**30


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_fitted", {})


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A card with 24 GiB, of which 20 are free; gives what was done to it."""
    done: list[str] = []
    monkeypatch.setattr(device, "memory", lambda device: Memory(20 * GIB, 24 * GIB))
    monkeypatch.setattr(device, "name", lambda device: "Card")
    monkeypatch.setattr(device, "release", lambda device: done.append("released"))
    yield done


def holding(most: int, seen: list[int]) -> Callable[[Sequence[int]], list[int]]:
    """Computes up to `most` items at once; more is too much."""

    def compute(items: Sequence[int]) -> list[int]:
        seen.append(len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return [2 * item for item in items]

    return compute


@pytest.mark.parametrize(("room", "tried"), [(16, [16, 4]), (7, [16, 8, 4, 4, 4, 4, 4]), (1, [16, 8, 4, 2] + 20 * [1])])
def test_the_batch_is_halved_until_it_fits(card: list[str], room: int, tried: list[int]) -> None:
    seen: list[int] = []
    made = list(Batches("m", CARD, GIB, most=16).run(range(20), holding(room, seen)))
    assert [item for items, _ in made for item in items] == list(range(20))
    assert [value for _, values in made for value in values] == list(range(0, 40, 2))
    assert seen == tried
    assert len(card) == seen.index(min(room, tried[-1])) if room < 16 else not card


def test_what_fitted_is_remembered_for_the_model_and_kind_of_card(card: list[str]) -> None:
    list(Batches("m", CARD, GIB, most=16).run(range(16), holding(4, [])))
    seen: list[int] = []
    list(Batches("m", CARD, GIB).run(range(8), holding(4, seen)))
    assert seen == [4, 4]
    assert Batches("other", CARD, GIB, most=16).size == 16


def test_the_first_batch_is_what_the_free_memory_holds(card: list[str]) -> None:
    assert Batches("m", CARD, 4 * GIB).size == 4, "nine tenths of 20 GiB"
    assert Batches("m", CARD, 4 * GIB, fraction=0.3).size == 1
    assert Batches("m", CARD, 400 * GIB).size == 1
    assert Batches("m", CARD, GIB, most=8).size == 8
    assert Batches("m", torch.device("cuda:0"), 1).size == batches.MOST


def test_nothing_fits(card: list[str]) -> None:
    seen: list[int] = []
    with pytest.raises(NightshiftError) as raised:
        list(Batches("m", CARD, 3 * GIB, fraction=1).run(range(20), holding(0, seen)))
    assert seen == [6, 3, 1]
    assert raised.value.code == "gpu_oom"
    assert "20.0 GiB free of 24.0 GiB" in raised.value.detail
    assert "3.0 GiB free would do" in raised.value.hint
    assert raised.value.extra["bytes_needed"] == 3 * GIB


def test_another_failure_is_not_one_of_memory(card: list[str]) -> None:
    def compute(items: Sequence[int]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches("m", CARD, GIB).run(range(3), compute))
    assert not card


def test_the_failed_batch_is_let_go_before_memory_is_given_back(
    card: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = 0

    class Held:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    at_release: list[int] = []
    monkeypatch.setattr(device, "release", lambda device: at_release.append(alive))
    first = True

    def compute(items: Sequence[int]) -> int:
        nonlocal first
        held = Held()
        if first:
            first = False
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(items) if held else 0

    list(Batches("m", CARD, GIB).run(range(4), compute))
    assert at_release == [0]


def test_a_cpu_computes_one_at_a_time() -> None:
    seen: list[int] = []
    list(Batches("m", torch.device("cpu"), 1).run(range(3), holding(1, seen)))
    assert seen == [1, 1, 1]


def test_a_batch_has_a_size() -> None:
    for most in (0, batches.MOST + 1):
        with pytest.raises(ValueError, match="1 to"):
            Batches("m", CARD, 1, most=most)


def stepping(most: int, seen: list[int]) -> Callable[[Sequence[int]], Generator[float, None, list[int]]]:
    """As `holding`, in four steps a batch, out of memory in the third."""

    def compute(items: Sequence[int]) -> Generator[float, None, list[int]]:
        seen.append(len(items))
        for step in range(4):
            if step == 2 and len(items) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            yield step / 4
        return [2 * item for item in items]

    return compute


def finished(steps: Generator[float, None, list[list[int]]]) -> tuple[list[float], list[list[int]]]:
    told = []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as ended:
            return told, ended.value


@pytest.mark.parametrize(("room", "tried"), [(16, [16, 4]), (7, [16, 8, 4, 4, 4, 4, 4])])
def test_step_by_step_the_batch_is_halved_as_well(card: list[str], room: int, tried: list[int]) -> None:
    seen: list[int] = []
    told, made = finished(Batches("m", CARD, GIB, most=16).stepwise(range(20), stepping(room, seen)))
    assert [value for values in made for value in values] == list(range(0, 40, 2))
    assert seen == tried and len(card) == len([size for size in tried if size > room])
    assert all(0 <= share < 1 for share in told) and told[-1] == pytest.approx((20 - tried[-1] / 4) / 20)


def test_step_by_step_nothing_fits(card: list[str]) -> None:
    seen: list[int] = []
    with pytest.raises(NightshiftError) as raised:
        finished(Batches("m", CARD, 3 * GIB, fraction=1).stepwise(range(20), stepping(0, seen)))
    assert seen == [6, 3, 1] and raised.value.code == "gpu_oom"


def test_step_by_step_another_failure_is_raised_and_an_early_end_closes_the_work(card: list[str]) -> None:
    closed: list[str] = []

    def compute(items: Sequence[int]) -> Generator[float, None, int]:
        try:
            yield 0.5
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        finally:
            closed.append("closed")

    steps = Batches("m", CARD, GIB).stepwise(range(3), compute)
    assert next(steps) == 0.5
    steps.close()
    assert closed == ["closed"]
    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches("m", CARD, GIB).stepwise(range(3), compute))
    assert closed == ["closed", "closed"] and not card


@pytest.mark.parametrize(("share", "sizes"), [(1.0, [1] * 6), (1 / 3, [2] * 3), (0.13, [5, 1]), (0.001, [6])])
def test_on_a_cpu_only_small_items_share_a_batch(share: float, sizes: list[int]) -> None:
    """Up to a part of a whole one."""
    made = list(Batches("m", torch.device("cpu"), GIB).run(range(6), list, share))
    assert [len(batch) for batch, _ in made] == sizes
    assert [item for _, items in made for item in items] == list(range(6))
