"""Pure: what planned jobs are to compute, and how many bytes their results will be, about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from common.engines import Kind
from common.forecast import Work
from common.jobs.speeds import Done, Lane
from common.params import Request

# Rule of thumb where nothing was measured: bytes a second of a stem, of two channels at 44.1 kHz and 16 bits; flac
# makes about half of it.
_WAV, _FLAC = 176_400.0, 88_200.0
_KBPS = {"mp3": 192, "opus": 128}


class Form(NamedTuple):
    """What decides how many bytes a second of audio becomes in a stem. Kinds without stems have one of no format."""

    kind: str
    format: str = ""
    kbps: int | None = None
    mono: bool = False

    def thumb(self) -> float | None:
        """Bytes a second, by rule of thumb; None for what there is no such rule."""
        if self.format in _KBPS:
            return (self.kbps or _KBPS[self.format]) * 125.0
        lossless = {"wav": _WAV, "flac": _FLAC}.get(self.format)
        return lossless / 2 if lossless is not None and self.mono else lossless


def form(request: Mapping[str, Any]) -> tuple[Form, int]:
    """Of a request's body: the form of its results, and how many stems it makes; 1 where the kind knows none."""
    kind, params = str(request["kind"]), request["params"]
    if kind != Kind.SEPARATION:
        return Form(kind), 1
    output = params.get("output") or {}
    stems = len(params["prompts"]) * len(params.get("outputs") or ("target", "residual"))
    return (
        Form(kind, output.get("format", "flac"), output.get("bitrate_kbps"), params.get("channels") == "mono"),
        stems,
    )


class Measured(NamedTuple):
    """bytes: of all files of a result, for each second of a stem.  jobs: so many finished ones tell it."""

    bytes: float
    jobs: int


def measured(done: Iterable[Done], wanted: Form) -> Measured | None:
    """From finished jobs of an engine, those of the form; None where there are none."""
    seconds, size, jobs = 0.0, 0, 0
    for one in done:
        of, stems = form(one.request)
        if of == wanted:
            seconds += one.length * stems
            size += sum(int(output.get("bytes") or 0) for output in one.result.get("outputs") or ())
            jobs += 1
    return Measured(size / seconds, jobs) if seconds > 0 and size > 0 else None


class Results(NamedTuple):
    """bytes: of all results together; None where it cannot be told.  jobs: finished ones that tell it, 0: a rule of
    thumb."""

    bytes: int | None
    jobs: int


@dataclass
class _Load:
    """known, seconds, longest: of jobs whose length is known.  unknown: the other jobs."""

    known: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    unknown: int = 0


@dataclass
class _Stems:
    """seconds: of stems whose length is known, together.  unknown: how many others."""

    seconds: float = 0.0
    unknown: int = 0


@dataclass
class Expected:
    """Adds up planned jobs, by what they need."""

    _loads: dict[Lane, _Load] = field(default_factory=dict)
    _stems: dict[tuple[Lane, Form], _Stems] = field(default_factory=dict)

    def add(self, request: Request, seconds: float | None) -> None:
        """seconds: of its audio, as its source says."""
        lane: Lane = (request.engine, request.lane())
        of, count = form(request.model_dump(mode="json", include={"kind", "params"}))
        load = self._loads.setdefault(lane, _Load())
        stems = self._stems.setdefault((lane, of), _Stems())
        if seconds:
            load.known += 1
            load.seconds += seconds
            load.longest = max(load.longest, seconds)
            stems.seconds += count * seconds
        else:
            load.unknown += 1
            stems.unknown += count

    def work(self) -> list[Work]:
        return [
            Work(engine, lane, one.known, one.seconds, one.longest, one.unknown)
            for (engine, lane), one in self._loads.items()
        ]

    def results(self, measure: Callable[[Lane, Form], Measured | None], typical: Mapping[Lane, float]) -> Results:
        """typical: how long other jobs of an engine were, seconds: for those of whose length nothing is known."""
        whole, jobs = 0.0, []
        for (lane, of), stems in self._stems.items():
            found = measure(lane, of)
            rate = found.bytes if found is not None else of.thumb()
            load = self._loads[lane]
            mean = load.seconds / load.known if load.known else typical.get(lane)
            # Of pictures, the length is how many they are.
            if rate is None or of.kind == Kind.SEGMENTATION or (stems.unknown and mean is None):
                return Results(None, 0)
            whole += rate * (stems.seconds + stems.unknown * (mean or 0.0))
            jobs.append(found.jobs if found is not None else 0)
        return Results(round(whole), min(jobs, default=0))
