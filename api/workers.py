"""Workers and the queues before them."""

from __future__ import annotations

from typing import Any, Literal

from api import schemas
from api.auth import may
from api.context import caller, service
from api.operations import Answer, Resource
from common.db import processes
from common.db.keys import Scope
from common.db.processes import Process
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs import query

resource = Resource("workers", "Workers and queues", "Who works, and how much waits")


@resource.operation(
    "GET",
    "/v1/queues",
    "Get the depth of the queues",
    scope=Scope.READ,
    answers={200: Answer("Unfinished jobs by lane and state", schemas.Queues)},
)
def get_queues() -> Any:
    """The key's own jobs; everybody's for an admin."""
    everybody = may(caller(), Scope.ADMIN)
    with service().database.read() as tx:
        depth = query.depth(tx, None if everybody else caller().id)
        workers = processes.list_all(tx, service().settings.alive_seconds, "worker")
    lanes = []
    for lane in Lane:
        alive = sum(worker.alive and lane in worker.lanes for worker in workers)
        counts = {state: depth.get(lane, {}).get(state, 0) for state in query.STANDINGS}
        lanes.append(schemas.LaneDepth(lane=lane, workers=alive, **counts))
    return schemas.Queues(whose="all" if everybody else "own", lanes=lanes)


@resource.operation(
    "GET",
    "/v1/workers",
    "List workers",
    scope=Scope.READ,
    answers={200: Answer("The workers", schemas.WorkerList)},
)
def list_workers() -> Any:
    """All there is to know for an admin; names for others."""
    with service().database.read() as tx:
        found = processes.list_all(tx, service().settings.alive_seconds, "worker")
    return schemas.WorkerList(items=[worker_view(worker, may(caller(), Scope.ADMIN)) for worker in found])


@resource.operation(
    "POST",
    "/v1/workers/{name}/pause",
    "Pause a worker",
    scope=Scope.ADMIN,
    answers={200: Answer("The worker", schemas.Worker)},
)
def pause_worker(name: str) -> Any:
    """It finishes its job and takes no other until it is resumed, also after a restart."""
    return _order(name, "pause")


@resource.operation(
    "POST",
    "/v1/workers/{name}/resume",
    "Resume a worker",
    scope=Scope.ADMIN,
    answers={200: Answer("The worker", schemas.Worker)},
)
def resume_worker(name: str) -> Any:
    """Ends a pause, and a quarantine."""
    return _order(name, "run")


@resource.operation(
    "POST",
    "/v1/workers/{name}/drain",
    "Drain a worker",
    scope=Scope.ADMIN,
    answers={200: Answer("The worker", schemas.Worker)},
)
def drain_worker(name: str) -> Any:
    """It gives its job back at the end of the block and ends."""
    return _order(name, "drain")


def worker_view(worker: Process, everything: bool) -> schemas.Worker:
    if not everything:
        return schemas.Worker(name=worker.name, alive=worker.alive)
    return schemas.Worker(
        name=worker.name,
        alive=worker.alive,
        host=worker.host,
        pid=worker.pid,
        lanes=list(worker.lanes),
        control=worker.control,
        jobs=list(worker.job_ids),
        device=worker.info.get("device"),
        engines=worker.info.get("engines"),
        quarantined_until=worker.quarantined_until,
        started_at=worker.started_at,
        seen_at=worker.seen_at,
    )


def _order(name: str, control: Literal["run", "pause", "drain"]) -> schemas.Worker:
    with service().database.write() as tx:
        known = processes.order(tx, name, control)
        found = processes.list_all(tx, service().settings.alive_seconds, "worker")
    worker = next((worker for worker in found if worker.name == name), None)
    if not known or worker is None:
        raise NightshiftError("not_found", "There is no such worker.")
    return worker_view(worker, everything=True)
