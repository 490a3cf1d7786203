from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.media.overlap import Behind, ahead


class Broken(Exception):
    pass


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


@settings(max_examples=30)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_gives_what_the_source_gives_in_order(items: list[int], depth: int) -> None:
    assert list(ahead(items, depth)) == items
    assert not threads("ahead")


def test_runs_ahead_as_far_as_allowed_and_no_further() -> None:
    made: list[int] = []
    three = threading.Event()

    def source() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            if i == 3:
                three.set()
            yield i

    items = ahead(source(), depth=3)
    assert next(items) == 0
    assert not three.wait(0.2)  # 0 is still in use: 1 and 2 are ready
    assert next(items) == 1
    assert three.wait(5)
    assert made == [0, 1, 2, 3]
    items.close()


def test_what_the_source_raises_comes_after_its_items() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise Broken("in the thread")

    items = ahead(source(), 4)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(Broken, match="in the thread"):
        next(items)
    assert not threads("ahead")


def test_stopping_early_closes_the_source_and_ends_the_thread() -> None:
    closed_in: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed_in.append(threading.current_thread().name)

    items = ahead(source(), 2)
    next(items)
    items.close()
    assert closed_in == ["ahead"]
    assert not threads("ahead")

    for item in ahead(source(), 2):
        if item == 5:
            break
    assert not threads("ahead")


def test_never_started_means_no_thread() -> None:
    ahead(iter([1]), 1).close()
    assert not threads("ahead")
    with pytest.raises(ValueError, match="depth"):
        ahead([], 0)


def test_behind_runs_everything_in_order() -> None:
    done: list[int] = []
    with Behind(depth=2) as behind:
        for i in range(50):
            behind.submit(done.append, i)
    assert done == list(range(50))
    assert not threads("behind")


def test_submit_waits_while_the_queue_is_full() -> None:
    gate, fourth = threading.Event(), threading.Event()
    behind = Behind(depth=2)

    def fill() -> None:
        for _ in range(4):  # one runs, two wait, the fourth must wait outside
            behind.submit(gate.wait)
        fourth.set()

    filler = threading.Thread(target=fill)
    filler.start()
    assert not fourth.wait(0.2)
    gate.set()
    assert fourth.wait(5)
    filler.join()
    behind.close()


def test_the_first_failure_stops_the_rest_and_is_told() -> None:
    done: list[int] = []

    def fail() -> None:
        raise Broken("first")

    behind = Behind(depth=4)
    behind.submit(done.append, 1)
    behind.submit(fail)
    with pytest.raises(Broken, match="first"):
        behind.drain()
    for _ in range(2):
        with pytest.raises(Broken, match="first"):
            behind.submit(done.append, 2)
    behind.close()
    assert done == [1]
    assert not threads("behind")


def test_close_tells_a_failure_nobody_has_seen() -> None:
    def fail() -> None:
        raise Broken("last")

    with pytest.raises(Broken, match="last"), Behind() as behind:
        behind.submit(fail)
    assert not threads("behind")
    with pytest.raises(RuntimeError, match="after close"):
        behind.submit(fail)


def test_leaving_by_an_exception_drops_what_waits() -> None:
    gate, started, done = threading.Event(), threading.Event(), []

    def hold() -> None:
        started.set()
        gate.wait()

    with pytest.raises(KeyError), Behind(depth=4) as behind:
        behind.submit(hold)
        behind.submit(done.append, 1)
        started.wait()
        threading.Timer(0.05, gate.set).start()
        raise KeyError
    assert done == []
    assert not threads("behind")


def test_drain_waits_until_all_is_done() -> None:
    done: list[int] = []
    with Behind(depth=8) as behind:
        for i in range(8):
            behind.submit(done.append, i)
        behind.drain()
        assert done == list(range(8))
