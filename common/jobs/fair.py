"""Pure: whose turn it is. Weighted fair share: the key with the least running per weight goes next."""

from __future__ import annotations

from collections.abc import Mapping


def shares(
    active: Mapping[str, int], waiting: Mapping[str, int], weights: Mapping[str, float], room: int
) -> dict[str, int]:
    """How many jobs of each key to release.

    active: jobs of each key queued or running.  waiting: releasable jobs of each key.  weights: share of each key,
    1 where absent.  room: how many may be released in all. Ties go to the smaller id, so the choice is reproducible.
    """
    granted = dict.fromkeys(waiting, 0)
    for _ in range(room):
        open_keys = [key for key in waiting if granted[key] < waiting[key]]
        if not open_keys:
            break
        turn = min(open_keys, key=lambda k: ((active.get(k, 0) + granted[k]) / weights.get(k, 1.0), k))
        granted[turn] += 1
    return {key: n for key, n in granted.items() if n}
