"""Work beside the computing: reading ahead of it and writing behind it, each in one thread with a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterates over `items` in a thread, at most `depth` items ahead of the consumer.

    The thread starts with the first `next`. What the source raises is raised here, in its place. When the consumer
    stops early (closes the generator or drops it), the source iterator is closed and the thread has ended before
    `close` returns, which waits for the item being made.
    """
    if depth < 1:
        raise ValueError("depth must be at least 1")
    return _ahead(items, depth)


def _ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stop = threading.Event()

    def run() -> None:
        last: object = _END
        iterator = iter(items)
        try:
            # A place is taken before the item is made: at most `depth` of them are alive here.
            while _take(free, stop):
                ready.put(next(iterator))
        except StopIteration:
            pass
        except BaseException as error:
            last = _Failed(error)
        try:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            last = _Failed(error)
        ready.put(last)

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item
            # The consumer is done with it when it asks for the next.
            del item
            free.release()
    finally:
        stop.set()
        free.release()
        thread.join()


def _take(free: threading.Semaphore, stop: threading.Event) -> bool:
    free.acquire()
    return not stop.is_set()


class Behind:
    """Runs what is submitted one after another in one thread; a context manager.

    `submit` blocks while `depth` calls wait. After the first failure nothing further runs: every `submit` and `drain`
    raises that exception, and `close` does where nobody has seen it yet. Leaving the context by an exception drops what
    still waits.
    """

    def __init__(self, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError("depth must be at least 1")
        self._calls: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._seen = False
        self._failed = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)
        self._thread.start()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def submit(self, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Queues call(*args, **kwargs). Raises what an earlier call raised."""
        if self._closed:
            raise RuntimeError("submit after close")
        self._raise()
        # The thread keeps emptying the queue after a failure, so this never waits for good.
        self._calls.put((call, args, kwargs))

    def drain(self) -> None:
        """Waits until everything submitted has run. Raises what a call raised."""
        self._calls.join()
        self._raise()

    def close(self) -> None:
        """Waits for what was submitted and ends the thread. Raises what a call raised and nobody has seen."""
        self._finish()
        if not self._seen:
            self._raise()

    def abandon(self) -> None:
        """Drops what has not begun, waits for what has, and ends the thread; raises nothing."""
        self._failed.set()
        self._finish()

    def _finish(self) -> None:
        if not self._closed:
            self._closed = True
            self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            if not self._failed.is_set():
                call, args, kwargs = work
                try:
                    call(*args, **kwargs)
                except BaseException as error:
                    self._error = error
                    self._failed.set()
                # Otherwise the last block would live until the next one comes.
                del call, args, kwargs
            del work
            self._calls.task_done()
        self._calls.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            self._seen = True
            raise self._error
