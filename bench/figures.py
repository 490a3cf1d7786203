"""Pure: what a benchmark gives. A figure is a ratio; absolute times stand beside it for orientation only."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """at: `>=` where more is better, `<=` where less is."""

    at: Literal[">=", "<="]
    value: float

    def met(self, ratio: float) -> bool:
        return ratio >= self.value if self.at == ">=" else ratio <= self.value

    def __str__(self) -> str:
        return f"{self.at} {self.value:g}"


@dataclass(frozen=True)
class Figure:
    """One ratio with its baseline.

    what, baseline: what was divided by what, in words.  low, high: the least and the largest of the repetitions'
    ratios.  repetitions: how often both sides were measured, in turns.  absolute: what lies behind it, by name with
    the unit in it.
    """

    name: str
    what: str
    baseline: str
    ratio: float
    low: float
    high: float
    repetitions: int
    goal: Goal | None = None
    absolute: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """None where the figure has no goal: it is there to know, not to hold."""
        return None if self.goal is None else self.goal.met(self.ratio)

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        values["goal"] = str(self.goal) if self.goal else None
        values["met"] = self.met
        for name in ("ratio", "low", "high"):
            values[name] = float(f"{values[name]:.4g}")
        values["absolute"] = {name: float(f"{value:.4g}") for name, value in self.absolute.items()}
        return values


def figure(
    name: str,
    what: str,
    baseline: str,
    ratios: Sequence[float],
    goal: Goal | None = None,
    absolute: Mapping[str, float] | None = None,
) -> Figure:
    """The median of the repetitions' ratios, with their spread."""
    middle = statistics.median(ratios)
    return Figure(name, what, baseline, middle, min(ratios), max(ratios), len(ratios), goal, absolute or {})


def in_turns(first: Callable[[], float], second: Callable[[], float], repetitions: int) -> list[tuple[float, float]]:
    """Measures A B, B A, A B …: what drifts in the machine meanwhile falls on both, and neither always goes first."""
    pairs = []
    for repetition in range(repetitions):
        if repetition % 2:
            b = second()
            pairs.append((first(), b))
        else:
            a = first()
            pairs.append((a, second()))
    return pairs


def table(figures: Sequence[Figure]) -> list[list[str]]:
    """Rows of name, ratio, spread, goal, whether it was reached, and what it is."""
    rows = []
    for each in figures:
        verdict = {None: "", True: "yes", False: "NO"}[each.met]
        rows.append(
            [
                each.name,
                f"{each.ratio:.3g}",
                f"{each.low:.3g} – {each.high:.3g} ({each.repetitions})",
                str(each.goal or ""),
                verdict,
                f"{each.what}, against {each.baseline}",
            ]
        )
    return rows
