"""Where a worker is put together from its settings: the one visible place of composition."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from common import engines, log
from common.db.engine import Database
from common.engines import REGISTRY, EngineSpec, Lane
from common.queue import open_ringer
from common.settings import Settings
from common.storage import open_store
from worker.card import Card
from worker.engine import Host, LanguageServer
from worker.presence import Presence
from worker.runner import Runner


def open_runner(settings: Settings, *, lanes: Iterable[str] = ("cpu",), device: str = "cpu") -> Runner:
    """A runner for one card (`device` as torch names it, or `cpu`), connected but not yet started."""
    log.setup(settings)
    engines.register(settings.extra_engines)
    lanes = tuple(lanes)
    database = Database(settings.database)
    specs = [spec for spec in REGISTRY.values() if (spec.lane in lanes or spec.anywhere) and wanted(spec, settings)]
    host = Host(
        device=device,
        models=settings.models,
        token=settings.hf_token.get_secret_value() if settings.hf_token else None,
        memory_fraction=settings.card_memory_fraction,
        models_on_cpu=settings.models_on_cpu,
        compile_models=settings.compile_models,
        sam_audio_backend=settings.sam_audio_backend,
        sam_audio_dtype=settings.sam_audio_dtype,
        language_server=language_server(settings),
    )
    ready = {spec.name: readiness(spec, host) for spec in specs}
    name = settings.worker_name or f"{device.replace('cuda:', 'gpu').replace('cpu', 'cpu0')}@{socket.gethostname()}"
    presence = Presence(
        database,
        name,
        "worker",
        lanes=lanes,
        engines=[spec for spec, state in ready.items() if state["ready"]],
        info={"device": device, "engines": ready},
        beat_seconds=settings.beat_seconds,
    )
    whole = settings.worker_memory_bytes
    card = Card(host, int(whole * settings.card_memory_fraction) if whole else None)
    return Runner(settings, database, open_store(settings), open_ringer(settings), card, presence)


def language_server(settings: Settings) -> LanguageServer | None:
    if settings.llm_url is None or settings.llm_model is None:
        return None
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    return LanguageServer(settings.llm_url.rstrip("/"), settings.llm_model, key, settings.llm_timeout_seconds)


def wanted(spec: EngineSpec, settings: Settings) -> bool:
    return not settings.worker_engines or spec.name in settings.worker_engines


def readiness(spec: EngineSpec, host: Host) -> dict[str, object]:
    """Whether a worker there could run the engine; else what is missing and how to get it."""
    missing = (
        spec.missing(host.models, token=host.token is not None)
        or (host.lacks_card if spec.lane is Lane.GPU else None)
        or (host.lacks_language_server if spec.language_server else None)
    )
    if missing is None:
        return {"ready": True}
    return {"ready": False, "missing": missing[0], "hint": missing[1]}
