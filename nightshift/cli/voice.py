"""Commands about voices: add, list, confirm, delete."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli import exits, show
from nightshift.cli.jobs import AsJson
from nightshift.client import Client
from nightshift.voices import Voice

VoiceId = Annotated[str, typer.Argument(help="A voice's id.", metavar="VOICE")]

voice_app = typer.Typer(help="Voices: add, list, confirm, delete.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    app.add_typer(voice_app, name="voice")


@voice_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    recording: Annotated[str, typer.Argument(help="5 to 180 s of one person speaking: a file, an address, an id.")],
    given_by: Annotated[str, typer.Option(help="Who speaks there, and agreed.")],
    purpose: Annotated[str, typer.Option(help="What they agreed to.")],
    on: Annotated[str | None, typer.Option(help="When they did, 2026-01-31; left out: today.")] = None,
    transcript: Annotated[
        str | None, typer.Option(help="The exact words of the recording, or a file of them; left out: drafted.")
    ] = None,
    transcriber: Annotated[str | None, typer.Option(help="Engine that writes down what is said and when.")] = None,
    output: Annotated[str | None, typer.Option(help="With a job's id: which of its outputs.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is prepared.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a voice of a recording. Prints its id."""
    with exits.told(as_json), Client() as client:
        consent = {
            "given_by": given_by,
            "date": on or datetime.now().astimezone().date().isoformat(),
            "purpose": purpose,
        }
        voice = client.create_voice(
            name, recording, consent=consent, transcript=_words(transcript), transcriber=transcriber, output=output
        )
        if wait:
            voice.wait()
        if as_json:
            show.as_json(voice.body)
            return
        show.out.print(voice.id)
        if voice.needs == "transcript":
            show.notes.print(_draft(voice), soft_wrap=True)


@voice_app.command("list")
def list_voices(as_json: AsJson = False) -> None:
    """List voices, newest first."""
    with exits.told(as_json), Client() as client:
        found = list(client.voices())
        if as_json:
            show.as_json([voice.body for voice in found])
            return
        rows = (
            (voice.id, voice.name, voice.state, _remark(voice), voice.body["consent"]["given_by"]) for voice in found
        )
        show.table(["voice", "name", "", "", "consent of"], rows)


@voice_app.command("confirm")
def confirm(
    voice_id: VoiceId,
    transcript: Annotated[
        str | None, typer.Option(help="The exact words of the excerpt, or a file of them; left out: those drafted.")
    ] = None,
    listen: Annotated[Path | None, typer.Option(help="Only save the excerpt here, to listen to it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is heard in a voice's excerpt.

    Its words are confirmed or corrected, and the voice is ready.
    """
    with exits.told(as_json), Client() as client:
        voice = client.voice(voice_id)
        if listen is not None:
            saved = voice.listen(listen)
            show.as_json({"file": str(saved), "transcript": voice.transcript}) if as_json else show.out.print(
                str(saved)
            )
            if not as_json and voice.transcript:
                show.notes.print(voice.transcript, soft_wrap=True)
            return
        voice.confirm(_words(transcript))
        show.as_json(voice.body) if as_json else show.out.print(f"{voice.id} {voice.state}")


@voice_app.command("delete")
def delete(voice_id: VoiceId, as_json: AsJson = False) -> None:
    """Delete a voice with its audio."""
    with exits.told(as_json), Client() as client:
        client.voice(voice_id).delete()
        if as_json:
            show.as_json({"deleted": voice_id})


def _words(given: str | None) -> str | None:
    """A text, or that of a file of this name."""
    if given is None or len(given) > 255 or "\n" in given or not Path(given).is_file():
        return given
    return Path(given).read_text("utf-8-sig").strip()


def _remark(voice: Voice) -> str:
    if voice.error:
        return f"{voice.error['code']}: {voice.error['message']}"
    return {"preparation": "is being prepared", "transcript": "confirm its transcript"}.get(voice.needs or "", "")


def _draft(voice: Voice) -> str:
    assert voice.excerpt is not None
    place = f"{voice.excerpt['start']:.2f} to {voice.excerpt['end']:.2f} s"
    heard = f"was heard as: {voice.transcript}" if voice.transcript else "is to be written down."
    listen = f"Listen: nightshift voice confirm {voice.id} --listen excerpt.flac; then confirm its words."
    return f"What is said from {place} {heard}\n{listen}"
