"""`python -m worker`: one worker per card, or `--cpu` for workers without."""

from __future__ import annotations

import argparse
import socket
import sys

import pynvml

from common import log, settings
from common.engines import Lane
from common.restarts import EX_CONFIG
from worker import cards
from worker.launcher import launch, posts


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Runs one worker per NVIDIA card.")
    parser.add_argument(
        "--cpu",
        nargs="?",
        type=int,
        const=1,
        default=0,
        metavar="N",
        help="N workers on the CPU, none on cards",
    )
    parser.add_argument("--cards", action="store_true", help="with --cpu: one worker per card as well")
    parser.add_argument(
        "--lanes", default="", metavar="LANES", help="what every worker serves, comma-separated: cpu, gpu"
    )
    options = parser.parse_args(arguments)
    options.lanes = tuple(lane.strip() for lane in options.lanes.split(",") if lane.strip())
    if unknown := [lane for lane in options.lanes if lane not in list(Lane)]:
        parser.error(f"there is no lane {unknown[0]!r}; lanes are {', '.join(Lane)}")
    if options.cpu < 0:
        parser.error("--cpu wants a number of workers")
    return options


def main(arguments: list[str] | None = None, nvml: cards.Nvml = pynvml) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    made = settings.load()
    log.setup(made)
    found = cards.Found(())
    if options.cards or not options.cpu:
        found = cards.find(nvml, made.cuda_visible_devices)
        if not found.cards:
            sys.stderr.write(
                f"No card for a worker. {found.why}\n"
                "Run `python -m worker --cpu` for a worker on the CPU. With a card in the machine, see that\n"
                "`nvidia-smi` lists it; a container needs to be given access to it (`--gpus all`).\n"
            )
            return EX_CONFIG
    manned = posts(
        found.cards, options.cpu, socket.gethostname(), lanes=options.lanes, models_on_cpu=made.models_on_cpu
    )
    return launch(made, manned)


if __name__ == "__main__":
    sys.exit(main())
