"""Commands about presets: list, show, put, delete."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from nightshift.cli import exits, show
from nightshift.client import Client
from nightshift.errors import NightshiftClientError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="A preset's name.", metavar="NAME")]

preset_app = typer.Typer(help="Presets: named parameters, in versions.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    for name, command in (("list", list_presets), ("show", one), ("put", put), ("delete", delete)):
        preset_app.command(name)(command)
    app.add_typer(preset_app, name="preset")


def list_presets(as_json: AsJson = False) -> None:
    """List presets: your own, and those built in."""
    with exits.told(as_json), Client() as client:
        found = client.transport.call("GET", "/v1/presets")["items"]
        if as_json:
            show.as_json(found)
            return
        rows = (
            (preset["name"], str(preset["version"]), preset["engine"] or "", preset["description"]) for preset in found
        )
        show.table(["preset", "version", "engine", ""], rows)


def one(name: Name, as_json: AsJson = False) -> None:
    """Show a preset; an older version by name@version."""
    with exits.told(as_json), Client() as client:
        _show(client.transport.call("GET", f"/v1/presets/{name}"), as_json)


def put(
    name: Name,
    params: Annotated[str, typer.Option(help="Parameters, as a JSON object.")],
    engine: Annotated[str | None, typer.Option(help="See: nightshift engines.")] = None,
    kind: Annotated[str, typer.Option(help="separation, segmentation or tts.")] = "separation",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Keep a new version of a preset."""
    with exits.told(as_json), Client() as client:
        try:
            given = json.loads(params)
        except ValueError as error:
            raise NightshiftClientError(f"--params is not JSON: {error}") from error
        body = {"params": given, "kind": kind, "engine": engine, "description": description}
        _show(client.transport.call("PUT", f"/v1/presets/{name}", body=body), as_json)


def delete(name: Name, as_json: AsJson = False) -> None:
    """Give a preset up; jobs that name a version keep it."""
    with exits.told(as_json), Client() as client:
        client.transport.call("DELETE", f"/v1/presets/{name}")
        if as_json:
            show.as_json({"deleted": name})


def _show(preset: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show.as_json(preset)
        return
    rows = [
        ("description", preset["description"]),
        ("engine", preset["engine"] or "the kind's default"),
        ("params", json.dumps(preset["params"], ensure_ascii=False)),
    ]
    show.table(["", f"{preset['name']}@{preset['version']}"], [row for row in rows if row[1]])
