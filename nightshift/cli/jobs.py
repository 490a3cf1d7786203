"""Commands about jobs: submit, jobs, job, watch, results, cancel, retry, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from nightshift.cli import exits, show
from nightshift.client import Client, Job

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(help="A job's id.", metavar="JOB")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute anew what an earlier job has computed already.")]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs.", metavar="JOB…")]


def add_to(app: typer.Typer) -> None:
    app.command()(submit)
    app.command("jobs")(list_jobs)
    app.command("job")(one_job)
    for command in (watch, results, cancel, retry, delete, bulk):
        app.command()(command)


def submit(
    source: Annotated[str, typer.Argument(help="A file, an http(s) address, s3://…, an upload's or a job's id.")],
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to separate; several make several stems.")],
    engine: Annotated[str | None, typer.Option(help="See: nightshift engines.")] = None,
    only: Annotated[str | None, typer.Option(help="target or residual, where not both are wanted.")] = None,
    channels: Annotated[str, typer.Option(help="preserve or mono.")] = "preserve",
    quality: Annotated[str, typer.Option(help="reference, standard or draft.")] = "standard",
    format: Annotated[str, typer.Option("--format", help="flac, wav, mp3 or opus.")] = "flac",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    output: Annotated[str | None, typer.Option(help="With a job's id: which of its outputs.")] = None,
    priority: Annotated[str, typer.Option(help="interactive or batch.")] = "interactive",
    batch: Annotated[str | None, typer.Option(help="A label that groups jobs.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, kept with the job.")] = None,
    callback: Annotated[str | None, typer.Option(help="Address that gets a signed POST when the job ends.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key makes one job.")] = None,
    no_cache: NoCache = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result.")] = False,
    download: Annotated[Path | None, typer.Option(help="Wait, and save the results in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a separation. Prints the job's id."""
    with exits.told(as_json), Client() as client, show.bars() as bars:
        sending = bars.add_task("sending", total=1.0, more="", visible=False)
        job = client.separate(
            source,
            prompt,
            engine=engine,
            outputs=[only] if only else ["target", "residual"],  # type: ignore[list-item]
            channels=channels,  # type: ignore[arg-type]
            quality=quality,  # type: ignore[arg-type]
            seed=seed,
            format=format,  # type: ignore[arg-type]
            priority=priority,  # type: ignore[arg-type]
            batch=batch,
            metadata=pairs(metadata),
            cache=not no_cache,
            callback_url=callback,
            output=output,
            idempotency_key=idempotency_key,
            on_upload=lambda done, total: bars.update(sending, completed=done, total=total, visible=True),
        )
        bars.remove_task(sending)
        if wait or download:
            wait_for(job, bars, as_json)
        saved = job.download(download, overwrite=False) if download else []
        bars.stop()
        print_submitted(job, saved, as_json)


def pairs(metadata: list[str] | None) -> dict[str, str]:
    """NAME=VALUE each."""
    parted = (pair.partition("=") for pair in metadata or [])
    return {name: value for name, _, value in parted}


def wait_for(job: Job, bars: Any, as_json: bool, timeout: float | None = None) -> None:
    if not as_json:
        show.notes.print(job.id)
    job.wait(timeout, show.Following(bars, job.id) if not as_json else None)
    if not as_json and (taken := show.taken(job)):
        show.notes.print(f"taken from {taken}", soft_wrap=True)


def print_submitted(job: Job, saved: list[Path], as_json: bool) -> None:
    if as_json:
        show.as_json({**job.body, "files": [str(path) for path in saved]} if saved else job.body)
    elif saved:
        for path in saved:
            show.out.print(str(path), soft_wrap=True)
    else:
        show.out.print(job.id)


def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only jobs of this engine.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only jobs with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with exits.told(as_json), Client() as client:
        found: list[Job] = []
        for job in client.jobs(state=state or (), engine=engine, batch=batch, page=min(limit, 200)):
            found.append(job)
            if len(found) == limit:
                break
        if as_json:
            show.as_json([job.body for job in found])
            return
        rows = ((j.id, show.state(j), j.body["engine"], show.age(j.body["created_at"]), _remark(j)) for j in found)
        show.table(["job", "state", "engine", "age", ""], rows)


def _remark(job: Job) -> str:
    if job.error and job.state != "succeeded":
        return f"{job.error['code']}: {job.error['message']}"
    if expiring := show.expiry(job.body):
        return expiring
    return show.progress(job) or (", ".join(o["name"] for o in job.outputs if o["role"] in ("stem", "mask", "speech")))


def one_job(
    job_id: JobId,
    log: Annotated[bool, typer.Option("--log", help="Its log as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a job."""
    with exits.told(as_json), Client() as client:
        job = client.job(job_id)
        events = job.events() if log else []
        if as_json:
            show.as_json({**job.body, "events": events} if log else job.body)
            return
        show.out.print(Text(f"{job.id} ", "bold"), show.state(job), f"({job.body['reason']})")
        rows = [
            ("engine", f"{job.body['engine']}: {show.wanted(job)}" if show.wanted(job) else job.body["engine"]),
            ("input", show.inputs(job)),
            ("progress", show.progress(job)),
            (
                "attempts",
                f"{job.body['attempt']}, of which {job.body['failures']} failed" if job.body["attempt"] else "",
            ),
            ("worker", job.body["worker"] or ""),
            ("taken from", show.taken(job)),
            ("waits", _held(job)),
            ("expires", job.body["expires_at"] or ""),
            (
                "error",
                f"{job.error['code']}: {job.error['message']} {job.error.get('hint') or ''}" if job.error else "",
            ),
            *((warning["code"], warning["message"]) for warning in job.warnings),
            *((output["name"], f"{output['filename']}, {show.size(output['bytes'])}") for output in job.outputs),
        ]
        show.table(["", ""], [(name, value) for name, value in rows if value])
        for event in events:
            show.out.print(Text.assemble((event["at"], "dim"), f" {_event(event)}"), soft_wrap=True)


def _held(job: Job) -> str:
    held = (job.body["queue"] or {}).get("held_until")
    return f"for its key's quota until {show.when(held)}" if held else ""


def _event(event: dict[str, Any]) -> str:
    data = event["data"]
    if event["type"] == "log":
        return f"{data['level']}: {data['message']}"
    worker = f" by {data['worker']}" if data.get("worker") else ""
    return f"{data['state']} ({data['reason']}){worker}"


def watch(
    job_ids: JobIds,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow jobs to their end. Exits with 1 where one has no result."""
    with exits.told(as_json), Client() as client, show.bars() as bars:
        for job_id in job_ids:
            job = client.job(job_id)
            following = show.Following(bars, job.id)
            job.wait(timeout, (lambda j: show.line_of_json(j.body)) if as_json else following)


def results(
    job_id: JobId,
    download: Annotated[Path | None, typer.Option(help="Save the outputs in this folder.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only the output of this name; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a job's outputs and links, or save them."""
    with exits.told(as_json), Client() as client:
        job = client.job(job_id)
        if download is not None:
            paths = job.download(download, only=only or (), overwrite=force)
            if as_json:
                show.as_json([str(path) for path in paths])
            else:
                for path in paths:
                    show.out.print(str(path), soft_wrap=True)
            return
        found = job.results()
        if as_json:
            show.as_json(found)
            return
        for output in found["outputs"]:
            if not only or output["name"] in only:
                show.out.print(f"{output['name']:<14} {show.size(output['bytes']):>9}  {output['url']}", soft_wrap=True)


def cancel(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Cancel jobs. A running one stops within seconds."""
    _each(job_ids, as_json, lambda job: job.cancel())


def retry(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Run jobs again that ended without result."""
    _each(job_ids, as_json, lambda job: job.retry())


def _each(job_ids: list[str], as_json: bool, do: Any) -> None:
    with exits.told(as_json), Client() as client:
        done = [do(client.job(job_id)) for job_id in job_ids]
        if as_json:
            show.as_json([job.body for job in done])
            return
        for job in done:
            stopping = ["(stopping)"] if job.body["cancel_requested"] and not job.ended else []
            show.out.print(job.id, show.state(job), *stopping)


def bulk(
    action: Annotated[str, typer.Argument(help="cancel, retry or delete.")],
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only jobs of this engine.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only jobs with this label.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many it would be, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel, retry or delete all jobs that fit."""
    with exits.told(as_json), Client() as client:
        which = {"state": state, "kind": kind, "engine": engine, "batch": batch}
        done = client.act(action, {name: value for name, value in which.items() if value}, dry_run=dry_run)
        if as_json:
            show.as_json(done)
            return
        refused = f", {done['refused']} cannot" if done["refused"] else ""
        show.out.print(f"{done['matched']} would be" if dry_run else f"{done['done']} done{refused}")


def delete(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Delete jobs that have ended, and their results."""
    with exits.told(as_json), Client() as client:
        for job_id in job_ids:
            client.job(job_id).delete()
        if as_json:
            show.as_json({"deleted": job_ids})
