"""Keeps programs running: starts them in order, restarts what dies, stops them in reverse order, leaves none behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any

from common import log, tether
from common.restarts import EX_CONFIG, Again, Backoff, Done, Hopeless, after_exit, describe

_log = log.get(__name__)

_HURRIED = 128 + signal.SIGINT


@dataclass(frozen=True)
class Program:
    """A program to keep running.

    env: added to our own environment.  stage: lower ones start first and stop last.  grace_seconds: between SIGTERM and
    SIGKILL.  done: exit statuses that say it was told to end.  hopeless: those that say that no restart can help.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stage: int = 0
    grace_seconds: float = 10.0
    done: Collection[int] = (0,)
    hopeless: Collection[int] = (EX_CONFIG,)


class Supervisor:
    """Runs programs until all are done, or SIGTERM or SIGINT says to stop; a second SIGINT ends them at once.

    Each program is a process group of its own, so that Ctrl-C in a terminal reaches this process alone, and dies with
    it whatever happens.  before_stop: called before the first SIGTERM, and waited for at most `notice_seconds`.
    prefix: puts each program's name before its lines; else they write where this process does.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        backoff: Backoff | None = None,
        before_stop: Callable[[], None] | None = None,
        notice_seconds: float = 5.0,
        prefix: bool = False,
    ) -> None:
        self._children = [_Child(program, prefix) for program in sorted(programs, key=lambda p: p.stage)]
        self._backoff = backoff or Backoff()
        self._before_stop = before_stop
        self._notice_seconds = notice_seconds
        self._stopping = False
        self._hurry = False
        self._hopeless: int | None = None
        self._bell_reader, self._bell = os.pipe()
        for end in (self._bell_reader, self._bell):
            os.set_blocking(end, False)

    def run(self) -> int:
        """Returns 0 when all are done or stopped by order, 130 when that was hurried, or a hopeless program's status.

        To be called once, in the main thread: signals arrive there, and a program is tied to the thread that starts it.
        """
        with self._signals():
            try:
                self._keep_running()
                self._stop_all()
            finally:
                for child in self._children:
                    child.kill()
                os.close(self._bell)
                os.close(self._bell_reader)
        if self._hopeless is not None:
            return self._hopeless
        return _HURRIED if self._hurry else 0

    def stop(self) -> None:
        """As SIGTERM does; from any thread."""
        self._stopping = True
        with suppress(OSError):
            os.write(self._bell, b"\0")

    def _keep_running(self) -> None:
        for child in self._children:
            if not self._stopping:
                child.start()
        while not self._stopping and any(child.wanted for child in self._children):
            now = time.monotonic()
            for child in self._children:
                self._look(child)
                if child.due is not None and child.due <= now and not self._stopping:
                    child.start()
            due = [child.due - now for child in self._children if child.due is not None]
            self._sleep(max(0.0, min([1.0, *due])))

    def _look(self, child: _Child) -> None:
        code = child.ended()
        if code is None:
            return
        uptime = time.monotonic() - child.started
        match after_exit(
            code, uptime, child.failures, self._backoff, child.program.done, child.program.hopeless
        ):  # fmt: skip
            case Done():
                _log.info("ended", program=child.program.name, how=describe(code))
            case Hopeless():
                _log.error("cannot run; stopping everything", program=child.program.name, how=describe(code))
                self._hopeless, self._stopping = code, True
            case Again(in_seconds, failures):
                child.failures, child.due = failures, time.monotonic() + in_seconds
                _log.warning(
                    "died; starting it again",
                    program=child.program.name,
                    how=describe(code),
                    after_seconds=round(uptime, 1),
                    in_seconds=in_seconds,
                    deaths_in_a_row=failures,
                )

    def _stop_all(self) -> None:
        for child in self._children:
            child.due = None
        if any(child.running for child in self._children):
            self._give_notice()
        for _, group in groupby(reversed(self._children), key=lambda child: child.program.stage):
            stage = list(group)
            for child in stage:
                child.signal(signal.SIGTERM)
            self._wait_for(stage)

    def _give_notice(self) -> None:
        if self._before_stop is None or self._hurry:
            return
        # In a thread: a database that does not answer must not keep the programs from being told.
        notice = threading.Thread(target=self._before_stop, name="notice", daemon=True)
        notice.start()
        until = time.monotonic() + self._notice_seconds
        while notice.is_alive() and time.monotonic() < until and not self._hurry:
            notice.join(0.05)

    def _wait_for(self, stage: list[_Child]) -> None:
        told = time.monotonic()
        while left := [child for child in stage if child.running]:
            now = time.monotonic()
            for child in left:
                code = child.ended()
                if code is not None:
                    _log.info("stopped", program=child.program.name, how=describe(code))
                elif self._hurry or now - told > child.program.grace_seconds:
                    _log.warning("killed", program=child.program.name, why="hurried" if self._hurry else "too slow")
                    child.kill()
            self._sleep(0.2)

    def _sleep(self, seconds: float) -> None:
        """Until a signal comes, a program ends, or `stop` is called."""
        if select.select([self._bell_reader], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                os.read(self._bell_reader, 4096)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        handlers: dict[int, Callable[..., None]] = {
            signal.SIGTERM: self._told,
            signal.SIGINT: self._told,
            # Only so that it wakes us.
            signal.SIGCHLD: lambda *_: None,
        }
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            handlers[signal.SIGHUP] = self._told
        old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        old_bell = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_bell)
            for number, handler in old.items():
                signal.signal(number, handler)

    def _told(self, number: int, _frame: object) -> None:
        if self._stopping and number == signal.SIGINT:
            self._hurry = True
        self._stopping = True


class _Child:
    """One program and its process. due: when it is to be started again, on the monotonic clock."""

    def __init__(self, program: Program, prefix: bool) -> None:
        self.program = program
        self.failures = 0
        self.started = 0.0
        self.due: float | None = None
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def wanted(self) -> bool:
        return self.running or self.due is not None

    def start(self) -> None:
        self.due, self.started = None, time.monotonic()
        piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if self._prefix else {}
        self._process = subprocess.Popen(
            # -I: the folder of tether.py must not stand before the standard library.
            [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.program.command],
            # Handed on, not read: what the variables mean is for the program's own settings to say.
            env={**os.environ, **self.program.env},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **piped,
        )
        if self._process.stdout is not None:
            threading.Thread(target=self._copy, args=(self._process.stdout,), daemon=True).start()
        _log.info("started", program=self.program.name, pid=self._process.pid)

    def ended(self) -> int | None:
        """The exit status where it has ended since the last look; what it left behind is ended too."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is not None:
            self.kill()
        return code

    def signal(self, number: signal.Signals) -> None:
        """To the program itself, which may want its own children to go on to the end of their work."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Ends the whole process group at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _copy(self, lines: IO[bytes]) -> None:
        head = f"{self.program.name:<12} | ".encode()
        with lines:
            for line in lines:
                sys.stderr.buffer.write(head + line.rstrip(b"\n") + b"\n")
                sys.stderr.buffer.flush()
