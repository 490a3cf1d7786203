"""Forecasts: against work that is really played through, and the laws that hold whatever the numbers."""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.forecast import HORIZON, Estimate, Forecast, Missing, Risk, Speed, Why, Work, forecast
from common.windows import Windows

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
NIGHTS = Windows.parse("22:00-06:00 Europe/Madrid")
KEY = ("engine", "gpu")

ratios = st.floats(0.01, 2)
speeds = st.builds(
    lambda ratio, jobs, mean, spread: Speed(ratio, jobs, mean, spread * ratio * mean),
    ratios, st.integers(0, 500), st.floats(60, 10_000), st.floats(0, 1),
)  # fmt: skip
lengths = st.lists(st.floats(1, 20_000), min_size=1, max_size=30)
cards = st.one_of(st.floats(0.1, 16), st.integers(1, 16))
windows = st.sampled_from((None, NIGHTS, Windows.parse("sat 10:00-12:00 UTC; mon-fri 23:30-00:30 America/Santiago")))


def of(lengths: list[float], **more: Any) -> Work:
    return Work(*KEY, jobs=len(lengths), audio=sum(lengths), longest=max(lengths, default=0.0), **more)


def ask(work: Work, speed: Speed, cards: float, windows: Windows | None = None) -> Forecast:
    return forecast(NOW, [work], {KEY: speed}, {"gpu": cards}, windows)


def ends(found: Forecast) -> list[float]:
    """Seconds from now to the earliest, the likely and the latest end; what is beyond the horizon is at its end."""
    far = NOW + HORIZON * 2
    return [((one or far) - NOW).total_seconds() for one in (found.earliest, found.likely, found.latest)]


def play(jobs: list[float], cards: int) -> float:
    """When the last of the jobs ends, each begun as soon as a card is free."""
    free = [0.0] * cards
    for job in jobs:
        heapq.heapreplace(free, free[0] + job)
    return max(free)


# --- Laws --------------------------------------------------------------------------------------------------------


@given(lengths=lengths, speed=speeds, cards=cards, windows=windows)
def test_the_likely_end_lies_in_the_interval_and_inside_a_window(
    lengths: list[float], speed: Speed, cards: float, windows: Windows | None
) -> None:
    found = ask(of(lengths), speed, cards, windows)
    early, likely, late = ends(found)
    assert 0 < early <= likely <= late
    assert found.card_seconds.low <= found.card_seconds.likely <= found.card_seconds.high
    if windows is not None:
        for end in filter(None, (found.earliest, found.likely, found.latest)):
            assert windows.is_open(end - timedelta(microseconds=1))


@given(lengths=lengths, more=st.floats(1, 20_000), speed=speeds, cards=cards, windows=windows)
def test_more_work_is_never_done_sooner(
    lengths: list[float], more: float, speed: Speed, cards: float, windows: Windows | None
) -> None:
    before, after = ask(of(lengths), speed, cards, windows), ask(of([*lengths, more]), speed, cards, windows)
    for i in (1, 2):
        assert ends(after)[i] >= ends(before)[i] - 1e-3
    assert after.card_seconds.likely > before.card_seconds.likely
    if before.by_close and after.by_close:
        assert after.by_close.likely <= before.by_close.likely + 1e-9


@given(lengths=lengths, speed=speeds, cards=cards, more=st.floats(0.1, 8), windows=windows)
def test_more_cards_are_never_slower(
    lengths: list[float], speed: Speed, cards: float, more: float, windows: Windows | None
) -> None:
    few, many = ask(of(lengths), speed, cards, windows), ask(of(lengths), speed, cards + more, windows)
    assert all(one <= other + 1e-3 for one, other in zip(ends(many), ends(few), strict=True))
    assert few.card_seconds == many.card_seconds


@given(lengths=lengths, speed=speeds, factor=st.floats(1, 5), cards=cards)
def test_a_slower_engine_is_never_done_sooner(lengths: list[float], speed: Speed, factor: float, cards: float) -> None:
    slow = Speed(speed.ratio * factor, speed.jobs, speed.mean, speed.deviation * factor)
    fast = ends(ask(of(lengths), speed, cards))
    assert ends(ask(of(lengths), slow, cards)) == pytest.approx([one * factor for one in fast], abs=1e-4)


@given(lengths=lengths, ratio=ratios, cards=st.integers(1, 8), seed=st.integers(0, 99))
def test_with_a_speed_that_never_strays_the_real_end_lies_in_the_interval(
    lengths: list[float], ratio: float, cards: int, seed: int
) -> None:
    """In whatever order the jobs come: Graham's bounds."""
    random.Random(seed).shuffle(lengths)
    early, _, late = ends(ask(of(lengths), Speed(ratio, 100, 1000, 0.0), cards))
    real = play([ratio * length for length in lengths], cards)
    assert early - 1e-3 <= real <= late + 1e-3


@given(lengths=lengths, speed=speeds, cards=cards)
def test_work_in_parts_is_the_work_together(lengths: list[float], speed: Speed, cards: float) -> None:
    other = ("other", "gpu")
    parts = [of(lengths), Work(*other, jobs=len(lengths), audio=sum(lengths), longest=max(lengths))]
    apart = forecast(NOW, parts, {KEY: speed, other: speed}, {"gpu": cards})
    together = ask(of(lengths * 2), speed, cards)
    assert apart.card_seconds.likely == pytest.approx(together.card_seconds.likely)
    assert ends(apart)[1] == pytest.approx(ends(together)[1])


@given(first=lengths, second=lengths, speed=speeds)
def test_lanes_work_side_by_side(first: list[float], second: list[float], speed: Speed) -> None:
    on_cpu = Work("engine", "cpu", len(second), sum(second), max(second))
    both = forecast(NOW, [of(first), on_cpu], {KEY: speed, ("engine", "cpu"): speed}, {"gpu": 2, "cpu": 1})
    alone = ask(of(first), speed, 2), ask(of(second), speed, 1)
    assert ends(both) == pytest.approx([max(a, b) for a, b in zip(*map(ends, alone), strict=True)])
    assert both.card_seconds.likely == pytest.approx(sum(one.card_seconds.likely for one in alone))


# --- Against work that is played through -------------------------------------------------------------------------


def test_a_batch_of_five_thousand_is_foretold_within_ten_percent() -> None:
    """Measured on 40 jobs whose time strays by a fifth; played on four cards, night after night."""
    rng = random.Random(7)

    def episode() -> float:
        return rng.lognormvariate(8.0, 0.6)

    def took(length: float) -> float:
        return 0.05 * length * rng.lognormvariate(0, 0.2) + 8.0

    speed = Speed.measured((length, took(length)) for length in [episode() for _ in range(40)])
    assert speed is not None
    batch = [episode() for _ in range(5000)]
    found = ask(of(batch), speed, 4, NIGHTS)
    real = NIGHTS.after(NOW, play([took(length) for length in batch], 4))
    assert real is not None and found.likely is not None
    open_real, open_likely = NIGHTS.open_seconds(NOW, real), NIGHTS.open_seconds(NOW, found.likely)
    assert abs(open_likely - open_real) < 0.1 * open_real
    assert found.earliest is not None and found.latest is not None and found.earliest < real < found.latest
    assert found.nights == len(list(NIGHTS.intervals(NOW, found.likely)))


@pytest.mark.parametrize("measured", [2, 5, 30])
@pytest.mark.parametrize("jobs", [1, 20, 400])
def test_the_interval_holds_as_often_as_it_says(measured: int, jobs: int) -> None:
    rng = random.Random(measured * 1000 + jobs)

    def took(length: float) -> float:
        return max(1.0, rng.gauss(0.1 * length, 60.0))

    held = 0
    for _ in range(200):
        lengths = [rng.uniform(1800, 5400) for _ in range(measured + jobs)]
        speed = Speed.measured((length, took(length)) for length in lengths[:measured])
        assert speed is not None
        need = ask(of(lengths[measured:]), speed, 1).card_seconds
        held += need.low <= sum(took(length) for length in lengths[measured:]) <= need.high
    assert held >= 0.8 * 200


# --- Speeds ------------------------------------------------------------------------------------------------------


def test_a_speed_is_the_ratio_of_what_was_measured() -> None:
    speed = Speed.measured([(1000, 100), (3000, 300), (2000, 200)])
    assert speed is not None
    assert (speed.ratio, speed.jobs, speed.mean) == (pytest.approx(0.1), 3, 2000)
    assert speed.deviation == pytest.approx(0, abs=1e-3)
    strays = Speed.measured([(1000, 90), (1000, 110)])
    assert strays is not None and strays.deviation == pytest.approx(200**0.5)


def test_without_measurement_there_is_no_speed_and_with_one_little_trust() -> None:
    assert Speed.measured([]) is None
    assert Speed.measured([(0, 5)]) is None
    once, often = Speed.measured([(1000, 100)]), Speed.measured([(1000, 99), (1000, 101)] * 50)
    assert once is not None and often is not None
    wide, narrow = (ask(of([1000.0] * 100), speed, 1).card_seconds for speed in (once, often))
    assert wide.likely == pytest.approx(narrow.likely)
    assert wide.high / wide.low > 4 and narrow.high / narrow.low < 1.1
    assert ask(of([1000.0]), Speed.assumed(0.1), 1).card_seconds.likely == pytest.approx(100)


# --- Lengths nobody knows ----------------------------------------------------------------------------------------


def test_unknown_lengths_count_as_typical_ones_and_widen_the_interval() -> None:
    speed = Speed(0.1, 100, 1000, 5)
    known, guessed = of([1000.0] * 20), of([1000.0] * 10, unknown=10)
    told = of([1000.0] * 10, unknown=10, typical=2000)
    a, b, c = (ask(work, speed, 1).card_seconds for work in (known, guessed, told))
    assert a.likely == b.likely == pytest.approx(2000) and c.likely == pytest.approx(3000)
    assert b.high > a.high and b.low < a.low


# --- When there is none ------------------------------------------------------------------------------------------

SPEED = Speed(0.1, 100, 1000, 5)


def test_what_is_missing_is_named() -> None:
    work = [
        of([1000.0]),
        Work("unmeasured", "gpu", 1, 1000, 1000),
        Work("engine", "cpu", 1, 1000, 1000),
        Work("blind", "gpu", 0, 0, 0, unknown=3),
        Work("idle", "gpu", 0, 0, 0),
    ]
    known = {KEY: SPEED, ("engine", "cpu"): SPEED, ("blind", "gpu"): SPEED}
    found = forecast(NOW, work, known, {"gpu": 1}, NIGHTS)
    assert (found.earliest, found.likely, found.latest, found.by_close, found.nights) == (None,) * 5
    assert set(found.missing) == {
        Missing(Why.NOT_MEASURED, "unmeasured", "gpu"),
        Missing(Why.NO_CARDS, "engine", "cpu"),
        Missing(Why.LENGTHS_UNKNOWN, "blind", "gpu"),
    }
    # What it takes can be told where only the cards are away.
    assert found.card_seconds.likely == pytest.approx(200)
    assert found.risk(NOW + timedelta(days=1)) is Risk.UNKNOWN


def test_more_than_ten_years_is_no_forecast() -> None:
    for windows in (None, NIGHTS):
        found = ask(of([1e9] * 100), SPEED, 1, windows)
        assert found.likely is None and found.missing == (Missing(Why.BEYOND_HORIZON, *KEY),)


def test_nothing_left_is_done_now() -> None:
    for work in ([], [Work(*KEY, 0, 0, 0)]):
        found = forecast(NOW, work, {}, {}, NIGHTS)
        assert found.earliest == found.likely == found.latest == NOW
        assert found.by_close == Estimate(1, 1, 1) and found.nights == 0 and not found.missing


# --- The window's end, and deadlines -----------------------------------------------------------------------------


def test_how_much_is_done_by_the_window_s_end() -> None:
    """Sixteen hours of a card, in nights of eight, on one card: half of it in the first."""
    work = of([1000.0] * 576)
    found = ask(work, Speed(0.1, 1000, 1000, 0), 1, NIGHTS)
    assert found.closes == datetime(2026, 7, 2, 4, tzinfo=UTC)
    assert found.by_close == pytest.approx((0.5, 0.5, 0.5))
    assert found.likely == datetime(2026, 7, 3, 4, tzinfo=UTC) and found.nights == 2
    assert ask(work, Speed(0.1, 1000, 1000, 0), 1).closes is None
    assert ask(work, Speed(0.1, 1000, 1000, 0), 2.0, NIGHTS).by_close == pytest.approx((1, 1, 1), abs=2e-3)


@given(lengths=lengths, speed=speeds, cards=cards, windows=windows, hours=st.floats(0, 2000))
def test_the_risk_of_a_deadline_only_falls_as_it_moves_away(
    lengths: list[float], speed: Speed, cards: float, windows: Windows | None, hours: float
) -> None:
    found = ask(of(lengths), speed, cards, windows)
    assume(found.likely is not None)
    order = [Risk.LATE, Risk.AT_RISK, Risk.ON_TIME]
    deadline = NOW + timedelta(hours=hours)
    now, later = found.risk(deadline), found.risk(deadline + timedelta(hours=5))
    assert order.index(later) >= order.index(now)
    assert found.likely is not None
    assert found.risk(found.likely - timedelta(seconds=1)) is Risk.LATE
    assert found.risk(found.likely) is not Risk.LATE
    if found.latest is not None:
        assert found.risk(found.latest) is Risk.ON_TIME
