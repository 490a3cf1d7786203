"""Weighted fair shares: nothing wasted, nobody passed over, and in the long run by weight."""

from __future__ import annotations

import heapq
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.jobs.fair import shares, starts

KEYS = ("a", "b", "c", "d", "e")
counts = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 40))
weights_of = st.dictionaries(st.sampled_from(KEYS), st.sampled_from((0.25, 0.5, 1.0, 2.0, 3.0, 8.0)))
rooms = st.integers(0, 60)


@given(active=counts, waiting=counts, weights=weights_of, room=rooms)
def test_work_conserving_and_bounded(
    active: dict[str, int], waiting: dict[str, int], weights: dict[str, float], room: int
) -> None:
    granted = shares(active, waiting, weights, room)
    assert sum(granted.values()) == min(room, sum(waiting.values()))
    assert all(0 < n <= waiting[key] for key, n in granted.items())


@given(active=counts, waiting=counts, weights=weights_of, room=rooms)
def test_nobody_is_served_before_one_with_less(
    active: dict[str, int], waiting: dict[str, int], weights: dict[str, float], room: int
) -> None:
    granted = shares(active, waiting, weights, room)

    def load(key: str, jobs: int) -> Fraction:
        return Fraction(active.get(key, 0) + jobs) / Fraction(weights.get(key, 1.0))

    left = [key for key in waiting if granted.get(key, 0) < waiting[key]]
    for key, n in granted.items():
        for other in left:
            # When it was given its last job, nobody who still waits had less per weight.
            assert load(key, n - 1) <= load(other, granted.get(other, 0))


@given(active=counts, waiting=counts, weights=weights_of, room=rooms)
def test_more_room_takes_from_nobody(
    active: dict[str, int], waiting: dict[str, int], weights: dict[str, float], room: int
) -> None:
    less, more = shares(active, waiting, weights, room), shares(active, waiting, weights, room + 1)
    assert all(more.get(key, 0) >= n for key, n in less.items())


@given(waiting=counts, room=rooms)
def test_the_choice_does_not_hang_on_the_order_of_the_keys(waiting: dict[str, int], room: int) -> None:
    assert shares({}, waiting, {}, room) == shares({}, dict(reversed(waiting.items())), {}, room)


@settings(max_examples=40)
@given(weights=st.fixed_dictionaries({key: st.sampled_from((0.5, 1.0, 2.0, 5.0)) for key in KEYS}))
def test_shares_converge_to_the_weights(weights: dict[str, float]) -> None:
    room = 600
    granted = shares({}, dict.fromkeys(KEYS, room), weights, room)
    whole = sum(weights.values())
    for key in KEYS:
        # Adams' method strays from the exact quota by less than one job for each other key.
        assert abs(granted[key] - room * weights[key] / whole) < len(KEYS)


def test_a_key_that_waits_alone_gets_all_the_room() -> None:
    assert shares({"a": 50}, {"a": 10}, {"a": 0.01}, 4) == {"a": 4}


def test_what_runs_already_counts() -> None:
    assert shares({"a": 3}, {"a": 10, "b": 10}, {}, 3) == {"b": 3}
    assert shares({"a": 3}, {"a": 10, "b": 10}, {"a": 4.0}, 3) == {"a": 2, "b": 1}


def _served(weights: dict[str, float], cards: int, jobs: int, seed: int, absent: str | None = None) -> dict[str, int]:
    """How many jobs of each are begun where all of them always wait, on so many cards, jobs being 1 to 3 long.

    absent: comes only when half of it is over.
    """
    chance = random.Random(seed)
    passed: dict[str, float] = {}
    active = dict.fromkeys(weights, 0)
    begun = dict.fromkeys(weights, 0)
    running: list[tuple[float, str]] = []
    now = 0.0
    for number in range(jobs):
        here = [key for key in weights if key != absent or number >= jobs // 2]
        if number == jobs // 2:
            begun = dict.fromkeys(weights, 0)
        waiting = dict.fromkeys(here, 1000)
        granted = shares(active, waiting, weights, 1, passed)
        passed |= {
            key: clock + granted.get(key, 0) / weights[key]
            for key, clock in starts(active, waiting, weights, passed).items()
        }
        (key,) = granted
        begun[key] += 1
        active[key] += 1
        heapq.heappush(running, (now + chance.uniform(1, 3), key))
        if len(running) == cards:
            now, ended = heapq.heappop(running)
            active[ended] -= 1
    return begun


@settings(max_examples=15, deadline=None)
@given(
    weights=st.fixed_dictionaries({key: st.sampled_from((0.5, 1.0, 2.0, 5.0)) for key in KEYS[:4]}),
    cards=st.sampled_from((1, 3, 4, 12)),
    seed=st.integers(0, 1000),
    absent=st.sampled_from((None, *KEYS[:4])),
)
def test_in_the_long_run_shares_are_the_weights_however_few_the_cards(
    weights: dict[str, float], cards: int, seed: int, absent: str | None
) -> None:
    begun = _served(weights, cards, 2000, seed, absent)
    whole = sum(weights.values())
    for key, weight in weights.items():
        assert begun[key] / 1000 == pytest.approx(weight / whole, abs=0.02)


def test_what_was_had_alone_is_forgiven_and_nothing_is_saved_up() -> None:
    weights = {"a": 1.0, "b": 1.0}
    # Whose clock is far behind or ahead, because it was away or alone, is put beside the other.
    assert shares({}, dict.fromkeys("ab", 9), weights, 9, {"a": 0.0, "b": 900.0}) == {"a": 6, "b": 3}
    assert shares({"b": 2}, dict.fromkeys("ab", 9), weights, 8, {"a": 0.0, "b": 900.0}) == {"a": 5, "b": 3}
