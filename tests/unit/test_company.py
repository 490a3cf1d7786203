"""Jobs that compute together: what they tell, what they share, and that the end of one is no other's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.house import wait_for
from worker.company import Company
from worker.engine import Demand, Event, Interrupted, Note, alone, computed

Steps = Generator[Event | Demand, None, None]


class Card:
    """Where rows are computed, so many at once: a batch is (job, row) of each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.batches: list[list[tuple[int, int]]] = []


class Rows(Demand):
    def __init__(self, card: Card, job: int, rows: int, check: Callable[[], None] = lambda: None) -> None:
        self.card, self.job, self.rows, self.check = card, job, rows, check
        self.done = 0

    @property
    def over(self) -> bool:
        return self.done == self.rows

    def compute(self, others: Sequence[Demand]) -> None:
        wanted = [self, *(other for other in others if isinstance(other, Rows))]
        batch = [(one, row) for one in wanted for row in range(one.done, one.rows)][: self.card.size]
        for one in wanted:
            try:
                one.check()
            except Exception as error:
                raise Interrupted(one, error) from error
        self.card.batches.append([(one.job, row) for one, row in batch])
        for one, _ in batch:
            one.done += 1


def steps(card: Card, job: int, script: Sequence[int], check: Callable[[], None] = lambda: None) -> Steps:
    """Of each number of rows: first a note, then the rows."""
    for index, rows in enumerate(script):
        yield Note("info", str(job), str(index))
        wanted = Rows(card, job, rows, check)
        while not wanted.over:
            yield wanted


def told(company: Company, made: Steps) -> list[str]:
    """What an attempt hears, until it is over."""
    heard = []
    try:
        with closing(company.events(made)) as events:
            for event in events:
                assert isinstance(event, Note)
                heard.append(event.message)
    finally:
        company.leave()
    return heard


def together(*made: Steps) -> list[list[str] | BaseException]:
    """What each job heard, or what ended it."""
    company = Company(len(made))
    with ThreadPoolExecutor(len(made)) as pool:
        heard = [pool.submit(told, company, one) for one in made]
        company.compute()
    return [one.exception() or one.result() for one in heard]


@given(
    scripts=st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=5), size=st.integers(1, 8)
)  # fmt: skip
def test_each_hears_its_own_and_each_row_is_computed_once(scripts: list[list[int]], size: int) -> None:
    card = Card(size)
    heard = together(*(steps(card, job, script) for job, script in enumerate(scripts)))
    assert heard == [[str(index) for index in range(len(script))] for script in scripts]
    for job, script in enumerate(scripts):
        own = [row for batch in card.batches for whose, row in batch if whose == job]
        assert own == [row for rows in script for row in range(rows)]
    # Batches are shared: no more of them than the jobs would take one after another.
    assert len(card.batches) <= sum(-(-rows // size) for script in scripts for rows in script)


def test_rows_of_several_jobs_share_a_batch() -> None:
    card = Card(6)
    company = Company(3)
    with ThreadPoolExecutor(3) as pool:
        heard = [pool.submit(told, company, steps(card, job, [2])) for job in range(3)]
        wait_for(lambda: len(company._wanted) == 3)
        company.compute()
    assert [one.result() for one in heard] == [["0"]] * 3
    assert [sorted(batch) for batch in card.batches] == [[(job, row) for job in range(3) for row in range(2)]]


@given(failing=st.integers(0, 2), at=st.integers(1, 2), size=st.integers(1, 6))
def test_one_that_has_to_end_ends_alone(failing: int, at: int, size: int) -> None:
    card = Card(size)
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == at:
            raise TimeoutError("cancelled")

    made = [steps(card, job, [3, 2], stop if job == failing else lambda: None) for job in range(3)]
    heard = together(*made)
    assert isinstance(heard[failing], TimeoutError)
    assert [one for job, one in enumerate(heard) if job != failing] == [["0", "1"]] * 2
    for job in {0, 1, 2} - {failing}:
        assert [row for batch in card.batches for whose, row in batch if whose == job] == [0, 1, 2, 0, 1]


def test_what_a_job_raises_is_raised_in_its_own_thread() -> None:
    card = Card(4)

    def broken() -> Steps:
        yield Note("info", "", "first")
        raise ZeroDivisionError("its own")

    heard = together(steps(card, 0, [2, 2]), broken())
    assert heard[0] == ["0", "1"] and isinstance(heard[1], ZeroDivisionError)


def test_a_batch_that_fails_ends_the_job_it_was_made_for() -> None:
    """The others are computed without it, and would meet the error by themselves if it were theirs."""
    card = Card(4)

    class Failing(Demand):
        over = False

        def compute(self, others: Sequence[Demand]) -> None:
            raise MemoryError("not even one row")

    def failing() -> Steps:
        yield Failing()

    heard = together(steps(card, 0, [2, 2]), failing(), steps(card, 2, [1]))
    assert heard[0] == ["0", "1"] and heard[2] == ["0"] and isinstance(heard[1], MemoryError)


def test_a_job_that_stops_early_is_closed_and_waited_for() -> None:
    card = Card(4)
    closed = threading.Event()

    def endless() -> Steps:
        try:
            while True:
                yield Note("info", "", "more")
                wanted = Rows(card, 0, 1)
                while not wanted.over:
                    yield wanted
        finally:
            time.sleep(0.05)
            closed.set()

    company = Company(2)

    def leaving() -> bool:
        with closing(company.events(endless())) as events:
            next(events)
        company.leave()
        return closed.is_set()

    with ThreadPoolExecutor(2) as pool:
        left, heard = pool.submit(leaving), pool.submit(told, company, steps(card, 1, [3]))
        company.compute()
    assert left.result() and heard.result() == ["0"]


def test_one_that_comes_late_is_taken_in_and_one_that_never_comes_is_not_waited_for() -> None:
    card = Card(2)
    company = Company(3)

    def late() -> list[str]:
        time.sleep(0.2)
        return told(company, steps(card, 1, [1]))

    with ThreadPoolExecutor(3) as pool:
        heard = [pool.submit(told, company, steps(card, 0, [1])), pool.submit(late)]
        pool.submit(company.leave)
        company.compute()
    assert [one.result() for one in heard] == [["0"], ["0"]]


def test_what_shares_nothing_is_computed_by_itself_and_raises_in_its_own_thread() -> None:
    card = Card(4)
    where: list[str] = []

    def noted() -> int:
        where.append(threading.current_thread().name)
        return 7

    def broken() -> int:
        raise LookupError("its own")

    def once(call: Callable[[], int]) -> Steps:
        found = yield from computed(call)
        yield Note("info", "", str(found))

    heard = together(once(noted), once(broken), steps(card, 2, [3]))
    assert heard[0] == ["7"] and isinstance(heard[1], LookupError) and heard[2] == ["0"]
    assert where == [threading.current_thread().name], "all computing is done in one thread"
    with pytest.raises(LookupError):
        list(alone(once(broken)))


def test_a_workers_time_is_shared_by_those_who_are_there() -> None:
    company = Company(2)
    began = time.monotonic()
    time.sleep(0.2)
    first = company.seconds
    company.leave()
    time.sleep(0.2)
    second = company.seconds
    whole = time.monotonic() - began
    assert 0.1 <= first < second
    assert first + second == pytest.approx(whole, abs=0.05)


def test_alone_a_job_computes_what_it_wants_by_itself() -> None:
    card = Card(2)
    assert [event.message for event in alone(steps(card, 0, [3, 1])) if isinstance(event, Note)] == ["0", "1"]
    assert [len(batch) for batch in card.batches] == [2, 1, 1]

    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(alone(steps(card, 0, [3], stop)))


def test_no_job_waits_for_what_nobody_computes() -> None:
    class Ending(Demand):
        over = False

        def compute(self, others: Sequence[Demand]) -> None:
            raise SystemExit("the worker is told to end")

    def ending() -> Steps:
        yield Ending()

    company = Company(2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(told, company, ending())
        with pytest.raises(SystemExit):
            company.compute()
        second = pool.submit(told, company, steps(Card(1), 1, [1]))
        for attempt in (first, second):
            assert isinstance(attempt.exception(10), RuntimeError)
