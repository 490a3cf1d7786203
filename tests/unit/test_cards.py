"""Cards as NVML tells them, with a fake NVML of two and of eight cards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nvml import FakeNvml
from worker.cards import GraphicsCard, find, visible_of


def cards_of(count: int) -> tuple[GraphicsCard, ...]:
    return find(FakeNvml(count)).cards


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_card_is_found_with_its_index_uuid_name_and_memory(count: int) -> None:
    nvml = FakeNvml(count)
    found = find(nvml)
    assert [card.index for card in found.cards] == list(range(count))
    assert found.cards[-1] == GraphicsCard(count - 1, f"GPU-{count - 1:04d}-aaaa", "NVIDIA H200", count * 2**30)
    assert nvml.opened == 0


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetUUID"])
def test_an_nvml_that_fails_gives_no_card_and_says_why(broken: str) -> None:
    nvml = FakeNvml(2, broken)
    found = find(nvml)
    assert found.cards == ()
    assert "Driver Not Loaded" in found.why
    assert nvml.opened == 0


def test_a_driver_without_cards_says_so() -> None:
    assert find(FakeNvml(0)).why == "The driver knows no card."


def test_a_card_without_memory_of_its_own_is_a_card() -> None:
    found = find(FakeNvml(1, "nvmlDeviceGetMemoryInfo"))
    assert [card.memory for card in found.cards] == [None]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("GPU-0005-aaaa", [5]),
        ("GPU-0005,0", [5, 0]),
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("1,99,2", [1]),
        ("NoDevFiles", []),
        ("GPU-", []),  # the beginning of all eight
        ("4,4", [4]),
    ],
)
def test_cuda_visible_devices_is_honoured(visible: str | None, indices: list[int]) -> None:
    assert [card.index for card in visible_of(cards_of(8), visible)] == indices


def test_a_list_that_leaves_no_card_is_named_as_the_reason() -> None:
    found = find(FakeNvml(2), "7")
    assert found.cards == ()
    assert "CUDA_VISIBLE_DEVICES='7'" in found.why
    assert "2 cards" in found.why


@given(st.lists(st.integers(0, 7), unique=True))
def test_naming_by_uuid_or_by_index_is_the_same(chosen: list[int]) -> None:
    cards = cards_of(8)
    by_index = visible_of(cards, ",".join(str(n) for n in chosen))
    assert by_index == visible_of(cards, ",".join(cards[n].uuid for n in chosen))
    assert [card.index for card in by_index] == chosen
