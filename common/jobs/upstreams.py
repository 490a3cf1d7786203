"""Jobs that read what other jobs make: whom they wait for, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from common.db.engine import Tx
from common.db.tables import jobs
from common.errors import NightshiftError
from common.params import Input
from common.states import ACTIVE, State


def unfinished(tx: Tx, key_id: str, sources: Mapping[str, Input]) -> str | None:
    """The first job among the sources to wait for; None where every output is there already.

    Raises `input_missing` and `upstream_failed`, pointing to the source.
    """
    waits_for = None
    for pointer, source in sources.items():
        if source.job is not None and _is_unfinished(tx, key_id, pointer, source):
            waits_for = waits_for or source.job
    return waits_for


def _is_unfinished(tx: Tx, key_id: str, pointer: str, source: Input) -> bool:
    # Locked, so that it cannot end between this look and our write without waking us.
    row = tx.execute(
        select(jobs.c.state, jobs.c.result)
        .where(jobs.c.id == source.job, jobs.c.key_id == key_id)
        .with_for_update(read=True)
    ).one_or_none()
    if row is None:
        raise NightshiftError("input_missing", f"There is no job {source.job}.", pointer=f"{pointer}/job")
    state = State(row.state)
    if state in ACTIVE:
        return True
    if state is not State.SUCCEEDED:
        raise NightshiftError(
            "upstream_failed",
            f"The job {source.job} is {state}.",
            hint="Retry that job first.",
            pointer=f"{pointer}/job",
        )
    names = [output["name"] for output in row.result["outputs"]]
    if source.output not in names:
        raise NightshiftError(
            "input_missing",
            f"The job {source.job} has no output {source.output!r}.",
            hint=f"It has: {', '.join(names)}.",
            pointer=f"{pointer}/output",
        )
    return False
