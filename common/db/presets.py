"""A key's presets. Every change is a new version; a version, once made, stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from common.db.engine import Tx
from common.db.tables import presets
from common.errors import NightshiftError
from common.presets import BUILT_IN, Preset, merged, reference


def put(tx: Tx, key_id: str, name: str, description: str, work: Mapping[str, Any]) -> Preset:
    """The next version of a key's preset. Its first one counts on from a built-in of that name."""
    newest = tx.execute(
        select(func.max(presets.c.version)).where(presets.c.key_id == key_id, presets.c.name == name)
    ).scalar_one()
    before = newest or (BUILT_IN[name].version if name in BUILT_IN else 0)
    # Two that put at once: the second meets the primary key, and its caller tries again.
    row = tx.execute(
        insert(presets)
        .values(
            key_id=key_id, name=name, version=before + 1, description=description, work=dict(work), created_at=tx.now()
        )
        .returning(presets)
    ).one()
    return _from_row(row)


def listed(tx: Tx, key_id: str) -> list[Preset]:
    """The newest version of each, the key's own before those built in that they shadow; by name."""
    found = dict(BUILT_IN)
    rows = tx.execute(
        select(presets)
        .where(presets.c.key_id == key_id, presets.c.retired_at.is_(None))
        .order_by(presets.c.name, presets.c.version)
    )
    found.update((row.name, _from_row(row)) for row in rows)
    return [found[name] for name in sorted(found)]


def get(tx: Tx, key_id: str, text: str, pointer: str | None = "/preset") -> Preset:
    """The preset of a reference, `name` or `name@version`. Raises `unknown_preset`."""
    try:
        name, version = reference(text)
    except ValueError as error:
        raise NightshiftError("unknown_preset", f"{error}.", pointer=pointer) from error
    query = select(presets).where(presets.c.key_id == key_id, presets.c.name == name)
    query = query.where(presets.c.retired_at.is_(None) if version is None else presets.c.version == version)
    row = tx.execute(query.order_by(presets.c.version.desc()).limit(1)).one_or_none()
    if row is not None:
        return _from_row(row)
    built_in = BUILT_IN.get(name)
    if built_in is not None and version in (None, built_in.version):
        return built_in
    names = ", ".join(preset.name for preset in listed(tx, key_id))
    raise NightshiftError(
        "unknown_preset", f"There is no preset {text!r}.", hint=f"There are: {names}.", pointer=pointer
    )


def resolve(tx: Tx, key_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A request's body with the preset it names merged in. Raises `unknown_preset`."""
    named = body.get("preset")
    return merged(get(tx, key_id, named), body) if isinstance(named, str) else dict(body)


def retire(tx: Tx, key_id: str, name: str) -> bool:
    """Gives a name up; jobs and batches that name a version keep it. False where there is no such preset."""
    mine = (presets.c.key_id == key_id, presets.c.name == name, presets.c.retired_at.is_(None))
    return bool(tx.execute(update(presets).where(*mine).values(retired_at=tx.now())).rowcount)


def _from_row(row: Row[Any]) -> Preset:
    return Preset(row.name, row.version, row.description, row.work)
