"""A tiny CSM with generated weights, and an engine of it for NIGHTSHIFT_EXTRA_ENGINES=tests.csm:TINY."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from common.engines import REGISTRY, Weights
from worker.tts.csm.engine import CsmEngine
from worker.tts.csm.generated import write_checkpoint

NAME = "csm-tiny"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
TINY = replace(REGISTRY["csm-1b"], name=NAME, target="tests.csm:TinyEngine", weights=Weights(folder=NAME, files=FILES))

Made = TypeVar("Made")


class TinyEngine(CsmEngine):
    registered = NAME


def write(models: Path, **given: Any) -> Path:
    """Writes the tiny checkpoint below a models folder; returns its own folder."""
    write_checkpoint(models / NAME, **given)
    return models / NAME


def finish(steps: Generator[Any, None, Made]) -> Made:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            made: Made = ended.value
            return made
