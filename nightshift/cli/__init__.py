"""The `nightshift` command."""

from __future__ import annotations

import typer

from nightshift.cli import admin, batch, jobs, local, preset, say, schedule, segment, talk, voice

app = typer.Typer(
    help="Nightshift: a self-hosted queue for media models. Begin with `nightshift demo`.",
    epilog="Exit status: 0 done; 1 the job has no result, or doctor found a problem; 2 wrong usage; 3 the service "
    "refused; 4 it does not answer; 5 time is over; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
local.add_to(app)
jobs.add_to(app)
segment.add_to(app)
say.add_to(app)
talk.add_to(app)
voice.add_to(app)
batch.add_to(app)
schedule.add_to(app)
preset.add_to(app)
admin.add_to(app)


def main() -> None:
    app()
