import time
from itertools import pairwise

import pytest

from common.outbound.deadline import SLICE_SECONDS, Deadline, DeadlinePassed


class Clock:
    """Time that passes only in waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


class Stop(Exception):
    pass


def test_a_wait_ends_with_the_deadline_and_asks_the_caller_all_along() -> None:
    clock = Clock()
    asked: list[float] = []
    deadline = Deadline(10, lambda: asked.append(clock.now), clock)
    with pytest.raises(DeadlinePassed):
        deadline.wait(clock.pause)
    assert clock.now == 110.0
    assert asked[0] == 100.0
    gaps = [later - sooner for sooner, later in pairwise(asked)]
    assert gaps and max(gaps) <= 1.0


def test_a_wait_ends_with_its_own_limit() -> None:
    clock = Clock()
    assert not Deadline(10, clock=clock).wait(clock.pause, 1.3)
    assert clock.now == pytest.approx(101.3)


def test_a_wait_ends_when_it_happened() -> None:
    clock = Clock()
    assert Deadline(10, clock=clock).wait(lambda span: clock.pause(span) or clock.now >= 103, 5)
    assert clock.now == pytest.approx(103)


def test_no_single_wait_outlasts_the_deadline_or_a_slice() -> None:
    clock = Clock()
    spans: list[float] = []

    def pause(span: float) -> bool:
        spans.append(span)
        return clock.pause(span)

    with pytest.raises(DeadlinePassed):
        Deadline(1.2, clock=clock).wait(pause)
    assert spans == pytest.approx([SLICE_SECONDS, SLICE_SECONDS, 0.2])


def test_what_the_check_raises_ends_the_wait() -> None:
    clock = Clock()

    def check() -> None:
        if clock.now > 102:
            raise Stop

    with pytest.raises(Stop):
        Deadline(10, check, clock).wait(clock.pause)
    assert clock.now <= 103


def test_a_caller_that_never_waits_is_ended_too() -> None:
    clock = Clock()
    deadline = Deadline(1, clock=clock)
    assert deadline.tick() == 1
    clock.now += 1
    with pytest.raises(DeadlinePassed):
        deadline.tick()


def test_sleep_sleeps() -> None:
    start = time.monotonic()
    Deadline(10).sleep(0.05)
    assert time.monotonic() - start >= 0.05
