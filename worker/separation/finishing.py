"""What happens to blocks behind the computing: they are saved, read back and joined into stems, on threads.

Saving holds samples, so at most one block waits for it. Assembling reads files and holds none, so it may fall behind
without costing memory; each stem has a thread of its own, since encoding and measuring many stems would otherwise take
longer than a card needs to compute them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.engine import Artifact, Blocks
from worker.separation.assemble import StemTrack
from worker.separation.checkpoint import BlockFiles
from worker.separation.plan import Window
from worker.separation.separator import Stems

_SAVING_AT_ONCE = 4


@dataclass(frozen=True)
class _Saving:
    index: int
    files: Mapping[str, Future[Path]]


class Finishing:
    """Takes blocks in order, computed or finished earlier; a context manager that leaves no thread.

    What goes wrong on a thread is raised by the next call of `saved` or `wait`.
    """

    def __init__(self, files: BlockFiles, blocks: Blocks, tracks: Mapping[str, StemTrack]) -> None:
        self._files = files
        self._blocks = blocks
        self._tracks = tracks
        self._stop = threading.Event()
        self._savers = ThreadPoolExecutor(min(_SAVING_AT_ONCE, len(tracks)), "save")
        self._fetcher = ThreadPoolExecutor(1, "fetch")
        self._assemblers = {name: ThreadPoolExecutor(1, f"assemble-{name}") for name in tracks}
        self._saving: deque[_Saving] = deque()
        self._joining: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        executors = [self._fetcher, self._savers, *self._assemblers.values()]
        for executor in executors:
            executor.shutdown(wait=False, cancel_futures=True)
        for executor in executors:
            executor.shutdown(wait=True)

    def has_room(self, seconds: float) -> bool:
        """Whether no block waits to be saved, having waited for that at most so long."""
        return not self._saving or not wait(self._saving[-1].files.values(), seconds).not_done

    def add_computed(self, window: Window, stems: Stems) -> None:
        """Saves a block, [channels, window.give_stop - window.give_start] a stem, and joins it to what came before."""
        files = {name: self._savers.submit(self._files.write, window.index, name, stems[name]) for name in self._tracks}
        self._saving.append(_Saving(window.index, files))
        for name, file in files.items():
            self._joining.append(self._assemblers[name].submit(self._join_saved, name, window, file))

    def add_finished(self, window: Window) -> None:
        """Fetches a block that an earlier attempt saved, and joins it."""
        fetched = self._fetcher.submit(self._blocks.fetch, window.index)
        for name, assembler in self._assemblers.items():
            self._joining.append(assembler.submit(self._join_fetched, name, window, fetched))

    def saved(self) -> Iterator[tuple[int, dict[str, Path]]]:
        """The blocks saved since the last call, in order: index and files."""
        while self._joining and self._joining[0].done():
            self._joining.popleft().result()
        while self._saving and all(file.done() for file in self._saving[0].files.values()):
            block = self._saving.popleft()
            yield block.index, {name: file.result() for name, file in block.files.items()}

    def wait(self, seconds: float) -> bool:
        """Whether all that was added is done, having waited at most so long."""
        pending: list[Future[Any]] = [*self._joining]
        pending += [file for block in self._saving for file in block.files.values()]
        finished = wait(pending, seconds, FIRST_EXCEPTION)
        for future in finished.done:
            future.result()
        return not finished.not_done

    def finish(self) -> Iterator[Artifact]:
        """Ends the stems' files, after `wait` was true."""
        for track in self._tracks.values():
            yield track.finish()

    @property
    def assembled(self) -> int:
        """Samples that each stem has, at least."""
        return min(track.samples for track in self._tracks.values())

    def _join_saved(self, name: str, window: Window, file: Future[Path]) -> None:
        self._join(name, window, file.result())

    def _join_fetched(self, name: str, window: Window, files: Future[Mapping[str, Path]]) -> None:
        self._join(name, window, self._files.of(files.result(), name, window))

    def _join(self, name: str, window: Window, path: Path) -> None:
        self._tracks[name].append(self._files.read(path, window), self._stop.is_set)
