"""Commands about words: transcribe, converse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli import exits, jobs, show
from nightshift.client import Client

Wait = Annotated[bool, typer.Option("--wait", help="Wait for the result, and print it.")]
Download = Annotated[Path | None, typer.Option(help="Wait, and save the results in this folder.")]
Priority = Annotated[str, typer.Option(help="interactive or batch.")]
Batch = Annotated[str | None, typer.Option(help="A label that groups jobs.")]


def add_to(app: typer.Typer) -> None:
    app.command()(transcribe)
    app.command()(converse)


def transcribe(
    source: Annotated[str, typer.Argument(help="A file, an http(s) address, s3://…, an upload's or a job's id.")],
    language: Annotated[str | None, typer.Option(help="en, de …; left out: what is heard.")] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Into English.")] = False,
    engine: Annotated[str | None, typer.Option(help="See: nightshift engines.")] = None,
    output: Annotated[str | None, typer.Option(help="With a job's id: which of its outputs.")] = None,
    priority: Priority = "interactive",
    batch: Batch = None,
    no_cache: jobs.NoCache = False,
    wait: Wait = False,
    download: Download = None,
    as_json: jobs.AsJson = False,
) -> None:
    """Write down what is said in a recording. Prints the job's id, or the text where it waits for it."""
    with exits.told(as_json), Client() as client, show.bars() as bars:
        sending = bars.add_task("sending", total=1.0, more="", visible=False)
        job = client.transcribe(
            source,
            language=language,
            translate=translate,
            engine=engine,
            output=output,
            on_upload=lambda done, total: bars.update(sending, completed=done, total=total, visible=True),
            priority=priority,
            batch=batch,
            cache=not no_cache,
        )
        bars.remove_task(sending)
        if wait or download:
            jobs.wait_for(job, bars, as_json)
        saved = job.download(download, overwrite=False) if download else []
        said = job.text("text") if wait and not saved and not as_json else None
        bars.stop()
        if said is not None:
            show.out.print(said.rstrip("\n"), soft_wrap=True)
        else:
            jobs.print_submitted(job, saved, as_json)


def converse(
    question: Annotated[str | None, typer.Argument(help="The question, as text.")] = None,
    recording: Annotated[
        str | None, typer.Option("--recording", "-r", help="The question, spoken: a file, an address, an id.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Id of the job whose turn this one follows.")] = None,
    voice: Annotated[
        str | None, typer.Option("--voice", "-v", help="To answer in: a voice's id, or espeak:de.")
    ] = None,
    speech_engine: Annotated[str | None, typer.Option(help="Engine that speaks; see: nightshift engines.")] = None,
    instructions: Annotated[str | None, typer.Option(help="What the language model is told first.")] = None,
    engine: Annotated[str | None, typer.Option(help="llm or llm-local.")] = None,
    format: Annotated[str, typer.Option("--format", help="flac, wav, mp3 or opus.")] = "flac",
    priority: Priority = "interactive",
    batch: Batch = None,
    wait: Wait = False,
    download: Download = None,
    as_json: jobs.AsJson = False,
) -> None:
    """Ask a question, and hear the answer. Prints the job's id, or the answer where it waits for it.

    A language model answers it; the answer is spoken.
    """
    if (question is None) == (recording is None):
        raise typer.BadParameter("give a question, or else --recording")
    with exits.told(as_json), Client() as client, show.bars() as bars:
        speech: dict[str, object] = {"output": {"format": format}}
        if speech_engine is not None:
            speech["engine"] = speech_engine
        job = client.converse(
            question,
            recording=recording,
            previous=after,
            instructions=instructions,
            voice=voice,
            speech=speech,
            engine=engine,
            priority=priority,
            batch=batch,
        )
        if wait or download:
            jobs.wait_for(job, bars, as_json)
        saved = job.download(download, overwrite=False) if download else []
        said = job.text("answer") if wait and not as_json else None
        bars.stop()
        if said is not None:
            show.out.print(said.rstrip("\n"), soft_wrap=True)
        if said is None or saved:
            jobs.print_submitted(job, saved, as_json)
