"""One process per card, each with that card alone in sight before anything in it is imported; restarts what dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.db import processes
from common.db.engine import Database
from common.queue import queue_names
from common.restarts import Backoff
from common.settings import Settings
from common.supervise import Program, Supervisor
from worker.cards import GraphicsCard

_log = log.get(__name__)

# A worker hears of its drain within a few seconds, then has `drain_seconds` for its block, then ends itself.
DRAIN_MARGIN_SECONDS = 30.0


@dataclass(frozen=True)
class Post:
    """A worker to be kept running: its name, the lanes it serves, and its card, None for a worker on the CPU."""

    name: str
    lanes: tuple[str, ...]
    card: GraphicsCard | None = None


def posts(
    cards: Sequence[GraphicsCard], cpus: int, host: str, *, lanes: tuple[str, ...] = (), models_on_cpu: bool = False
) -> list[Post]:
    """One per card, and `cpus` beside them. lanes: what all of them serve; empty: each what suits it.

    A card is kept free for what needs one where CPU workers do the rest.
    """
    on_card = lanes or (("gpu",) if cpus else ("gpu", "cpu"))
    on_cpu = lanes or (("cpu", "gpu") if models_on_cpu else ("cpu",))
    return [
        *(Post(f"gpu{card.index}@{host}", on_card, card) for card in cards),
        *(Post(f"cpu{n}@{host}", on_cpu) for n in range(cpus)),
    ]


def command(settings: Settings, post: Post) -> list[str]:
    """A Celery worker where there is a broker, else one that looks into the database."""
    if settings.broker is None:
        return [sys.executable, "-m", "worker.poll"]
    return [
        *(sys.executable, "-m", "celery", "--app", "worker.celery_app", "--quiet", "worker"),
        *("--hostname", post.name),
        *("--queues", ",".join(queue_names(settings.broker_prefix, post.lanes))),
        *("--loglevel", settings.log_level),
        # Workers need to know nothing of each other: the database does.
        *("--without-gossip", "--without-mingle"),
    ]


def environment(post: Post, threads: int = 0) -> dict[str, str]:
    """What tells the process its post. A worker on the CPU sees no card, so that none of its libraries opens one.

    threads: how many a worker on the CPU computes with, its share of the cores: libraries that each take every core
    stand in each other's way. 0: left to them.
    """
    told = {
        "CUDA_VISIBLE_DEVICES": post.card.uuid if post.card else "",
        "NIGHTSHIFT_WORKER_NAME": post.name,
        "NIGHTSHIFT_WORKER_LANES": ",".join(post.lanes),
        # Its own card is the only one in sight, hence the first.
        "NIGHTSHIFT_WORKER_DEVICE": "cuda:0" if post.card else "cpu",
    }
    if post.card and post.card.memory:
        told["NIGHTSHIFT_WORKER_MEMORY_BYTES"] = str(post.card.memory)
    if post.card is None and threads:
        told["OMP_NUM_THREADS"] = str(threads)
    return told


def share_of_cores(manned: Sequence[Post], cores: int) -> int:
    """Pure: threads for each worker on the CPU, at least one."""
    return max(1, cores // max(1, sum(post.card is None for post in manned)))


def launch(
    settings: Settings,
    manned: Sequence[Post],
    *,
    command: Callable[[Settings, Post], list[str]] = command,
    backoff: Backoff | None = None,
) -> int:
    """Keeps the posts manned until SIGTERM or SIGINT; then drains them. Returns the exit status of the launcher."""
    for post in manned:
        card = f"{post.card.name} ({post.card.uuid})" if post.card else "none"
        _log.info("worker", name=post.name, card=card, lanes=",".join(post.lanes))
    threads = share_of_cores(manned, os.cpu_count() or 1)
    programs = [
        Program(
            post.name,
            command(settings, post),
            environment(post, threads),
            grace_seconds=settings.drain_seconds + DRAIN_MARGIN_SECONDS,
        )
        for post in manned
    ]
    names = [post.name for post in manned]
    return Supervisor(programs, backoff=backoff, before_stop=lambda: drain(settings, names)).run()


def drain(settings: Settings, names: Collection[str]) -> None:
    """Orders workers to give their jobs back at the next block's end, and so that nothing is released for them.

    A paused one is only told to end: the order would make its successor forget the pause.
    """
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as tx:
            paused = {worker.name for worker in processes.list_all(tx, 0, "worker") if worker.control == "pause"}
        for name in names:
            if name not in paused:
                database.run(processes.order, name, "drain")
    except SQLAlchemyError as error:
        _log.warning("could not order the drain; the workers are only told to end", error=type(error).__name__)
    finally:
        database.dispose()
