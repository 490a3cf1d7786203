"""Engines: what there is, what is ready, and what is missing where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api import schemas
from api.context import service
from api.operations import Answer, Resource
from common.db import processes
from common.db.keys import Scope
from common.db.processes import Process
from common.engines import DEFAULTS, REGISTRY, EngineSpec
from common.errors import NightshiftError

resource = Resource("engines", "Engines", "What does the work")


@resource.operation(
    "GET",
    "/v1/engines",
    "List engines",
    scope=Scope.READ,
    answers={200: Answer("The engines", schemas.EngineList)},
)
def list_engines() -> Any:
    """Every engine this service knows, ready or not."""
    workers = _workers()
    return schemas.EngineList(items=[engine_view(spec, workers) for spec in REGISTRY.values()])


@resource.operation(
    "GET",
    "/v1/engines/{name}",
    "Get an engine",
    scope=Scope.READ,
    answers={200: Answer("The engine", schemas.Engine)},
)
def get_engine(name: str) -> Any:
    """Whether the engine is ready, or what is missing and how to get it."""
    spec = REGISTRY.get(name)
    if spec is None:
        raise NightshiftError(
            "not_found", "There is no such engine.", hint=f"There are: {', '.join(sorted(REGISTRY))}."
        )
    return engine_view(spec, _workers())


def engine_view(spec: EngineSpec, workers: list[Process]) -> schemas.Engine:
    """The engine, as the live workers tell of it."""
    told = [entry for worker in workers if (entry := _told(worker, spec.name)) is not None]
    ready = any(entry.get("ready") for entry in told)
    missing, hint = None, None
    if not ready:
        entry = next((entry for entry in told if entry.get("missing")), None)
        if entry is not None:
            missing, hint = entry.get("missing"), entry.get("hint")
        else:
            missing = f"no worker of the lane {spec.lane} is running"
            hint = f"Start one: `python -m worker{' --cpu' if spec.lane == 'cpu' else ''}`."
    return schemas.Engine(
        name=spec.name,
        kind=spec.kind,
        lane=spec.lane,
        summary=spec.summary,
        licence=spec.licence,
        default=DEFAULTS.get(spec.kind) == spec.name,
        ready=ready,
        missing=missing,
        hint=hint or None,
        spans=spec.spans,
        vocabulary=sorted(spec.vocabulary) if spec.vocabulary is not None else None,
        voices=list(spec.voices),
    )


def ready_anywhere(spec: EngineSpec) -> bool:
    """Whether a live worker could run the engine."""
    return engine_view(spec, _workers()).ready


def _told(worker: Process, name: str) -> Mapping[str, Any] | None:
    engines = worker.info.get("engines")
    entry = engines.get(name) if isinstance(engines, Mapping) else None
    return entry if isinstance(entry, Mapping) else None


def _workers() -> list[Process]:
    with service().database.read() as tx:
        found = processes.list_all(tx, service().settings.alive_seconds, "worker")
    return [worker for worker in found if worker.alive]
