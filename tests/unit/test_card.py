"""Engines come and go with the card's memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engines import EngineSpec
from common.errors import NightshiftError
from tests.engines import ABSENT, FAST
from worker.card import Card, load
from worker.engine import Event, Host, Work

HOST = Host("cpu", Path("models"))


class Weighty:
    """An engine that does nothing but take memory, which the shelf counts."""

    version = "1"

    def __init__(self, name: str, size: int, shelf: dict[str, int]) -> None:
        self.name, self.size, self._shelf = name, size, shelf
        shelf[name] = size

    def run(self, work: Work) -> Iterator[Event]:
        return iter(())

    def memory_bytes(self) -> int:
        return self.size

    def close(self) -> None:
        del self._shelf[self.name]


SIZES = {"a": 1, "b": 2, "c": 3, "d": 5, "e": 8}


def card_of(shelf: dict[str, int], memory: int | None, hard: int | None = None) -> Card:
    def loader(spec: EngineSpec, host: Host) -> Weighty:
        if hard is not None and sum(shelf.values()) + SIZES[spec.name] > hard:
            raise NightshiftError("gpu_oom", "It does not fit.")
        return Weighty(spec.name, SIZES[spec.name], shelf)

    return Card(HOST, memory, loader)


def spec(name: str) -> EngineSpec:
    return replace(FAST, name=name)


@given(st.lists(st.sampled_from(sorted(SIZES)), max_size=30), st.integers(1, 20))
def test_what_is_resident_fits_and_the_newest_stay(asked: list[str], memory: int) -> None:
    shelf: dict[str, int] = {}
    card = card_of(shelf, memory)
    for name in asked:
        assert card.acquire(spec(name)).name == name
        assert card.resident[-1] == name
        assert set(card.resident) == set(shelf)
        assert sum(shelf.values()) <= memory or card.resident == (name,)
    newest = list(dict.fromkeys(reversed(asked)))
    assert list(reversed(card.resident)) == newest[: len(card.resident)]
    card.free()
    assert not shelf


def test_a_resident_engine_is_not_loaded_again() -> None:
    shelf: dict[str, int] = {}
    card = card_of(shelf, None)
    assert card.acquire(spec("a")) is card.acquire(spec("a"))


def test_an_engine_that_does_not_fit_beside_others_is_loaded_alone() -> None:
    shelf: dict[str, int] = {}
    card = card_of(shelf, None, hard=8)
    card.acquire(spec("b"))
    card.acquire(spec("e"))
    assert card.resident == ("e",)


def test_all_but_one_can_be_unloaded() -> None:
    shelf: dict[str, int] = {}
    card = card_of(shelf, None)
    for name in ("a", "b", "c"):
        card.acquire(spec(name))
    assert card.keep_only("b")
    assert (card.resident, set(shelf)) == (("b",), {"b"})
    assert not card.keep_only("b")


def test_an_engine_that_does_not_fit_at_all_says_so() -> None:
    shelf: dict[str, int] = {}
    card = card_of(shelf, None, hard=4)
    card.acquire(spec("a"))
    with pytest.raises(NightshiftError) as raised:
        card.acquire(spec("d"))
    assert raised.value.code == "gpu_oom"
    assert not shelf


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError) as raised:
        load(ABSENT, Host("cpu", tmp_path))
    assert (raised.value.code, raised.value.retryable) == ("engine_not_ready", False)
    assert "no_such_package" in raised.value.detail
    assert raised.value.hint == "pip install it"
