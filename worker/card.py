"""The card a worker owns: its device, its memory, and the engines that are resident on it."""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from common import log
from common.engines import EngineSpec
from common.errors import NightshiftError
from worker.engine import Engine, Host

_log = log.get(__name__)


def load(spec: EngineSpec, host: Host) -> Engine:
    """Imports and constructs an engine. Raises `engine_not_ready` where a package or its weights are missing."""
    missing = spec.missing(host.models, token=host.token is not None)
    if missing:
        raise NightshiftError(
            "engine_not_ready", f"{spec.name}: {missing[0]}.", hint=missing[1], retryable=False, pointer="/engine"
        )
    module, _, name = spec.target.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(host)
    return engine


class Card:
    """Keeps engines resident, the least recently used leaving first when memory runs short.

    memory_bytes: what all of them may take together; None on a CPU, where nothing is unloaded.
    """

    def __init__(
        self, host: Host, memory_bytes: int | None = None, loader: Callable[[EngineSpec, Host], Engine] = load
    ) -> None:
        self.host = host
        self._memory_bytes = memory_bytes
        self._loader = loader
        self._resident: OrderedDict[str, Engine] = OrderedDict()
        # Jobs that are done at once ask from threads of their own.
        self._lock = threading.RLock()

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the loaded engines, the least recently used first."""
        return tuple(self._resident)

    def loaded(self, name: str) -> Engine | None:
        """The engine, where it is resident."""
        return self._resident.get(name)

    def acquire(self, spec: EngineSpec, on_fetch: Callable[[int, int | None], None] | None = None) -> Engine:
        """The engine, loaded if it is not. One that does not fit beside the others is loaded alone.

        on_fetch: see `Host`. Raises what it raises and what loading raises: `engine_not_ready`, `weights_*`,
        `device_missing`, `gpu_oom`.
        """
        with self._lock:
            engine = self._resident.get(spec.name)
            if engine is None:
                engine = self._load(spec, replace(self.host, on_fetch=on_fetch) if on_fetch else self.host)
                self._resident[spec.name] = engine
                _log.info("engine loaded", engine=spec.name, device=self.host.device, bytes=engine.memory_bytes())
            self._resident.move_to_end(spec.name)
            self._make_room()
            return engine

    def _load(self, spec: EngineSpec, host: Host) -> Engine:
        try:
            return self._loader(spec, host)
        except NightshiftError as error:
            if error.code != "gpu_oom" or not self._resident:
                raise
        self.free()
        return self._loader(spec, host)

    def _make_room(self) -> None:
        limit = self._memory_bytes
        while limit is not None and len(self._resident) > 1 and self._taken() > limit:
            name, engine = self._resident.popitem(last=False)
            engine.close()
            _log.info("engine unloaded", engine=name)

    def _taken(self) -> int:
        return sum(engine.memory_bytes() for engine in self._resident.values())

    def keep_only(self, name: str) -> bool:
        """Unloads every other engine; whether there was one."""
        with self._lock:
            others = [other for other in self._resident if other != name]
            for other in others:
                self._resident.pop(other).close()
                _log.info("engine unloaded", engine=other)
            return bool(others)

    def free(self) -> None:
        """Unloads every engine."""
        while self._resident:
            self._resident.popitem(last=False)[1].close()
