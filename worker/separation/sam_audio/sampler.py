"""From noise at t = 0 to a separation at t = 1: fixed steps along the velocity field."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

Method = Literal["midpoint", "euler"]
Field = Callable[[float, Tensor], Tensor]
"""Time and state to the velocity, of the state's shape."""


@dataclass(frozen=True)
class Schedule:
    """A method and its number of equal steps."""

    method: Method = "midpoint"
    steps: int = 16

    def __post_init__(self) -> None:
        if self.method not in ("midpoint", "euler"):
            raise ValueError(f"there is no method {self.method!r}: use midpoint or euler")
        if self.steps < 1:
            raise ValueError("a schedule needs at least one step")

    @property
    def evaluations(self) -> int:
        """Evaluations of the field."""
        return self.steps * (2 if self.method == "midpoint" else 1)


REFERENCE = Schedule("midpoint", 16)
"""What the published model uses."""


TIERS: dict[str, Schedule] = {
    "reference": REFERENCE,
    "standard": Schedule("midpoint", 8),
    "draft": Schedule("midpoint", 4),
}
"""The qualities a job may ask for: 32, 16 and 8 evaluations."""


def walk(state: Tensor, schedule: Schedule = REFERENCE) -> Generator[tuple[float, Tensor], Tensor, Tensor]:
    """Yields each time and state at which the velocity is wanted, to be sent in; returns the state at t = 1.

    Midpoint is the explicit second-order rule: half a step with the velocity here, a whole one with the velocity there.
    """
    step = 1.0 / schedule.steps
    for index in range(schedule.steps):
        time = index * step
        velocity = yield time, state
        if schedule.method == "midpoint":
            velocity = yield time + step / 2, state + velocity * (step / 2)
        state = state + velocity * step
    return state


def integrate(
    field: Field, state: Tensor, schedule: Schedule = REFERENCE, check: Callable[[], None] = lambda: None
) -> Tensor:
    """The state at t = 1. `check` is called before every evaluation and ends the work by raising."""
    steps = walk(state, schedule)
    wanted = next(steps)
    while True:
        check()
        try:
            wanted = steps.send(field(*wanted))
        except StopIteration as finished:
            return cast(Tensor, finished.value)
