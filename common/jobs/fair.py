"""Pure: whose turn it is, by start-time fair queueing.

What a holder was given, per weight, is its clock; the one whose clock is furthest behind goes next, so that shares
converge to the weights however few places there are. A clock that stood still while its holder wanted nothing is put
to where the others' oldest running job started: what was not asked for cannot be saved up, and what was had while
nobody else wanted it is forgiven.
"""

from __future__ import annotations

from collections.abc import Mapping

# How far ahead of the others a holder's clock may stay, beside what it has under way: jobs of the lightest holder, for
# such a one's job, while it lasts, holds back where the others are counted from.
_AHEAD = 3


def starts(
    active: Mapping[str, int],
    waiting: Mapping[str, int],
    weights: Mapping[str, float],
    passed: Mapping[str, float],
) -> dict[str, float]:
    """The clock of each holder that waits. passed: the clocks as they were kept."""
    known = [holder for holder in waiting if holder in passed]
    running = [passed[h] - active[h] / weights.get(h, 1.0) for h in known if active.get(h)]
    since = min(running or [passed[holder] for holder in known], default=0.0)
    ahead = _AHEAD / min((weights.get(holder, 1.0) for holder in waiting), default=1.0)
    clocks = {}
    for holder in waiting:
        least = since + active.get(holder, 0) / weights.get(holder, 1.0)
        clocks[holder] = min(max(passed.get(holder, least), least), least + ahead)
    return clocks


def shares(
    active: Mapping[str, int],
    waiting: Mapping[str, int],
    weights: Mapping[str, float],
    room: int,
    passed: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """How many jobs of each holder (a key, or a batch of one) to release.

    active: jobs of each queued or running.  waiting: releasable jobs of each.  weights: share of each, 1 where absent.
    room: how many may be released in all.  passed: clocks kept from earlier releases. Ties go to the smaller id, so
    the choice is reproducible.
    """
    granted = dict.fromkeys(waiting, 0)
    clocks = starts(active, waiting, weights, passed or {})
    for _ in range(room):
        left = [holder for holder in waiting if granted[holder] < waiting[holder]]
        if not left:
            break
        turn = min(left, key=lambda h: (clocks[h] + granted[h] / weights.get(h, 1.0), h))
        granted[turn] += 1
    return {holder: n for holder, n in granted.items() if n}
