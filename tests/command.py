"""The `nightshift` command for tests: run as users run it, in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from typer.testing import CliRunner

from common import tether
from nightshift.cli import app

COMMAND = Path(sys.executable).with_name("nightshift")


@dataclass(frozen=True)
class Done:
    """What a run of the command left: its exit status and all it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """What `--json` says on standard error when something went wrong."""
        found: dict[str, Any] = json.loads(self.err.strip().splitlines()[-1])["error"]
        return found


class Command:
    """The command in a folder. settings: NIGHTSHIFT_ variables without that beginning; no other such one is seen.

    inside: runs it in this process, which spares a second of imports; talk with the service is as real.
    """

    def __init__(self, folder: Path, *, inside: bool = False, **settings: object) -> None:
        self.folder = folder
        self.environment = environment(settings)
        self._run = self._run_inside if inside else self._run_process

    def __call__(self, *arguments: object, status: int = 0, seconds: float = 120.0, **settings: object) -> Done:
        """Runs the command to its end. Raises AssertionError, with what it said, for another exit status."""
        found = self._run(self.line(*arguments), {**self.environment, **_told(settings)}, seconds)
        shown = " ".join(str(argument) for argument in arguments)
        assert found.status == status, f"nightshift {shown}: {found.status}\n{found.out}\n{found.err}"
        return found

    def _run_process(self, line: Sequence[str], environment: dict[str, str], seconds: float) -> Done:
        done = subprocess.run(
            line,
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def _run_inside(self, line: Sequence[str], environment: dict[str, str], seconds: float) -> Done:
        unset = dict.fromkeys(os.environ.keys() - environment.keys())
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(app, line[1:], prog_name="nightshift", env={**unset, **environment})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def start(self, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
        """Starts the command as a shell does: in a process group of its own, which Ctrl-C reaches as a whole. It dies
        with the tests, also where they are killed."""
        with log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.line(*arguments)],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    @staticmethod
    def line(*arguments: object) -> Sequence[str]:
        return [str(COMMAND), *(str(argument) for argument in arguments)]


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    # A terminal's width would decide where lines break.
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "100", **_told(settings)}


def _told(settings: Mapping[str, object]) -> dict[str, str]:
    return {f"NIGHTSHIFT_{name.upper()}": str(value) for name, value in settings.items()}


def processes_of(**variables: object) -> list[psutil.Process]:
    """The living processes in whose environment all these variables have these values."""
    wanted = {name: str(value) for name, value in variables.items()}
    found = []
    for process in psutil.process_iter():
        try:
            seen = process.environ()
            if process.status() != psutil.STATUS_ZOMBIE and all(seen.get(n) == v for n, v in wanted.items()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def interrupt(process: subprocess.Popen[bytes], *, group: bool) -> None:
    """Ctrl-C: in a terminal it reaches the whole process group; `kill -INT` reaches the process alone."""
    if group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
