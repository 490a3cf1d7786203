"""Pure: an item and what its batch says, into the request of a job and the fields that name its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from common.params import Request, parse_request
from common.params.base import Input
from common.params.batch import BatchRequest, BatchWork, Item

FEED_NAMING = "{show}/{date}-{title}.{stem}.{ext}"
NAMING = "{index:05}-{name}.{stem}.{ext}"


@dataclass(frozen=True)
class Template:
    """What the items of a batch have in common. work: members of a job's request.

    origin: where the items come from, for telling what is new.
    """

    work: Mapping[str, Any]
    naming: str
    only_new: bool
    origin: str

    @classmethod
    def of(cls, request: BatchWork, work: Mapping[str, Any], name: str) -> Template:
        """work: kind, engine, params and preset, the preset merged in."""
        common: dict[str, Any] = {
            **{member: work[member] for member in ("kind", "engine", "preset") if work.get(member) is not None},
            "params": dict(work.get("params") or {}),
            "metadata": dict(request.metadata),
            "priority": request.priority,
            "cache": request.cache,
            "batch": name,
        }
        if request.job_callback is not None:
            common["callback"] = request.job_callback.model_dump()
        rss = request.rss if isinstance(request, BatchRequest) else None
        return cls(
            common,
            request.naming or (FEED_NAMING if rss else NAMING),
            rss is not None if request.only_new is None else request.only_new,
            rss.url if rss else "",
        )

    def stored(self) -> dict[str, Any]:
        return {"work": dict(self.work), "naming": self.naming, "only_new": self.only_new, "origin": self.origin}

    def request(self, item: Item) -> Request:
        """Raises pydantic's ValidationError, `unknown_engine` and `engine_unsupported`."""
        body = {
            **self.work,
            **item.model_dump(mode="json", include={"input", "inputs", "deadline"}, exclude_none=True),
            "params": {**self.work["params"], **item.params},
            "metadata": {**self.work["metadata"], **item.metadata},
        }
        request = parse_request(body)
        request.spec()
        return request

    def mark(self, item: Item, request: Request) -> str | None:
        """Of the item and the work on it; None where it is wanted in any case, or nothing tells it from others."""
        if not self.only_new:
            return None
        identity = item.id or ([source.model_dump() for source in request.sources().values()] or None)
        if identity is None:
            return None
        work = request.model_dump(mode="json", include={"kind", "engine", "params"})
        text = json.dumps([self.origin, identity, work], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def fields(item: Item) -> dict[str, str]:
    """What fills the naming template, but for what every job knows of itself."""
    found = {"title": item.title, "show": item.show, "date": item.date, "number": item.number, "guid": item.id}
    if item.date:
        found["year"], found["month"] = item.date[:4], item.date[5:7]
    first = item.input or (item.inputs[0] if item.inputs else None)
    found["name"] = _name(first) if first is not None else None
    return {name: value for name, value in found.items() if value}


def _name(source: Input) -> str | None:
    """Of the input's file, without its ending."""
    path = urlsplit(source.url).path if source.url else source.s3 or ""
    return PurePosixPath(unquote(path)).stem or source.output or source.upload or source.job


def shown(item: Item) -> str:
    """An item in short, for whoever looks at what went wrong with it."""
    first = item.input or (item.inputs[0] if item.inputs else None)
    place = (first.url or first.s3 or first.upload or first.job) if first is not None else None
    return (item.title or place or item.id or "an item")[:300]
