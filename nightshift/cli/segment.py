"""The command `segment`: masks of what lies in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nightshift.cli import exits, jobs, show
from nightshift.client import Client


def add_to(app: typer.Typer) -> None:
    app.command()(segment)


def segment(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, http(s) addresses, s3://…, ids of uploads or jobs; several make one job.", metavar="IMAGE…"
        ),
    ],
    box: Annotated[
        list[str] | None,
        typer.Option("--box", "-b", help="X0,Y0,X1,Y1 in pixels: a mask of what is in it; may be repeated."),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option("--point", "-p", help="X,Y in pixels: it belongs to the thing; may be repeated.")
    ] = None,
    not_point: Annotated[
        list[str] | None, typer.Option("--not", "-n", help="X,Y in pixels: it does not; may be repeated.")
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Masks of all that is there, without prompts.")] = False,
    multimask: Annotated[bool, typer.Option("--multimask", help="Three masks a prompt, wider and narrower.")] = False,
    engine: Annotated[str | None, typer.Option(help="See: nightshift engines.")] = None,
    output: Annotated[str | None, typer.Option(help="With a job's id: which of its outputs.")] = None,
    priority: Annotated[str, typer.Option(help="interactive or batch.")] = "interactive",
    batch: Annotated[str | None, typer.Option(help="A label that groups jobs.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, kept with the job.")] = None,
    callback: Annotated[str | None, typer.Option(help="Address that gets a signed POST when the job ends.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key makes one job.")] = None,
    no_cache: jobs.NoCache = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result.")] = False,
    download: Annotated[Path | None, typer.Option(help="Wait, and save the results in this folder.")] = None,
    as_json: jobs.AsJson = False,
) -> None:
    """Find masks of what lies in images. Prints the job's id.

    By boxes and points, or of all that is there. Points without a box say together what is one thing; with one box they
    refine it.
    """
    prompts = _prompts(box or [], point or [], not_point or [], multimask)
    if auto == bool(prompts):
        raise typer.BadParameter("give --box or --point, or else --auto")
    with exits.told(as_json), Client() as client, show.bars() as bars:
        sending = bars.add_task("sending", total=1.0, more="", visible=False)
        job = client.segment(
            images if len(images) > 1 else images[0],
            prompts,
            automatic=auto,
            engine=engine,
            output=output,
            idempotency_key=idempotency_key,
            on_upload=lambda done, total: bars.update(sending, completed=done, total=total, visible=True),
            priority=priority,
            batch=batch,
            metadata=jobs.pairs(metadata),
            cache=not no_cache,
            callback_url=callback,
        )
        bars.remove_task(sending)
        if wait or download:
            jobs.wait_for(job, bars, as_json)
        saved = job.download(download, overwrite=False) if download else []
        bars.stop()
        jobs.print_submitted(job, saved, as_json)


def _prompts(
    boxes: Sequence[str], inside: Sequence[str], outside: Sequence[str], multimask: bool
) -> list[dict[str, Any]]:
    prompts: list[dict[str, Any]] = [{"box": _numbers(text, 4, "--box")} for text in boxes]
    if inside or outside:
        if len(prompts) > 1:
            raise typer.BadParameter("points go with one box or none: with several it is not clear which they mean")
        points = [_numbers(text, 2, "--point") for text in inside] + [_numbers(text, 2, "--not") for text in outside]
        prompts = [
            {**(prompts[0] if prompts else {}), "points": points, "labels": [1] * len(inside) + [0] * len(outside)}
        ]
    return [{**prompt, "multimask": True} if multimask else prompt for prompt in prompts]


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise typer.BadParameter(f"{option} takes {count} numbers with commas between them, not {text!r}")
    return numbers
