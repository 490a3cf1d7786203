"""A worker and a scheduler of the test's house, in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.house import House
from worker.compose import open_runner
from worker.runner import Runner
from worker.scheduler import Scheduler


@pytest.fixture
def runner(house: House) -> Iterator[Runner]:
    """Started; it does a job with every `run`."""
    yield from _started(house)


@pytest.fixture
def sqlite_runner(sqlite_house: House) -> Iterator[Runner]:
    yield from _started(sqlite_house)


@pytest.fixture
def scheduler(house: House) -> Scheduler:
    return Scheduler(house.settings, house.database, house.store, house.ringer)


def _started(house: House) -> Iterator[Runner]:
    made = open_runner(house.settings)
    made.start()
    yield made
    made.close()
