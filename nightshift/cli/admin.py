"""Commands about the service: engines, queues, workers, keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from common import settings
from common.db import keys
from common.db.engine import Database
from common.db.keys import Scope
from nightshift.cli import exits, show
from nightshift.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

key_app = typer.Typer(
    help="API keys: create, list, update, usage, revoke.", no_args_is_help=True, rich_markup_mode=None
)


def add_to(app: typer.Typer) -> None:
    for command in (engines, queues, workers):
        app.command()(command)
    app.add_typer(key_app, name="key")


def engines(as_json: AsJson = False) -> None:
    """List engines, and whether they are ready."""
    with exits.told(as_json), Client() as client:
        found = client.engines()
        if as_json:
            show.as_json(found)
            return
        rows = (
            (
                engine["name"],
                engine["kind"],
                "ready" if engine["ready"] else f"not ready: {engine['missing']}",
                engine["summary"],
                engine["hint"] or "",
            )
            for engine in found
        )
        show.table(["engine", "kind", "", "does", "to get it"], rows)


def queues(as_json: AsJson = False) -> None:
    """Show how many jobs wait and run."""
    with exits.told(as_json), Client() as client:
        found = client.queues()
        if as_json:
            show.as_json(found)
            return
        columns = ["lane", "later", "waiting", "queued", "running", "workers"]
        show.table(columns, ([str(lane[name]) for name in columns] for lane in found["lanes"]))


def workers(as_json: AsJson = False) -> None:
    """List workers."""
    with exits.told(as_json), Client() as client:
        found = client.workers()
        if as_json:
            show.as_json(found)
            return
        rows = (
            (
                worker["name"],
                "alive" if worker["alive"] else "gone",
                worker["control"] or "",
                ", ".join(worker["lanes"] or []),
                ", ".join(worker["jobs"] or []),
            )
            for worker in found
        )
        show.table(["worker", "", "told to", "lanes", "runs"], rows)


@key_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="read, write, admin; may be repeated.")] = None,
    max_waiting: Annotated[int | None, typer.Option(min=1, help="Quota of unfinished jobs.")] = None,
    max_audio_hours: Annotated[float | None, typer.Option(min=0, help="Quota of hours of audio a day, UTC.")] = None,
    max_gb: Annotated[float | None, typer.Option(min=0, help="Quota of gigabytes in the store.")] = None,
    weight: Annotated[float, typer.Option(min=0.01, help="Share of the workers, relative to other keys.")] = 1.0,
    local: Annotated[bool, typer.Option("--local", help="Straight into the database: for the very first key.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key; its token is shown this once."""
    scopes = scope or [Scope.READ, Scope.WRITE]
    with exits.told(as_json):
        limits = {
            "max_waiting": max_waiting,
            "max_audio_hours_per_day": max_audio_hours,
            "max_bytes": None if max_gb is None else round(max_gb * 1e9),
            "weight": weight,
        }
        made = _create_local(name, scopes, limits) if local else _create(name, scopes, limits)
        if as_json:
            show.as_json(made)
            return
        show.notes.print(f"{made['id']} ({', '.join(made['scopes'])}). The token, which is shown only now:")
        show.out.print(made["token"], soft_wrap=True)


def _create(name: str, scopes: list[Scope], limits: dict[str, Any]) -> dict[str, Any]:
    body = {"name": name, "scopes": [str(scope) for scope in scopes], **limits}
    with Client() as client:
        return dict(client.transport.call("POST", "/v1/keys", body=body))


def _create_local(name: str, scopes: list[Scope], limits: dict[str, Any]) -> dict[str, Any]:
    database = Database(settings.load().database, pool_size=1)
    try:
        with database.write() as tx:
            key, token = keys.create(tx, name, scopes, **limits)
    finally:
        database.dispose()
    described = {**asdict(key), "scopes": sorted(key.scopes), "token": token}
    return {member: value for member, value in described.items() if not member.endswith("_at")}


@key_app.command("update")
def update_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY")],
    max_waiting: Annotated[str | None, typer.Option(help="Quota of unfinished jobs, or: default.")] = None,
    max_audio_hours: Annotated[
        str | None, typer.Option(help="Quota of hours of audio a day, UTC, or: default.")
    ] = None,
    max_gb: Annotated[str | None, typer.Option(help="Quota of gigabytes in the store, or: default.")] = None,
    weight: Annotated[float | None, typer.Option(min=0.01, help="Share of the workers.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a key's quotas and weight; what is not named stays."""
    with exits.told(as_json), Client() as client:
        changes: dict[str, Any] = {"weight": weight} if weight is not None else {}
        for member, given, unit in (
            ("max_waiting", max_waiting, 1),
            ("max_audio_hours_per_day", max_audio_hours, None),
            ("max_bytes", max_gb, 10**9),
        ):
            if given is not None:
                changes[member] = _quota(given, unit)
        changed = client.transport.call("PATCH", f"/v1/keys/{key_id}", body=changes)
        if as_json:
            show.as_json(changed)
            return
        rows = [(name, "default" if changed[name] is None else str(changed[name])) for name in _QUOTAS]
        show.table(["key", changed["id"]], [("name", changed["name"]), *rows, ("weight", str(changed["weight"]))])


_QUOTAS = ("max_waiting", "max_audio_hours_per_day", "max_bytes")


def _quota(given: str, unit: int | None) -> float | int | None:
    """A quota as it was typed; None for the default. unit: makes a whole number of it."""
    if given == "default":
        return None
    try:
        return float(given) if unit is None else round(float(given) * unit)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{given!r} is neither a number nor: default") from error


@key_app.command("usage")
def show_usage(as_json: AsJson = False) -> None:
    """Show what the key in use has of its quotas."""
    with exits.told(as_json), Client() as client:
        found = client.transport.call("GET", "/v1/keys/me")
        if as_json:
            show.as_json(found)
            return
        used = found["usage"]
        hours, most = used["max_audio_hours_per_day"], used["max_bytes"]
        rows = [
            ("jobs waiting", str(used["unfinished"]), str(used["max_waiting"])),
            ("audio today", f"{used['audio_hours_today']:g} h", "any" if hours is None else f"{hours:g} h"),
            ("stored", show.size(used["bytes_stored"]), "any" if most is None else show.size(most)),
        ]
        show.table(["", "used", "of"], rows)
        if used["held_until"]:
            show.out.print(f"Batches wait until {show.when(used['held_until'])}: the hours of today are used.")


@key_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List keys."""
    with exits.told(as_json), Client() as client:
        found = client.transport.call("GET", "/v1/keys")["items"]
        if as_json:
            show.as_json(found)
            return
        rows = (
            (k["id"], k["name"], ", ".join(k["scopes"]), "revoked" if k["revoked_at"] else "", show.age(k["used_at"]))
            for k in found
        )
        show.table(["key", "name", "scopes", "", "last used"], rows)


@key_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="KEY")], as_json: AsJson = False) -> None:
    """End a key at once; its jobs go on."""
    with exits.told(as_json), Client() as client:
        client.transport.call("DELETE", f"/v1/keys/{key_id}")
        if as_json:
            show.as_json({"revoked": key_id})
