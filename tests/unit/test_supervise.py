"""The supervisor: its decisions by themselves, and real programs that die, linger, fork and are told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.restarts import EX_CONFIG, Again, Backoff, Done, Hopeless, after_exit, describe
from common.tether import stand_by

ROOT = Path(__file__).parents[2]

backoffs = st.builds(Backoff, st.floats(0.01, 10), st.floats(10, 1000), st.floats(0.1, 1000))
deadly = st.integers(-64, 255).filter(lambda code: code not in (0, EX_CONFIG))


@given(deadly, st.floats(0, 1e6), st.integers(0, 10**6), backoffs)
def test_what_dies_is_started_again_within_the_bounds_of_the_backoff(
    code: int, uptime: float, failures: int, backoff: Backoff
) -> None:
    again = after_exit(code, uptime, failures, backoff)
    assert isinstance(again, Again)
    assert backoff.first_seconds <= again.in_seconds <= backoff.most_seconds
    assert again.failures == (1 if uptime >= backoff.healthy_seconds else failures + 1)


@given(st.integers(1, 10**6), backoffs)
def test_the_pause_never_shrinks_while_deaths_go_on_and_doubles_up_to_its_bound(n: int, backoff: Backoff) -> None:
    assert backoff.pause(n) <= backoff.pause(n + 1)
    assert backoff.pause(n + 1) == pytest.approx(min(2 * backoff.pause(n), backoff.most_seconds))


@given(backoffs, st.integers(0, 100))
def test_a_healthy_life_makes_the_next_pause_the_first_again(backoff: Backoff, failures: int) -> None:
    assert after_exit(-9, backoff.healthy_seconds, failures, backoff) == Again(backoff.first_seconds, 1)


def test_the_pauses_as_an_operator_sees_them() -> None:
    assert [Backoff().pause(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.floats(0, 1e6), st.integers(0, 100))
def test_an_agreed_exit_is_not_answered_by_a_restart(uptime: float, failures: int) -> None:
    assert after_exit(0, uptime, failures, Backoff()) == Done()
    assert after_exit(75, uptime, failures, Backoff(), done=(0, 75)) == Done()
    assert after_exit(EX_CONFIG, uptime, failures, Backoff()) == Hopeless()


def test_an_exit_is_told_in_words() -> None:
    assert [describe(code) for code in (0, 3, -9, -15, -63)] == [
        "exit status 0",
        "exit status 3",
        "SIGKILL",
        "SIGTERM",
        "signal 63",
    ]


# Each program notes what happens to it: `name event pid`, in the file `notes`.
PROGRAM = """
import os, signal, subprocess, sys, time
name, behaviour = sys.argv[1], sys.argv[2]
def note(what, pid=None):
    with open("notes", "a") as notes:
        notes.write(f"{name} {what} {pid or os.getpid()}\\n")
def told(number, frame):
    note(signal.Signals(number).name)
    sys.exit(0)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, told)
if behaviour == "parent":
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note("grandchild", grandchild.pid)
note("began")
if behaviour.startswith("exit"):
    sys.exit(int(behaviour[4:]))
print("line of", name, flush=True)
time.sleep(600)
"""

DRIVER = """
import sys
from common.restarts import Backoff
from common.supervise import Program, Supervisor
def program(name, behaviour, **more):
    return Program(name, [sys.executable, "program.py", name, behaviour], **more)
def before_stop():
    with open("notes", "a") as notes:
        notes.write("driver before-stop 0\\n")
sys.exit(Supervisor({programs}, backoff=Backoff(0.05, 0.4, 60), {options}).run())
"""


class Driver:
    """A process that supervises, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        (folder / "program.py").write_text(PROGRAM)

    def start(self, programs: str, options: str = "") -> None:
        (self.folder / "driver.py").write_text(DRIVER.format(programs=programs, options=options))
        self.process = subprocess.Popen(
            [sys.executable, "driver.py"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def notes(self) -> list[tuple[str, str, int]]:
        file = self.folder / "notes"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(name, what, int(pid)) for name, what, pid in (line.split() for line in lines)]

    def pids(self, name: str, what: str = "began") -> list[int]:
        return [pid for n, w, pid in self.notes() if (n, w) == (name, what)]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status; no process that was noted may be left."""
        assert self.process is not None
        code = self.process.wait(timeout=60)
        until(lambda: not any(alive(pid) for _, _, pid in self.notes() if pid), "nothing is left behind")
        return code

    def output(self) -> str:
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.read()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait()
            assert made.process.stdout is not None
            made.process.stdout.close()


def test_what_dies_by_signal_or_status_is_started_again_and_the_reason_is_logged(driver: Driver) -> None:
    driver.start('[program("steady", "stay"), program("frail", "exit3")]')
    until(lambda: driver.pids("steady") and len(driver.pids("frail")) >= 3, "the frail one is started three times")
    os.kill(driver.pids("steady")[0], signal.SIGKILL)
    until(lambda: len(driver.pids("steady")) == 2, "the killed one is started again")
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0
    output = driver.output()
    assert "exit status 3" in output
    assert "SIGKILL" in output


def test_it_ends_when_all_have_ended_as_agreed(driver: Driver) -> None:
    driver.start('[program("one", "exit0"), program("two", "exit75", done=(0, 75))]')
    assert driver.wait() == 0
    assert len(driver.pids("one")) == len(driver.pids("two")) == 1


def test_a_hopeless_program_ends_everything_with_its_status(driver: Driver) -> None:
    driver.start('[program("steady", "stay"), program("misconfigured", "exit78", stage=1)]')
    assert driver.wait() == 78
    assert len(driver.pids("misconfigured")) == 1


def test_a_command_that_does_not_exist_is_tried_again_and_says_so(driver: Driver) -> None:
    driver.start('[Program("absent", ["/no/such/command"]), program("steady", "stay")]')
    until(lambda: driver.pids("steady"), "the other one is up")
    time.sleep(0.5)
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0
    output = driver.output()
    assert "/no/such/command: No such file or directory" in output
    assert "exit status 127" in output


def test_stages_start_upwards_and_stop_downwards_after_the_notice(driver: Driver) -> None:
    driver.start('[program("api", "stay", stage=1), program("base", "stay")]', "before_stop=before_stop")
    until(lambda: driver.pids("api") and driver.pids("base"), "both are up")
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0
    assert [(name, what) for name, what, _ in driver.notes()][2:] == [
        ("driver", "before-stop"),
        ("api", "SIGTERM"),
        ("base", "SIGTERM"),
    ]
    output = driver.output()
    assert output.index("base") < output.index("api")


def test_a_notice_that_hangs_is_not_waited_for(driver: Driver) -> None:
    driver.start('[program("one", "stay")]', "before_stop=lambda: __import__('time').sleep(600), notice_seconds=0.2")
    until(lambda: driver.pids("one"), "it is up")
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0
    assert driver.pids("one", "SIGTERM")


def test_what_does_not_hear_is_killed_after_its_grace(driver: Driver) -> None:
    driver.start('[program("deaf", "deaf", grace_seconds=0.3)]')
    until(lambda: driver.pids("deaf"), "it is up")
    driver.signal(signal.SIGINT)
    assert driver.wait() == 0
    assert "too slow" in driver.output()


def test_a_second_interrupt_ends_it_at_once(driver: Driver) -> None:
    driver.start('[program("deaf", "deaf", grace_seconds=600)]')
    until(lambda: driver.pids("deaf"), "it is up")
    driver.signal(signal.SIGINT)
    time.sleep(0.3)
    driver.signal(signal.SIGINT)
    assert driver.wait() == 130


def test_a_program_that_waits_for_its_restart_does_not_hold_up_the_end(driver: Driver) -> None:
    driver.start('[program("frail", "exit3")]')
    until(lambda: len(driver.pids("frail")) >= 4, "it dies again and again")
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0


def test_a_killed_supervisor_takes_its_programs_with_it(driver: Driver) -> None:
    driver.start('[program("one", "deaf"), program("two", "stay")]')
    until(lambda: driver.pids("one") and driver.pids("two"), "both are up")
    driver.signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL


def test_children_of_a_killed_program_are_ended_before_it_is_started_again(driver: Driver) -> None:
    driver.start('[program("one", "parent")]')
    until(lambda: driver.pids("one"), "it is up")
    (grandchild,) = driver.pids("one", "grandchild")
    os.kill(driver.pids("one")[0], signal.SIGKILL)
    until(lambda: len(driver.pids("one")) == 2, "it is started again")
    until(lambda: not alive(grandchild), "the grandchild of the first is gone")
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0


def test_each_program_is_a_group_of_its_own_so_a_terminals_interrupt_reaches_the_supervisor_alone(
    driver: Driver,
) -> None:
    driver.start('[program("one", "stay"), program("two", "stay")]')
    until(lambda: driver.pids("one") and driver.pids("two"), "both are up")
    assert driver.process is not None
    groups = {os.getpgid(pid) for pid in (driver.process.pid, driver.pids("one")[0], driver.pids("two")[0])}
    assert len(groups) == 3
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0


def test_with_a_prefix_every_line_says_whose_it_is(driver: Driver) -> None:
    driver.start('[program("one", "stay"), program("two", "stay")]', "prefix=True")
    until(lambda: driver.pids("one") and driver.pids("two"), "both are up")
    time.sleep(0.3)
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0
    lines = driver.output().splitlines()
    assert [line for line in lines if line.startswith("one") and line.endswith("| line of one")]
    assert [line for line in lines if line.startswith("two") and line.endswith("| line of two")]


def test_where_the_kernel_does_not_watch_the_tether_does(tmp_path: Path) -> None:
    """The way of other systems than Linux: the tether stays beside the command and looks."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from common.tether import stand_by; "
        "stand_by(int(sys.argv[1]), sys.argv[2:])"
    )
    sleeper = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    parent = (
        "import os, subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {code!r}, str(os.getpid()), sys.executable, '-c', {sleeper!r}]); "
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the command runs")
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
    finally:
        process.kill()
        process.wait()
    until(lambda: not alive(pid), "the command ends with its grandparent")


def test_the_tether_that_stands_by_tells_the_exit_as_a_shell_would() -> None:
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert stand_by(os.getppid(), [sys.executable, "-c", "raise SystemExit(7)"]) == 7
        assert stand_by(os.getppid(), [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
