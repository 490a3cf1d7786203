"""The clocks of `fair`, kept between releases: of keys, and of the batches of a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from common.db.engine import Tx
from common.db.tables import turns
from common.jobs import fair

FORGET_SECONDS = 7 * 86400.0


class Contender(Protocol):
    @property
    def key_id(self) -> str: ...

    @property
    def holder(self) -> str: ...


class Rounds:
    """One release of one lane and priority. Where nobody contends, nothing is read and nothing kept."""

    def __init__(self, tx: Tx, lane: str, priority: int, contenders: Iterable[Contender]) -> None:
        self._tx, self._lane, self._priority = tx, lane, priority
        holders = {name for contender in contenders for name in (contender.key_id, contender.holder)}
        self._passed = self._read(holders) if holders else {}
        self._moved: dict[str, float] = {}

    def share(
        self, active: Mapping[str, int], waiting: Mapping[str, int], weights: Mapping[str, float], room: int
    ) -> dict[str, int]:
        """`fair.shares`, and the clocks move on."""
        granted = fair.shares(active, waiting, weights, room, self._passed)
        if len(waiting) > 1:
            clocks = fair.starts(active, waiting, weights, self._passed)
            self._moved |= {h: clock + granted.get(h, 0) / weights.get(h, 1.0) for h, clock in clocks.items()}
        return granted

    def keep(self) -> None:
        """Writes the clocks that moved. In the order of their holders: two releases at once must not lock crosswise."""
        if not self._moved:
            return
        at = self._tx.instant()
        rows = [
            {"lane": self._lane, "priority": self._priority, "holder": holder, "passed": passed, "updated_at": at}
            for holder, passed in sorted(self._moved.items())
        ]
        into = (postgresql.insert if self._tx.postgresql else sqlite.insert)(turns).values(rows)
        self._tx.execute(
            into.on_conflict_do_update(
                index_elements=["lane", "priority", "holder"],
                set_={"passed": into.excluded.passed, "updated_at": into.excluded.updated_at},
            )
        )

    def _read(self, holders: set[str]) -> dict[str, float]:
        rows = self._tx.execute(
            select(turns.c.holder, turns.c.passed).where(
                turns.c.lane == self._lane, turns.c.priority == self._priority, turns.c.holder.in_(sorted(holders))
            )
        )
        return {row.holder: row.passed for row in rows}


def forget(tx: Tx) -> None:
    """Drops the clocks of those that have not contended for a week."""
    tx.execute(delete(turns).where(turns.c.updated_at < tx.now(-FORGET_SECONDS)))
