"""`python -m bench.nights`: plays a week of nights through, and says what held. Status 1 where something did not."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Sequence

import structlog

from bench import place
from bench.nights.week import Plan, Week, played

DATABASES = {"postgres": place.postgres, "sqlite": place.sqlite}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.nights", description=__doc__)
    parser.add_argument("--database", choices=DATABASES, help="left out: PostgreSQL, where it is installed")
    parser.add_argument("--url", help="an empty, migrated database in place of one made for the purpose")
    parser.add_argument("--episodes", type=int, default=Plan.episodes)
    parser.add_argument("--cards", type=int, default=Plan.cards)
    parser.add_argument("--speed", type=float, default=Plan.speed, help="seconds of audio that a card computes in one")
    parser.add_argument("--start", default=Plan.start, help="when the batch is submitted, with its offset from UTC")
    parser.add_argument("--kills", type=float, default=Plan.kills_per_hour, help="of processes, per hour of night")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where something did not hold."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # What schedulers say of jobs they rescue is not for whoever reads the verdict.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    plan = Plan(
        episodes=options.episodes, cards=options.cards, start=options.start, kills_per_hour=options.kills,
        speed=options.speed, seed=options.seed,
    )  # fmt: skip
    if options.url is not None:
        return _play(plan, options.url)
    with DATABASES[options.database or _there()]() as url:
        return _play(plan, url)


def _there() -> str:
    from tests.servers.postgres import postgres_programs

    return "postgres" if postgres_programs() is not None else "sqlite"


def _play(plan: Plan, url: str) -> int:
    began = time.monotonic()
    # Statements are made of thousands of short-lived objects without cycles.
    gc.set_threshold(200_000)
    week, figures = played(plan, url)
    _describe(week, time.monotonic() - began)
    for figure in figures:
        print(figure)
    failed = sum(not figure.held for figure in figures)
    print(f"{failed} of {len(figures)} did not hold" if failed else "all of it held")
    return int(failed > 0)


def _describe(week: Week, took: float) -> None:
    plan = week.plan
    ends = f"{week.finished:%Y-%m-%d %H:%M}" if week.finished else "never"
    print(
        f"{plan.episodes:,} episodes on {plan.cards} cards, {week.windows}, "
        f"submitted {week.start:%Y-%m-%d %H:%M} UTC, done {ends} UTC; "
        f"{week.world.database.engine.dialect.name}, {took:.0f} s"
    )
    deaths = Counter({process.name: process.deaths for process in week.processes})
    print(f"killed {deaths.total()} times: " + ", ".join(f"{name} {n}" for name, n in sorted(deaths.items())))
    yields: Counter[str] = sum((card.yields for card in week.cards), Counter())
    print("yielded: " + (", ".join(f"{why} {n}" for why, n in sorted(yields.items())) or "never"))


if __name__ == "__main__":
    sys.exit(main())
