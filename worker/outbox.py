"""How what lies in an outbox is taken out: some at once, none waiting for another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 1.0


def serve(
    name: str,
    at_once: int,
    take: Callable[[int, Collection[T]], Iterable[T]],
    do: Callable[[T], None],
    over: threading.Event,
    meanwhile: Callable[[Collection[T]], None] = lambda _: None,
) -> None:
    """Does what is due until `over`; then waits for what is under way.

    take: gives up to so many to do now, told what is under way.  do: must raise nothing.  meanwhile: is called about
    once a second with what is under way.
    """
    under_way: dict[Future[None], T] = {}
    with ThreadPoolExecutor(at_once, thread_name_prefix=name) as pool:
        while under_way or not over.is_set():
            places = at_once - len(under_way)
            if places and not over.is_set():
                for one in take(places, under_way.values()):
                    under_way[pool.submit(do, one)] = one
            if under_way:
                # Whichever ends makes room for the next.
                for ended in wait(under_way, POLL_SECONDS, FIRST_COMPLETED).done:
                    del under_way[ended]
                meanwhile(under_way.values())
            else:
                over.wait(POLL_SECONDS)
