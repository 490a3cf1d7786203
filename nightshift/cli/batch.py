"""Commands about batches: planned, started, looked at, steered, and their results saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from nightshift.batches import MEDIA, Batch, Batches
from nightshift.cli import batch_show, exits, show
from nightshift.cli.batch_show import Rate
from nightshift.client import Client
from nightshift.errors import JobEnded, NightshiftClientError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BatchId = Annotated[str, typer.Argument(help="A batch's id.", metavar="BATCH")]

# Of a plan and a start alike.
Sources = Annotated[list[str] | None, typer.Argument(help="Files, http(s) addresses, s3://…, ids of uploads.")]
Rss = Annotated[str | None, typer.Option(help="A podcast's feed.")]
Since = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Of the feed: published since.")]
Until = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Of the feed: published until.")]
Title = Annotated[str | None, typer.Option(help="Of the feed: with this in the title.")]
Count = Annotated[int | None, typer.Option(min=1, help="Of the feed: at most this many, the newest.")]
S3 = Annotated[str | None, typer.Option(help="Objects of a bucket: s3://bucket/ and a prefix or pattern.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Of the bucket: not these; may be repeated.")]
Manifest = Annotated[Path | None, typer.Option(help="A file with a JSON object a line, each an item.")]
Folder = Annotated[Path | None, typer.Option(help="The files of a folder, which are uploaded.")]
Include = Annotated[str, typer.Option(help="Of the folder: files like this.")]
Preset = Annotated[str | None, typer.Option(help="Named parameters. See: nightshift preset list.")]
Engine = Annotated[str | None, typer.Option(help="See: nightshift engines.")]
Prompt = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="What to separate; may be repeated.")]
Format = Annotated[str | None, typer.Option("--format", help="flac, wav, mp3 or opus.")]
Name = Annotated[str | None, typer.Option(help="Shown wherever the batch is.")]
Window = Annotated[str | None, typer.Option(help="When it may run: '22:00-06:00 Europe/Madrid'.")]
Deadline = Annotated[str | None, typer.Option(help="When it should be done: 2026-03-01T08:00+01:00.")]
OnError = Annotated[str, typer.Option(help="skip or stop: what a wrong item does to the others.")]
Naming = Annotated[str | None, typer.Option(help="Names of the results: '{show}/{date}-{title}.{stem}.{ext}'.")]
OnlyNew = Annotated[
    bool | None, typer.Option("--only-new/--all", help="Leave out what an earlier batch took; so for feeds.")
]
Weight = Annotated[float, typer.Option(min=0.01, help="Share among your batches.")]
Callback = Annotated[str | None, typer.Option(help="Address that gets signed POSTs about the batch.")]
Deliver = Annotated[str | None, typer.Option(help="Also copy the results: s3://bucket/prefix/.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Of --deliver: replace what has the same names.")]
DeliverPictures = Annotated[bool, typer.Option("--pictures", help="Of --deliver: also the pictures of waveforms.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute anew what earlier jobs have computed already.")]
IdempotencyKey = Annotated[str | None, typer.Option(help="The same key makes one batch.")]

batch_app = typer.Typer(help="Batches: many jobs at once, run in their window.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    batch_app.command("plan")(_made(plan=True))
    batch_app.command("start")(_made(plan=False))
    batch_app.command("list")(list_batches)
    batch_app.command("retry-failed")(retry_failed)
    batch_app.command("show")(show_batch)
    for command in (watch, pause, resume, change, cancel, errors, download):
        batch_app.command()(command)
    app.add_typer(batch_app, name="batch")


def _made(plan: bool) -> Callable[..., None]:
    """`plan` and `start` take the same options."""

    def command(
        sources: Sources = None, rss: Rss = None, since: Since = None, until: Until = None, title: Title = None,
        count: Count = None, s3: S3 = None, exclude: Exclude = None, manifest: Manifest = None, folder: Folder = None,
        include: Include = MEDIA, preset: Preset = None, engine: Engine = None, prompt: Prompt = None,
        format: Format = None, name: Name = None, window: Window = None, deadline: Deadline = None,
        on_error: OnError = "skip", naming: Naming = None, only_new: OnlyNew = None, weight: Weight = 1.0,
        callback: Callback = None, deliver: Deliver = None, overwrite: Overwrite = False,
        pictures: DeliverPictures = False, idempotency_key: IdempotencyKey = None, no_cache: NoCache = False,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        with exits.told(as_json), Client() as client:
            request = {
                "name": name,
                "deadline": deadline,
                **origin(rss=rss, since=since, until=until, title=title, count=count, s3=s3, exclude=exclude),
                **work(
                    preset=preset, engine=engine, prompt=prompt, format=format, window=window, on_error=on_error,
                    naming=naming, only_new=only_new, weight=weight, callback=callback, deliver=deliver,
                    overwrite=overwrite, pictures=pictures, no_cache=no_cache,
                ),
            }  # fmt: skip
            batches = Batches(client)
            asked = present(request) | _local(batches, client, sources or [], manifest, folder, include)
            if plan:
                told = batches.plan(asked)
                if as_json:
                    show.as_json(told)
                else:
                    batch_show.plan(told)
                return
            batch = batches.start(asked, idempotency_key=idempotency_key)
            if as_json:
                show.as_json(batch.body)
            else:
                batch_show.started(batch)
            counts = batch.counts
            if batch.state == "failed" or (counts["rejected"] and not counts["total"]):
                raise JobEnded(batch.id, f"{batch.state}, without a job", batch.body["error"])

    command.__doc__ = (
        "Say what a batch would be, and make nothing but the uploads that it needs."
        if plan
        else "Start a batch. Prints its id."
    )
    return command


def origin(
    *, rss: str | None, since: datetime | None, until: datetime | None, title: str | None, count: int | None,
    s3: str | None, exclude: list[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """The feed or the bucket that the items of a batch come from, as the API takes it."""
    feed = {
        "url": rss,
        "since": since.date().isoformat() if since else None,
        "until": until.date().isoformat() if until else None,
        "title": title,
        "count": count,
    }
    return {
        "rss": present(feed) if rss else None,
        "s3": present({"pattern": s3, "exclude": exclude}) if s3 else None,
    }


def work(
    *, preset: str | None, engine: str | None, prompt: list[str] | None, format: str | None, window: str | None,
    on_error: str, naming: str | None, only_new: bool | None, weight: float, callback: str | None, deliver: str | None,
    overwrite: bool, pictures: bool, no_cache: bool,
) -> dict[str, Any]:  # fmt: skip
    """What is to be done with the items of a batch, wherever they come from, as the API takes it."""
    if (overwrite or pictures) and not deliver:
        raise NightshiftClientError("--overwrite and --pictures say how to --deliver")
    params: dict[str, Any] = {"prompts": prompt} if prompt else {}
    if format:
        params["output"] = {"format": format}
    return {
        "preset": preset,
        "engine": engine,
        "params": params or None,
        "window": window,
        "on_error": on_error,
        "naming": naming,
        "only_new": only_new,
        "weight": weight,
        "cache": False if no_cache else None,
        "callback": {"url": callback} if callback else None,
        "deliver": {"to": deliver, "overwrite": overwrite, "pictures": pictures} if deliver else None,
    }


def present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _local(
    batches: Batches, client: Client, sources: list[str], manifest: Path | None, folder: Path | None, include: str
) -> dict[str, Any]:  # fmt: skip
    """The member of the request for what lies on this machine; files are uploaded."""
    if sum(bool(given) for given in (sources, manifest, folder)) > 1:
        raise NightshiftClientError("give sources, --manifest or --folder, not several of them")
    if manifest is not None:
        return {"manifest": client.upload(manifest)}
    with show.bars() as bars:
        sending = bars.add_task("sending", total=1.0, more="", visible=False)

        def tell(done: int, total: int) -> None:
            bars.update(sending, completed=done, total=total, visible=True)

        if folder is not None:
            for path in batches.files(folder, include):
                if not path.stat().st_size:
                    show.notes.print(f"left out: {path} has no bytes", soft_wrap=True)
            return batches.source(batches.folder(folder, include, tell))
        if sources:
            items = [{"input": client.input(source, None, tell), "title": Path(source).stem} for source in sources]
            return batches.source(items)
    return {}


def list_batches(
    state: Annotated[list[str] | None, typer.Option(help="Only batches in this state; may be repeated.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Only batches of this schedule.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    with exits.told(as_json), Client() as client:
        found: list[Batch] = []
        for batch in Batches(client).list(state=state or (), schedule=schedule, page=min(limit, 200)):
            found.append(batch)
            if len(found) == limit:
                break
        if as_json:
            show.as_json([batch.body for batch in found])
            return
        batch_show.listed(found)


def show_batch(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Show a batch: what it is, where it stands, and when it will be done."""
    with exits.told(as_json), Client() as client:
        batch = Batches(client).get(batch_id)
        if as_json:
            show.as_json(batch.body)
            return
        batch_show.whole(batch)


def watch(
    batch_id: BatchId,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    poll: Annotated[float, typer.Option(min=0.1, help="Look so often, in seconds.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Follow a batch to its end. Exits with 1 where an item has no result, or one that could not be delivered."""
    with exits.told(as_json), Client() as client:
        batch = Batches(client).get(batch_id)
        rate = Rate()
        last: dict[str, Any] = {}
        with Live(console=show.notes, auto_refresh=False, transient=True) as live:
            for seen in batch.follow(timeout, poll):
                rate.add(time.monotonic(), seen)
                if as_json:
                    show.line_of_json(seen.body)
                elif show.notes.is_terminal:
                    running = seen.items(state=["running"]) if seen.counts["running"] else ()
                    live.update(batch_show.board(seen, rate, running), refresh=True)
                elif (told := batch_show.standing(seen)) != last:
                    last = told
                    show.notes.print(f"{seen.id}: {batch_show.news(seen, rate)}", soft_wrap=True)
        if not as_json:
            show.out.print(f"{batch.id} {batch.state}: {batch_show.line(batch)}", soft_wrap=True)
        if not batch.flawless:
            raise JobEnded(batch.id, f"{batch.state}, not all of it with a result", batch.body["error"])


def pause(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Start nothing more of a batch; what runs yields at its next block."""
    _steer(batch_id, as_json, lambda batch: batch.pause())


def resume(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Let a paused batch go on."""
    _steer(batch_id, as_json, lambda batch: batch.resume())


def change(
    batch_id: BatchId,
    window: Annotated[str | None, typer.Option(help="When it may run from now on; 'always': at any time.")] = None,
    deadline: Annotated[str | None, typer.Option(help="When it should be done; 'none': whenever.")] = None,
    weight: Annotated[float | None, typer.Option(min=0.01, help="Share among your batches.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a batch another window, deadline or share, from now on."""
    asked = present({"window": window, "deadline": deadline, "weight": weight})
    nothing = {"window": "always", "deadline": "none"}
    members = {name: None if nothing.get(name) == value else value for name, value in asked.items()}
    _steer(batch_id, as_json, lambda batch: batch.change(**members))


def cancel(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Cancel what is left of a batch. Running jobs stop within seconds."""
    _steer(batch_id, as_json, lambda batch: batch.cancel())


def retry_failed(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Run again what failed or expired, and try again to deliver what could not be delivered."""
    with exits.told(as_json), Client() as client:
        batch = Batches(client).get(batch_id)
        again, refused, deliveries = batch.retry_failed()
        if as_json:
            show.as_json({"again": again, "refused": refused, "deliveries": deliveries, "batch": batch.body})
            return
        told = (f", {refused} cannot" if refused else "") + (f", {deliveries} deliveries" if deliveries else "")
        show.out.print(f"{again} again{told}")


def _steer(batch_id: str, as_json: bool, do: Callable[[Batch], Batch]) -> None:
    with exits.told(as_json), Client() as client:
        batch = do(Batches(client).get(batch_id))
        if as_json:
            show.as_json(batch.body)
            return
        show.out.print(f"{batch.id} {batch.state}: {batch_show.line(batch)}", soft_wrap=True)


def errors(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Show what went wrong: items that could not become jobs, jobs without a result, what was not delivered; and, for
    people, results with a warning, such as those of recordings that are cut short."""
    with exits.told(as_json), Client() as client:
        batch = Batches(client).get(batch_id)
        for line in batch.errors():
            if as_json:
                show.line_of_json(line)
            else:
                show.out.print(batch_show.wrong(line), soft_wrap=True)
        if not as_json:
            for line in batch.output():
                if line["warnings"]:
                    show.out.print(batch_show.warned(line), soft_wrap=True)


def download(
    batch_id: BatchId,
    folder: Annotated[Path, typer.Argument(help="Where to; by the names of the batch's template.")] = Path(),
    pictures: Annotated[bool, typer.Option("--pictures", help="Also the pictures of waveforms.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Save the results. What is there already is not fetched again."""
    with exits.told(as_json), Client() as client:
        for path in Batches(client).get(batch_id).download(folder, pictures=pictures, overwrite=force):
            if as_json:
                show.line_of_json(str(path))
            else:
                show.out.print(str(path), soft_wrap=True)
