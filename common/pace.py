"""Pure: how the cards of a lane are shared over time, and so how fast one's own work goes on among that of others.

Work is taken as a fluid (generalized processor sharing, Parekh and Gallager 1993), as fair release comes to in the long
run: urgent work first, then keys by their weights, then the batches of a key by theirs; what is closed or done leaves
its share to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from common.windows import Windows

# From here on nobody else is reckoned with: what waits in windows that seldom open must not be followed for ever.
_FAR = timedelta(days=400)


@dataclass(frozen=True)
class Claimant:
    """Work with a right to a share of the cards: a batch, or what a key has outside of batches.

    seconds: what is left of it, if it had all cards of the lane.  windows: None: always open.  urgent: goes first.
    """

    key_id: str
    key_weight: float
    weight: float
    seconds: float
    windows: Windows | None = None
    urgent: bool = False


class Stretch(NamedTuple):
    """From `begins` to `ends` (None: without end) one's own work has `share` of the cards, 0 to 1."""

    begins: datetime
    ends: datetime | None
    share: float


class _Gate:
    """Whether windows are open, as time goes on; they are looked up again only where they have changed."""

    def __init__(self, windows: Windows | None) -> None:
        self._windows = windows
        self._changes: datetime | None = None
        self.open = True

    def move(self, at: datetime) -> datetime | None:
        """To a later instant; gives the next one at which they change."""
        if self._windows is not None and (self._changes is None or at >= self._changes):
            self.open = self._windows.is_open(at)
            self._changes = self._windows.next_change(at)
        return self._changes


class Pace:
    """The pace of `own` work among `rivals`. own.seconds does not matter: it is taken to last."""

    def __init__(self, now: datetime, own: Claimant, rivals: Sequence[Claimant] = ()) -> None:
        self._now = now.astimezone(UTC)
        self._own = own
        self._rivals = [rival for rival in rivals if rival.seconds > 0]
        # Two batches with the same window open and close together: they have one gate.
        gates = {str(one.windows): _Gate(one.windows) for one in (own, *self._rivals)}
        self._gates = [gates[str(one.windows)] for one in self._rivals]
        self._own_gate = gates[str(own.windows)]
        # Followed once, as far as anybody asks.
        self._known: list[Stretch] = []
        self._rest = self._follow()

    def after(self, seconds: float, horizon: timedelta) -> datetime | None:
        """When it will have had all the cards' time of `seconds`; None beyond the horizon."""
        for begins, ends, share in self._stretches():
            if ends is None:
                return self._alone(begins, seconds, horizon)
            had = (ends - begins).total_seconds() * share
            if had >= seconds:
                return begins + timedelta(seconds=seconds / share if share else 0.0)
            seconds -= had
        raise AssertionError("unreachable: the last stretch has no end")

    def seconds(self, until: datetime) -> float:
        """What it will have had of all the cards' time by then."""
        had = 0.0
        for begins, ends, share in self._stretches():
            if begins >= until:
                break
            if ends is None:
                windows = self._own.windows
                return had + (windows.open_seconds(begins, until) if windows else (until - begins).total_seconds())
            had += (min(ends, until) - begins).total_seconds() * share
        return had

    def _alone(self, begins: datetime, seconds: float, horizon: timedelta) -> datetime | None:
        if seconds <= 0:
            return begins
        left = horizon - (begins - self._now)
        if self._own.windows is not None:
            return self._own.windows.after(begins, seconds, left)
        return begins + timedelta(seconds=seconds) if seconds < left.total_seconds() else None

    def _stretches(self) -> Iterator[Stretch]:
        yield from self._known
        for stretch in self._rest:
            self._known.append(stretch)
            yield stretch

    def _follow(self) -> Iterator[Stretch]:
        """Until no rival has work left; the last one has no end, and is one's own alone."""
        at, left = self._now, {i: rival.seconds for i, rival in enumerate(self._rivals)}
        while left and at - self._now < _FAR:
            gates = {self._own_gate, *(self._gates[i] for i in left)}
            changes = [change for gate in gates if (change := gate.move(at)) is not None]
            rates = self._rates(left)
            changes += [at + timedelta(seconds=left[i] / rates[i]) for i in left if rates.get(i)]
            ends = min(changes, default=None)
            if ends is None:
                break
            # Of less than a microsecond no instant can tell.
            ends = max(ends, at + timedelta(microseconds=1))
            yield Stretch(at, ends, rates.get(None, 0.0))
            span = (ends - at).total_seconds()
            left = {i: rest for i in left if (rest := left[i] - rates.get(i, 0.0) * span) > 1e-6}
            at = ends
        yield Stretch(at, None, 1.0)

    def _rates(self, left: dict[int, float]) -> dict[int | None, float]:
        """The share of each that is open; None stands for one's own work."""
        there: dict[int | None, Claimant] = {i: self._rivals[i] for i in left if self._gates[i].open}
        if self._own_gate.open:
            there[None] = self._own
        if any(one.urgent for one in there.values()):
            there = {i: one for i, one in there.items() if one.urgent}
        keys = {one.key_id: one.key_weight for one in there.values()}
        within = dict.fromkeys(keys, 0.0)
        for one in there.values():
            within[one.key_id] += one.weight
        whole = sum(keys.values())
        return {i: one.key_weight / whole * one.weight / within[one.key_id] for i, one in there.items()}
