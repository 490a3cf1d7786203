"""What a submission costs: POST /v1/jobs against a bare Flask view with one INSERT, on the same server and database.

Both are served by gunicorn with the API's own settings, on loopback, and called over kept connections, in turns. The
service's requests carry a key to be checked, an Idempotency-Key, and an address for the callback. `submit` is a
submission that is released and rung in Celery's broker at once, `submit-waiting` one that stays behind a full queue.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import delete
from ulid import ULID

from bench import bare_flask, place
from bench.figures import Figure, Goal, figure, in_turns
from bench.load import Load, post, send
from bench.scale import Scale
from common.db.tables import events, jobs
from tests.house import House

GOAL = Goal(">=", 0.7)
CLIENTS = 4
# More than a repetition submits: every one of its jobs finds room in the queue.
AHEAD = 1_000
BODY = {
    "input": {"url": "https://media.example/episode.mp3"},
    "engine": "rnnoise",
    "params": {"prompts": ["speech"]},
    "callback": {"url": "https://receiver.example/hook"},
}
BASELINE = "a bare Flask view with one INSERT, requests per second"


def run(scale: Scale) -> Iterator[Figure]:
    repetitions, count = scale.pick(quick=(2, 8), normal=(15, 200))
    with place.postgres() as url, place.redis() as redis:
        for name, ahead, what in (
            ("submit", AHEAD, "POST /v1/jobs, released and rung at once"),
            ("submit-waiting", 1, "POST /v1/jobs behind a full queue"),
        ):
            with (
                place.house(url, broker_url=redis.url, release_ahead=ahead) as house,
                _bare(house) as bare,
                _serving(house, "api") as port,
            ):
                yield _compare(name, what, house, bare, port, repetitions, count)


def _compare(name: str, what: str, house: House, bare: int, port: int, repetitions: int, count: int) -> Figure:
    ours: list[Load] = []
    theirs: list[Load] = []

    def submit() -> float:
        ours.append(send(port, lambda: _request(house.token), count, CLIENTS, 202))
        _empty(house)
        return ours[-1].per_second

    def insert() -> float:
        theirs.append(send(bare, lambda: post("/v1/jobs", BODY, {}), count, CLIENTS, 202))
        return theirs[-1].per_second

    # What is compiled and connected with the first request is no part of any other.
    submit(), insert()
    ours.clear(), theirs.clear()
    pairs = in_turns(submit, insert, repetitions)
    return figure(
        name, what, BASELINE, [a / b for a, b in pairs], GOAL,
        {
            "per_second": statistics.median(a for a, _ in pairs),
            "baseline_per_second": statistics.median(b for _, b in pairs),
            "p50_ms": 1000 * statistics.median(x for load in ours for x in load.latencies),
            "baseline_p50_ms": 1000 * statistics.median(x for load in theirs for x in load.latencies),
        },
    )  # fmt: skip


def _request(token: str) -> bytes:
    return post("/v1/jobs", BODY, {"Authorization": f"Bearer {token}", "Idempotency-Key": str(ULID())})


def _empty(house: House) -> None:
    with house.database.write() as tx:
        tx.execute(delete(events))
        tx.execute(delete(jobs))
    # As autovacuum does in time: rows deleted a moment ago are no part of what a submission costs.
    place.run_statement(house.settings.database, "VACUUM (ANALYZE)")


@contextmanager
def _bare(house: House) -> Iterator[int]:
    bare_flask.TABLE.create(house.database.engine, checkfirst=True)
    with _serving(house, "bench.bare_flask") as port:
        yield port


@contextmanager
def _serving(house: House, module: str) -> Iterator[int]:
    """The port on which `python -m module` listens."""
    server = house.process(module, port=0)
    found: list[int] = []

    def listens() -> bool:
        said = re.search(r"Listening on http://[^\s]*:(\d+)", server.log_tail(100))
        found.extend([int(said[1])] if said else [])
        return bool(found)

    server.start(listens)
    try:
        yield found[0]
    finally:
        server.kill()
