"""The protocol of engines: a job's work goes in, events come out.

An engine knows neither database nor queue nor storage. It yields events; the runner decides what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

from pydantic import BaseModel


@dataclass(frozen=True)
class Progress:
    """How far the work is: `done` of `total` in `unit`, and of `blocks` blocks `block` are done."""

    phase: str
    done: float
    total: float
    unit: str = "s"
    block: int = 0
    blocks: int = 0


@dataclass(frozen=True)
class BlockDone:
    """A block is finished: its files (stem name to path in scratch) are final and may be kept as a checkpoint."""

    index: int
    total: int
    files: Mapping[str, Path]

    @property
    def last(self) -> bool:
        return self.index + 1 >= self.total


@dataclass(frozen=True)
class Artifact:
    """A file of the result. role: stem, waveform, peaks, mask …; meta: what a user wants to know of it."""

    name: str
    path: Path
    content_type: str
    role: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A line for the job's log; a warning is also told in the result."""

    level: str
    code: str
    message: str


@dataclass(frozen=True)
class Metrics:
    """Figures of the run for the result, merged by name."""

    values: Mapping[str, Any]


Event = Progress | BlockDone | Artifact | Note | Metrics


Result = TypeVar("Result")


class Interrupted(Exception):
    """A job whose demand was being computed has to end, for `cause`. Those of the other jobs stand as they stood."""

    def __init__(self, demand: Demand, cause: Exception) -> None:
        super().__init__(cause)
        self.demand, self.cause = demand, cause


class Demand(ABC):
    """Computing that a job waits for, and that may be done together with that of other jobs of the same engine.

    seconds: of computing that it has had, its share of every batch.
    """

    seconds = 0.0

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether all of it is done."""

    @abstractmethod
    def compute(self, others: Sequence[Demand]) -> None:
        """Computes a batch of it, filled up with what `others` want where that fits in.

        Raises Interrupted where the job of one of them has to end; anything else ends the job whose demand this is.
        """


class Blocks(Protocol):
    """The blocks that earlier attempts of this job finished."""

    @property
    def finished(self) -> frozenset[int]: ...

    def fetch(self, index: int) -> Mapping[str, Path]:
        """The files of a finished block, brought into scratch where they are not there yet."""
        ...


class NoBlocks:
    """For work that begins at the beginning."""

    finished: frozenset[int] = frozenset()

    def fetch(self, index: int) -> Mapping[str, Path]:
        raise KeyError(index)


@dataclass(frozen=True)
class Limits:
    """What an input may be at most; checked before decoding and while decoding."""

    duration_seconds: float = 12 * 3600.0
    channels: int = 8
    pixels: int = 100_000_000


@dataclass(frozen=True)
class Source:
    """An input on this machine. filename: its own, for people.  size: bytes.  sha256: hex."""

    path: Path
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Voice:
    """A voice to speak in. audio: the excerpt of its reference recording that models get, mono.
    transcript: its exact words."""

    id: str
    name: str
    audio: Path
    transcript: str


@dataclass(frozen=True)
class Earlier:
    """Something the first speaker said before this job, which what is spoken now follows. text: its words."""

    audio: Path
    text: str


def _no_engine(name: str) -> Engine:
    raise LookupError(name)


@dataclass(frozen=True)
class Work:
    """One job as an engine sees it.

    sources: the inputs in the request's order; none where the request is all there is.
    voices: the voices that the request names, by their id.
    earlier: what was said before, the latest last, for engines that speak in its manner.
    check: raises when the job must stop (cancelled, lease lost); to be called at least every few seconds.
    block_seconds: overrides the engine's own block length.
    acquire: gives another engine by its name, loaded on the same card; it may take the place of any that was given
    before, also of the one that asks, so each is asked for where it is used.
    """

    job_id: str
    params: BaseModel
    sources: tuple[Source, ...]
    scratch: Path
    blocks: Blocks = field(default_factory=NoBlocks)
    voices: Mapping[str, Voice] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()
    limits: Limits = Limits()
    check: Callable[[], None] = lambda: None
    block_seconds: float | None = None
    acquire: Callable[[str], Engine] = _no_engine

    @property
    def source(self) -> Source:
        """The only input."""
        (one,) = self.sources
        return one


@dataclass(frozen=True)
class LanguageServer:
    """An OpenAI-like interface. url: its base, to which `/chat/completions` is added.  seconds: one answer takes at
    most."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 300.0


@dataclass(frozen=True)
class Host:
    """Where an engine is to live.

    device: `cpu`, or `cuda:0` (a worker sees only its own card).  models: folder of weights.  token: for the hub.
    memory_fraction: share of the device's memory that engines may use together.  models_on_cpu: whether an engine made
    for a card may run without one.  on_fetch: told of bytes so far and in all while weights are fetched, which may take
    longer than anything else that is silent; raises when the job that waits for them must stop.  language_server: what
    answers questions, where the operator has one.  compile_models: whether networks that can be compiled are.
    sam_audio_backend: whose network computes SAM-Audio, this project's or the official package's.  sam_audio_dtype: in
    which format.
    """

    device: str
    models: Path
    token: str | None = None
    memory_fraction: float = 0.9
    models_on_cpu: bool = False
    on_fetch: Callable[[int, int | None], None] = lambda done, total: None
    language_server: LanguageServer | None = None
    compile_models: bool = False
    sam_audio_backend: Literal["native", "official"] = "native"
    sam_audio_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @property
    def lacks_card(self) -> tuple[str, str] | None:
        """What is missing here for an engine made for a card, and how to get it, as sentences; None: nothing."""
        if self.device != "cpu" or self.models_on_cpu:
            return None
        return (
            "it is made for a card, and this worker has none",
            "Start a worker on a card, or set NIGHTSHIFT_MODELS_ON_CPU=1 to let it run without one, slowly.",
        )

    @property
    def lacks_language_server(self) -> tuple[str, str] | None:
        """What is missing here for an engine that asks a language model elsewhere, and how to get it."""
        if self.language_server is not None:
            return None
        return (
            "no language model is configured",
            "Set NIGHTSHIFT_LLM_URL (http://127.0.0.1:11434/v1, say) and NIGHTSHIFT_LLM_MODEL, or use llm-local.",
        )


@runtime_checkable
class Sharing(Protocol):
    """An engine that gains from doing several jobs at once."""

    @property
    def shares(self) -> bool:
        """Whether it does so where it lives now."""
        ...

    def steps(self, work: Work) -> Generator[Event | Demand, None, None]:
        """As `Engine.run`, with the demands of the job among the events: after each, a batch must have been computed,
        of it or of others; a demand that is not over then is given again."""
        ...


class Once(Demand, Generic[Result]):
    """A call that shares nothing with others, and what it gave."""

    result: Result

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call: Callable[[], Result] | None = call

    @property
    def over(self) -> bool:
        return self._call is None

    def compute(self, others: Sequence[Demand]) -> None:
        """Raises Interrupted, with what the call raises."""
        assert self._call is not None
        began = monotonic()
        try:
            self.result = self._call()
        except Exception as error:
            raise Interrupted(self, error) from error
        finally:
            self.seconds += monotonic() - began
        self._call = None


def computed(call: Callable[[], Result]) -> Generator[Demand, None, Result]:
    """Has it called where jobs compute; returns what it gives."""
    once = Once(call)
    while not once.over:
        yield once
    return once.result


Step = TypeVar("Step")
Made = TypeVar("Made")


def alone(steps: Generator[Step | Demand, None, Made]) -> Generator[Step, None, Made]:
    """The steps without the demands: each is computed by itself."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                return cast(Made, finished.value)
            if isinstance(step, Demand):
                try:
                    step.compute(())
                except Interrupted as stop:
                    raise stop.cause from None
            else:
                yield step


class Engine(Protocol):
    """An engine, loaded and resident on a card.

    The class is constructed with a Host; that may load the weights.

    version: changes whenever the same input would give another output; finished blocks of another version are not used.
    """

    name: str
    version: str

    def run(self, work: Work) -> Generator[Event, None, None]: ...

    def memory_bytes(self) -> int:
        """Bytes of the card's (or the machine's) memory that stay taken between jobs."""
        ...

    def close(self) -> None:
        """Frees the memory."""
        ...
