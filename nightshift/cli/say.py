"""The command `say`: a text or a script spoken."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nightshift.cli import exits, jobs, show
from nightshift.client import Client


def add_to(app: typer.Typer) -> None:
    app.command()(say)


def say(
    text: Annotated[str | None, typer.Argument(help="What to say; - reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A file of plain text, UTF-8.")] = None,
    script: Annotated[
        Path | None, typer.Option(help="A JSON file: a list of turns, each with text, speaker and voice.")
    ] = None,
    voice: Annotated[
        str | None, typer.Option("--voice", "-v", help="Id of a voice of yours, or one of the engine: espeak:de.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="See: nightshift engines.")] = None,
    format: Annotated[str, typer.Option("--format", help="flac, wav, mp3 or opus.")] = "flac",
    bitrate: Annotated[int | None, typer.Option(help="kbit/s, for mp3 and opus.")] = None,
    rate: Annotated[int | None, typer.Option(help="Sample rate, Hz.")] = None,
    loudness: Annotated[float | None, typer.Option(help="LUFS of the whole.")] = None,
    speed: Annotated[float | None, typer.Option(help="0.5 to 2, where the engine can.")] = None,
    temperature: Annotated[float | None, typer.Option(help="How freely the engine draws, where it does.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
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
    """Speak a text, a file, or a script of several speakers. Prints the job's id."""
    if [text, file, script].count(None) != 2:
        raise typer.BadParameter("give a text, --file or --script, and only one of them")
    asked = {"sample_rate": rate, "loudness_lufs": loudness}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    with exits.told(as_json), Client() as client, show.bars() as bars:
        job = client.speak(
            _text(text, file) if script is None else None,
            script=None if script is None else _turns(script),
            voice=voice,
            engine=engine,
            seed=seed,
            temperature=temperature,
            speed=speed,
            format=format,  # type: ignore[arg-type]
            bitrate_kbps=bitrate,
            idempotency_key=idempotency_key,
            **chosen,
            priority=priority,
            batch=batch,
            metadata=jobs.pairs(metadata),
            cache=not no_cache,
            callback_url=callback,
        )
        if wait or download:
            jobs.wait_for(job, bars, as_json)
        saved = job.download(download, overwrite=False) if download else []
        bars.stop()
        jobs.print_submitted(job, saved, as_json)


def _text(text: str | None, file: Path | None) -> str:
    try:
        if file is not None:
            return file.read_text("utf-8-sig")
        return sys.stdin.read() if text == "-" else text or ""
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file or 'standard input'} is not UTF-8 text") from error


def _turns(path: Path) -> list[dict[str, Any]]:
    try:
        turns = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}") from error
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise typer.BadParameter(f"{path} is to hold a list of turns")
    return turns
