"""Shares of the cards over time: nothing lost, nobody's share taken, and the same told forwards and backwards."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.pace import Claimant, Pace
from common.windows import Windows

NOW = datetime(2026, 10, 24, 12, tzinfo=UTC)
NIGHTS = Windows.parse("22:00-06:00 Europe/Madrid")
MORNINGS = Windows.parse("04:00-09:00 Europe/Madrid")
HORIZON = timedelta(days=3650)

claimants = st.builds(
    Claimant, st.sampled_from("abc"), st.just(1.0), st.sampled_from((0.5, 1.0, 3.0)), st.floats(0, 200_000),
    st.sampled_from((None, NIGHTS, MORNINGS)), st.booleans(),
)  # fmt: skip
owns = st.builds(
    Claimant, st.sampled_from("abc"), st.just(1.0), st.sampled_from((0.5, 1.0, 3.0)), st.just(0.0),
    st.sampled_from((None, NIGHTS)), st.booleans(),
)  # fmt: skip


def own(windows: Windows | None = None, *, key: str = "me", key_weight: float = 1.0, weight: float = 1.0) -> Claimant:
    return Claimant(key, key_weight, weight, 0.0, windows)


def hours(pace: Pace, seconds: float) -> float:
    end = pace.after(seconds, HORIZON)
    assert end is not None
    return (end - NOW).total_seconds() / 3600


def test_alone_it_has_all_the_cards() -> None:
    assert hours(Pace(NOW, own()), 3600) == 1
    assert hours(Pace(NOW, own(NIGHTS)), 3600) == 9, "the window opens at 20:00 UTC"
    # The night in which the clock is put back has nine hours.
    assert hours(Pace(NOW, own(NIGHTS)), 9 * 3600) == 17


def test_another_key_has_its_share_until_it_is_done() -> None:
    other = Claimant("other", 1.0, 1.0, 3600.0)
    assert hours(Pace(NOW, own(), [other]), 1800) == 1
    assert hours(Pace(NOW, own(), [other]), 3600 + 3600) == pytest.approx(3)
    heavy = Claimant("other", 3.0, 1.0, 1e6)
    assert hours(Pace(NOW, own(), [heavy]), 900) == pytest.approx(1)


def test_batches_of_one_key_share_what_the_key_has() -> None:
    sibling, other = Claimant("me", 1.0, 3.0, 1e6), Claimant("other", 1.0, 1.0, 1e6)
    assert hours(Pace(NOW, own(), [sibling, other]), 3600 / 8) == pytest.approx(1)


def test_what_is_urgent_goes_first() -> None:
    urgent = Claimant("other", 0.1, 1.0, 1800.0, urgent=True)
    assert hours(Pace(NOW, own(), [urgent]), 1800) == pytest.approx(1)


def test_a_closed_window_leaves_its_share_to_the_others() -> None:
    nightly = Claimant("other", 1.0, 1.0, 1e6, NIGHTS)
    # Eight hours of the afternoon alone, then half of the night.
    assert hours(Pace(NOW, own(), [nightly]), 9 * 3600) == pytest.approx(10)
    assert Pace(NOW, own(), [nightly]).seconds(NOW + timedelta(hours=10)) == pytest.approx(9 * 3600)


@settings(max_examples=60)
@given(own=owns, rivals=st.lists(claimants, max_size=4), seconds=st.floats(1, 100_000))
def test_what_it_will_have_had_by_then_is_what_was_asked_for(
    own: Claimant, rivals: list[Claimant], seconds: float
) -> None:
    pace = Pace(NOW, own, rivals)
    end = pace.after(seconds, HORIZON)
    assert end is not None
    assert pace.seconds(end) == pytest.approx(seconds, rel=1e-4, abs=0.01)


@settings(max_examples=60)
@given(own=owns, rivals=st.lists(claimants, max_size=4), rival=claimants, seconds=st.floats(1, 100_000))
def test_one_more_rival_never_hurries_it(
    own: Claimant, rivals: list[Claimant], rival: Claimant, seconds: float
) -> None:
    before, after = (Pace(NOW, own, some).after(seconds, HORIZON) for some in (rivals, [*rivals, rival]))
    assert before is not None
    assert after is not None
    assert after >= before - timedelta(milliseconds=10)


@settings(max_examples=60)
@given(rivals=st.lists(claimants, max_size=4))
def test_nothing_of_the_cards_is_lost(rivals: list[Claimant]) -> None:
    """Among those that are always open, what goes by is what the others needed and what one had oneself."""
    always = [replace(one, windows=None) for one in rivals]
    needed = sum(one.seconds for one in always)
    # None has less than a hundredth of the cards, so by then all are done.
    late = NOW + timedelta(seconds=100 * needed + 1)
    assert Pace(NOW, own(), always).seconds(late) == pytest.approx(99 * needed + 1, rel=1e-6, abs=1e-3)
