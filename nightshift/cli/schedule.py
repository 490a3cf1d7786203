"""Commands about schedules: create, list, show, pause, resume, run, delete."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from nightshift.cli import exits, show
from nightshift.cli.batch import (
    S3,
    Count,
    Deliver,
    DeliverPictures,
    Engine,
    Exclude,
    Format,
    Naming,
    NoCache,
    OnError,
    OnlyNew,
    Overwrite,
    Preset,
    Prompt,
    Since,
    Title,
    Until,
    Weight,
    origin,
    present,
    work,
)
from nightshift.client import Client
from nightshift.errors import NightshiftClientError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ScheduleId = Annotated[str, typer.Argument(help="A schedule's id.", metavar="SCHEDULE")]

schedule_app = typer.Typer(help="Schedules: a batch for each tick of a clock.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    for name, command in (("create", create), ("list", list_schedules), ("show", one), ("delete", delete)):
        schedule_app.command(name)(command)
    for verb, text in (
        ("pause", "Make no batches until it is resumed."),
        ("resume", "Let a paused schedule tick again, from now on."),
    ):
        schedule_app.command(verb, help=text)(_steered(verb))
    schedule_app.command("run")(run)
    app.add_typer(schedule_app, name="schedule")


def create(
    name: Annotated[str, typer.Argument(help="Shown wherever its batches are.")],
    cron: Annotated[str, typer.Option(help="Minute, hour, day of month, month, day of week: '0 21 * * *'.")],
    timezone: Annotated[str, typer.Option(help="Whose clock it is: Europe/Madrid.")],
    rss: Annotated[str | None, typer.Option(help="A podcast's feed; only new episodes are taken.")] = None,
    since: Since = None,
    until: Until = None,
    title: Title = None,
    count: Count = None,
    s3: S3 = None,
    exclude: Exclude = None,
    preset: Preset = None,
    engine: Engine = None,
    prompt: Prompt = None,
    format: Format = None,
    window: Annotated[str | None, typer.Option(help="When its batches may run: '22:00-06:00 Europe/Madrid'.")] = None,
    deadline_after: Annotated[
        str | None, typer.Option(help="Its batches should be done so long after a tick: 9h, 1d12h, 90m.")
    ] = None,
    on_error: OnError = "skip",
    naming: Naming = None,
    only_new: OnlyNew = None,
    weight: Weight = 1.0,
    missed: Annotated[str, typer.Option(help="once or skip: what becomes of ticks nobody could act on.")] = "once",
    callback: Annotated[str | None, typer.Option(help="Address that gets signed POSTs about its batches.")] = None,
    deliver: Deliver = None,
    overwrite: Overwrite = False,
    pictures: DeliverPictures = False,
    no_cache: NoCache = False,
    as_json: AsJson = False,
) -> None:
    """Make a schedule. Prints its id."""
    with exits.told(as_json), Client() as client:
        batch = {
            **origin(rss=rss, since=since, until=until, title=title, count=count, s3=s3, exclude=exclude),
            **work(
                preset=preset, engine=engine, prompt=prompt, format=format, window=window, on_error=on_error,
                naming=naming, only_new=only_new, weight=weight, callback=callback, deliver=deliver,
                overwrite=overwrite, pictures=pictures, no_cache=no_cache,
            ),
        }  # fmt: skip
        body = {
            "name": name,
            "cron": cron,
            "timezone": timezone,
            "missed": missed,
            "batch": present(batch),
            "deadline_after": _seconds(deadline_after) if deadline_after else None,
        }
        made = client.transport.call("POST", "/v1/schedules", body=body)
        if as_json:
            show.as_json(made)
            return
        show.notes.print(f"next: {made['next_at']}")
        show.out.print(made["id"])


def _seconds(text: str) -> int:
    """Of `9h`, `1d12h` or `90m`."""
    found = re.fullmatch(r"(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m(?:in)?)?", text.strip())
    days, hours, minutes = (int(number or 0) for number in found.groups()) if found else (0, 0, 0)
    if not (days or hours or minutes):
        raise NightshiftClientError(f"--deadline-after is a time like 9h, 1d12h or 90m, not {text}")
    return (days * 24 + hours) * 3600 + minutes * 60


def list_schedules(as_json: AsJson = False) -> None:
    """List schedules, newest first."""
    with exits.told(as_json), Client() as client:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = client.transport.call("GET", "/v1/schedules", params={"limit": 200, "cursor": cursor})
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        if as_json:
            show.as_json(found)
            return
        rows = ((s["id"], s["name"], s["cron"], s["timezone"], s["next_at"] or "paused") for s in found)
        show.table(["schedule", "name", "cron", "", "next"], rows)


def one(schedule_id: ScheduleId, as_json: AsJson = False) -> None:
    """Show a schedule and what became of its last ticks."""
    with exits.told(as_json), Client() as client:
        schedule = client.transport.call("GET", f"/v1/schedules/{schedule_id}")
        ticks = client.transport.call("GET", f"/v1/schedules/{schedule_id}/ticks")["items"]
        if as_json:
            show.as_json({**schedule, "ticks": ticks})
            return
        when = schedule["next_at"] or "paused"
        show.out.print(f"{schedule['name']}: {schedule['cron']} {schedule['timezone']}, next: {when}", soft_wrap=True)
        rows = (
            (tick["tick"], tick["outcome"], tick["batch"] or (tick["error"] or {}).get("message", "")) for tick in ticks
        )
        show.table(["tick", "", "batch"], rows)


def run(schedule_id: ScheduleId, as_json: AsJson = False) -> None:
    """Make a batch now, beside the clock. Prints its id."""
    with exits.told(as_json), Client() as client:
        done = client.transport.call("POST", f"/v1/schedules/{schedule_id}/run")
        if as_json:
            show.as_json(done)
            return
        show.out.print(done["batch"])


def delete(schedule_id: ScheduleId, as_json: AsJson = False) -> None:
    """Delete a schedule; its batches stay."""
    with exits.told(as_json), Client() as client:
        client.transport.call("DELETE", f"/v1/schedules/{schedule_id}")
        if as_json:
            show.as_json({"deleted": schedule_id})


def _steered(verb: str) -> Callable[..., None]:
    def command(schedule_id: ScheduleId, as_json: AsJson = False) -> None:
        with exits.told(as_json), Client() as client:
            schedule = client.transport.call("POST", f"/v1/schedules/{schedule_id}/{verb}", repeatable=True)
            if as_json:
                show.as_json(schedule)
                return
            show.out.print(f"{schedule['id']} {'paused' if schedule['paused'] else schedule['next_at']}")

    return command
