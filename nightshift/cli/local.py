"""Commands that work on this machine: up, demo, migrate, doctor."""

from __future__ import annotations

import errno
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from common import engines, log, settings
from common.db import migrate as migrations
from nightshift.cli import exits, show

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    for command in (up, demo, migrate, doctor):
        app.command()(command)


def up(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the API; 0: any that is free.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes on the CPU.")] = 1,
) -> None:
    """Run everything on this machine, until Ctrl-C. That is API, web page, scheduler, callbacks and workers."""
    from nightshift import up as embedded

    made = settings.load()
    if port is not None:
        made = made.model_copy(update={"port": port})
    log.setup(made)

    def ready(stack: embedded.Stack) -> None:
        show.notes.print(Text("\nNightshift is up.", "bold green"))
        show.notes.print(f"  page   {stack.page}", soft_wrap=True)
        show.notes.print(f"  API    {stack.place.url}/v1   (documentation: {stack.place.url}/v1/docs)", soft_wrap=True)
        show.notes.print(f"  files  {made.home}", soft_wrap=True)
        show.notes.print("  try    nightshift submit FILE --prompt speech --wait\n")

    with exits.told(False):
        sys.exit(embedded.run(embedded.prepare(made, cpus=workers), ready))


def demo(
    file: Annotated[Path | None, typer.Argument(help="Any audio, or video with sound; else a generated mix.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("nightshift-demo"),
    as_json: AsJson = False,
) -> None:
    """Take the speech out of one recording. The whole service is started for it, and is gone afterwards."""
    from nightshift import demo as demonstration

    with exits.told(as_json):
        if file is not None and not file.is_file():
            raise FileNotFoundError(errno.ENOENT, "There is no such file", str(file))
        mixed = None
        if file is None:
            show.notes.print("Making a spoken passage over music and noise …")
            mixed = demonstration.mix(out)
        source = file or (mixed.path if mixed else out)
        show.notes.print("Starting API, scheduler, callbacks and a worker …")
        with demonstration.service() as client:
            job = client.separate(source, prompts=["speech"])
            with show.bars() as bars:
                job.wait(tell=show.Following(bars, source.name))
            folder = out if mixed else out / source.stem
            paths = job.download(folder, overwrite=True)
            body = job.body
        found: dict[str, Any] = {path.stem if path.suffix != ".json" else path.name: str(path) for path in paths}
        by_name = {output["name"]: path for output, path in zip(body["outputs"], paths, strict=True)}
        if mixed is not None:
            before, after = demonstration.gain_db(mixed, by_name["speech"])
            found["si_sdr"] = {
                "mix_db": round(before, 2),
                "speech_db": round(after, 2),
                "gain_db": round(after - before, 2),
            }
        if as_json:
            show.as_json({"outputs": {name: str(path) for name, path in by_name.items()}, **_measured(found)})
            return
        for warning in body["warnings"]:
            show.out.print(Text.assemble(("note", "yellow"), f": {warning['message']}"))
        show.out.print(Text("\nDone.", "bold"))
        for output, path in zip(body["outputs"], paths, strict=True):
            show.out.print(f"  {output['name']:<14} {path}", soft_wrap=True)
        stem = next(output for output in body["outputs"] if output["name"] == "speech")
        rate = body["metrics"].get("times_real_time")
        told = f"{stem['duration']:.1f} s, {stem['channels']} channel(s) at {stem['sample_rate']} Hz"
        show.out.print(f"\n{told}" + (f"; {rate:.0f} times real time" if rate else ""))
        if "si_sdr" in found:
            it = found["si_sdr"]
            said = (
                f"Speech against the clean speech that was mixed: SI-SDR {it['mix_db']:.1f} dB before, "
                f"{it['speech_db']:.1f} dB after: "
            )
            gain = f"{it['gain_db']:+.1f} dB", "bold green"
            show.out.print(Text.assemble(said, gain, ", measured."), soft_wrap=True)


def _measured(found: dict[str, Any]) -> dict[str, Any]:
    return {"si_sdr": found["si_sdr"]} if "si_sdr" in found else {}


def migrate() -> None:
    """Bring the database to the newest schema."""
    made = settings.load()
    log.setup(made)
    with exits.told(False):
        migrations.upgrade(made.database)
        show.notes.print("The database is at the newest schema.")


def doctor(as_json: AsJson = False) -> None:
    """Check every part, and say how to mend it. Exits with 1 where there is a problem."""
    from nightshift.doctor import examine

    made = settings.load()
    engines.register(made.extra_engines)
    findings = []
    for finding in examine(made):
        findings.append(finding)
        if not as_json:
            colour = {"ok": "green", "warning": "yellow", "problem": "red"}[finding.level]
            said = Text.assemble((f"{finding.level:<7}", colour), f" {finding.part:<10} {finding.says}")
            show.out.print(said, soft_wrap=True)
            if finding.mend:
                show.out.print(Text(f"                   {finding.mend}", "dim"), soft_wrap=True)
    if as_json:
        show.as_json([asdict(finding) for finding in findings])
    sys.exit(exits.JOB_ENDED if any(finding.level == "problem" for finding in findings) else exits.OK)
