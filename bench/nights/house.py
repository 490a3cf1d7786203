"""The processes of an installation, as they live in simulated time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil

from bench.nights.world import Process, World
from common.db import processes
from common.engines import Lane
from common.jobs import callbacks, claiming, finish, queueing, running, submit
from common.jobs.job import Job, LeaseLost
from common.jobs.queueing import Bell
from common.params import parse_request
from common.settings import Settings
from common.storage.store import Store
from common.windows import Windows
from worker.publish import fingerprint
from worker.scheduler import Scheduler

ENGINE = "sam-audio-base"
# Seconds of night between two ticks of a scheduler: for bells without an answer, and for what is to be released.
LOOKED_FOR, RELEASED = 180.0, 600.0
BY_DAY = 12.0
RECEIVER = "https://receiver.example/hook"


@dataclass(frozen=True)
class Rates:
    """block_seconds: of audio.  speed: seconds of audio that a card computes in one.  load_seconds: of the card, before
    the first block of each attempt."""

    block_seconds: float = 600.0
    speed: float = 20.0
    load_seconds: float = 1.0

    def blocks(self, audio: float) -> int:
        return ceil(audio / self.block_seconds)

    def seconds(self, audio: float, index: int) -> float:
        """What a card needs for a block."""
        return min(self.block_seconds, audio - index * self.block_seconds) / self.speed


@dataclass(frozen=True)
class Span:
    """A block that was computed, or begun. kept: it was finished, and its checkpoint committed."""

    job_id: str
    in_batch: bool
    worker: str
    index: int
    began: datetime
    ended: datetime
    kept: bool


class Broker:
    """Messages in two queues, what somebody waits for before bulk work; and a bell that wakes a card that is idle."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queues: dict[bool, deque[str]] = {True: deque(), False: deque()}
        self.cards: list[Card] = []

    def ring(self, bells: Iterable[Bell]) -> None:
        for bell in bells:
            queue = self._queues[bell.interactive]
            # Rung again while its first bell is still there: that costs a claim in vain, so it is done now and then.
            if bell.job_id in queue and self._world.random.random() < 0.9:
                continue
            queue.append(bell.job_id)
            self._world.after(0.05, self._wake)

    def take(self) -> str | None:
        return next((queue.popleft() for urgent in (True, False) if (queue := self._queues[urgent])), None)

    def _wake(self) -> None:
        for card in self.cards:
            if card.idle and any(self._queues.values()):
                card.step(card.work)


@dataclass
class _Hand:
    """The job a card has in hand. kept: the blocks that are finished, by this attempt or an earlier one."""

    job: Job
    audio: float
    mark: str
    claimed: datetime
    kept: set[int] = field(default_factory=set)
    resumed: int = 0
    began: datetime | None = None


class Card(Process):
    """A worker: claims, computes block after block, yields, publishes, as worker.runner does with worker.watch."""

    def __init__(self, world: World, name: str, broker: Broker, settings: Settings, rates: Rates) -> None:
        super().__init__(world, name)
        self._broker, self._settings, self._rates = broker, settings, rates
        self._hand: _Hand | None = None
        self._seen: datetime | None = None
        self.spans: list[Span] = []
        self.yields: Counter[str] = Counter()
        broker.cards.append(self)

    @property
    def idle(self) -> bool:
        return self.alive and self._hand is None

    def start(self) -> None:
        self.world.database.run(processes.register, self.name, "worker", lanes=[Lane.GPU], info={})
        self._seen = self.world.now
        self.every(lambda: self._settings.alive_seconds * 0.6, self._beat)
        self.work()

    def forget(self) -> None:
        hand, self._hand = self._hand, None
        if hand is not None and hand.began is not None:
            self._span(hand, len(hand.kept), hand.began, kept=False)

    def _beat(self) -> None:
        with self.world.database.write() as tx:
            processes.seen(tx, self.name)

    def work(self) -> None:
        """Answers the bells that are there, until one gives a job."""
        while self._hand is None and (job_id := self._broker.take()) is not None:
            job = self.world.database.run(
                claiming.claim, self.name, [Lane.GPU], self._settings.lease_seconds, rung=job_id, engines=[ENGINE]
            )
            if job is not None:
                audio = length_of(job)
                self._hand = _Hand(job, audio, fingerprint(job, "1", [], None), self.world.now)
                self.soon(self._rates.load_seconds, self._loaded)

    def _loaded(self) -> None:
        hand = self._in_hand()
        try:
            with self.world.database.write() as tx:
                running.renew(tx, hand.job.lease, self._settings.lease_seconds, {"phase": "load", "done": 1})
        except LeaseLost:
            return self._done()
        with self.world.database.read() as tx:
            hand.kept = set(running.finished_blocks(tx, hand.job.id, hand.mark))
        hand.resumed = len(hand.kept)
        return self._on()

    def _on(self) -> None:
        """To the next block, or the end."""
        hand = self._in_hand()
        index = len(hand.kept)
        if index == self._rates.blocks(hand.audio):
            return self._publish(hand)
        hand.began = self.world.now
        return self.soon(self._rates.seconds(hand.audio, index), self._block)

    def _block(self) -> None:
        hand = self._in_hand()
        index, total, lease = len(hand.kept), self._rates.blocks(hand.audio), hand.job.lease
        began = hand.began
        assert began is not None
        try:
            with self.world.database.write() as tx:
                files = {"target": f"jobs/{hand.job.id}/blocks/{index}"}
                running.checkpoint(tx, lease, self._settings.lease_seconds, hand.mark, index, total, files)
        except LeaseLost:
            self._span(hand, index, began, kept=False)
            return self._done()
        hand.kept.add(index)
        hand.began = None
        self._span(hand, index, began, kept=True)
        with self.world.database.read() as tx:
            told = running.orders(tx, lease, self.name, [Lane.GPU], self._settings.alive_seconds)
        if not told.held:
            return self._done()
        if told.yield_for is None or len(hand.kept) == total:
            return self._on()
        with suppress(LeaseLost):
            self.world.database.run(running.give_back, lease, told.yield_for)
            self.yields[told.yield_for] += 1
        return self._done()

    def _publish(self, hand: _Hand) -> None:
        metrics = {
            "audio_seconds": hand.audio, "blocks": len(hand.kept), "blocks_resumed": hand.resumed,
            "seconds": (self.world.now - hand.claimed).total_seconds(),
        }  # fmt: skip
        with suppress(LeaseLost):
            self.world.database.run(finish.succeed, hand.job.lease, {"outputs": [], "metrics": metrics})
        self._done()

    def _done(self) -> None:
        self._hand = None
        with self.world.database.write() as tx:
            bells = queueing.fill(tx, Lane.GPU, self._settings.release_ahead, self._settings.alive_seconds)
        self._broker.ring(bells)
        self.work()

    def _in_hand(self) -> _Hand:
        assert self._hand is not None
        return self._hand

    def _span(self, hand: _Hand, index: int, began: datetime, *, kept: bool) -> None:
        self.spans.append(
            Span(hand.job.id, hand.job.batch_id is not None, self.name, index, began, self.world.now, kept)
        )


class Ticker(Process):
    """A scheduler: the real one's chores. It ticks seldom, by day still less, and within a second after every change of
    the window: what it does every second in between finds nothing to do."""

    def __init__(
        self, world: World, name: str, settings: Settings, store: Store, broker: Broker, windows: Windows
    ) -> None:  # fmt: skip
        super().__init__(world, name)
        self._chores = Scheduler(settings, world.database, store, broker)
        self._windows = windows
        self._changes = changes(windows, world.now)

    def begin(self) -> None:
        """What is to happen in every life."""
        self.step(self.start)
        self._await_change()

    def start(self) -> None:
        # Who took a batch's items in died, or this is the first to do it.
        self.soon(1.0, self._often)
        self.every(lambda: self._between(LOOKED_FOR), self._often)
        self.every(lambda: self._between(RELEASED), self._seldom)

    def _between(self, seconds: float) -> float:
        slower = 1.0 if self._windows.is_open(self.world.now) else BY_DAY
        return slower * seconds * self.world.random.uniform(0.8, 1.2)

    def _await_change(self) -> None:
        change = next(self._changes)

        def turned() -> None:
            self._await_change()
            if self.alive:
                self.step(self._seldom)
                self.step(self._often)

        self.world.at(change + timedelta(seconds=self.world.random.random()), turned)

    def _often(self) -> None:
        self._chores.ring_again()
        self._chores.rescue()
        self._chores.prepare()

    def _seldom(self) -> None:
        self._chores.turn_windows()
        self._chores.release()
        self._chores.expire()


class Postman(Process):
    """A deliverer: takes what is due, sends it, writes down what came of it. received: messages, by their ids."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.received: Counter[str] = Counter()

    def start(self) -> None:
        self.every(lambda: 300.0, self._deliver)

    def _deliver(self) -> None:
        with self.world.database.write() as tx:
            due = callbacks.due(tx, 16, 60.0, per_host=16)
        for callback in due:
            self.received[callback.id] += 1
            with self.world.database.write() as tx:
                callbacks.record(
                    tx, callback, status=200, error=None, duration_ms=20, response=None, next_in=5.0, gone=False,
                    disable_after_seconds=5 * 86400.0,
                )  # fmt: skip


class Front(Process):
    """The API's process with its callers, who ask again under the same Idempotency-Key when they get no answer.

    answered: the job that each caller was told of.
    """

    RESTART_SECONDS = 2.0

    def __init__(self, world: World, name: str, settings: Settings, broker: Broker, key_id: str) -> None:
        super().__init__(world, name)
        self._settings, self._broker, self._key_id = settings, broker, key_id
        self._asked: dict[str, float] = {}
        self.answered: dict[str, str] = {}

    def start(self) -> None:
        for name in [name for name in self._asked if name not in self.answered]:
            self._submit(name)

    def ask(self, name: str, audio: float) -> None:
        self._asked[name] = audio
        if self.alive:
            self.step(lambda: self._submit(name))

    @property
    def waiting(self) -> int:
        """Callers without an answer."""
        return len(self._asked) - len(self.answered)

    def _submit(self, name: str) -> None:
        request = parse_request(body(name, self._asked[name]) | {"callback": {"url": RECEIVER}})
        with self.world.database.write() as tx:
            job = submit.submit(
                tx, self._key_id, request, default_quota=self._settings.quotas, idempotency_key=name
            ).job
            bells = queueing.fill(tx, job.lane, self._settings.release_ahead, self._settings.alive_seconds)
        self._broker.ring(bells)
        self.answered[name] = job.id


def body(name: str, audio: float) -> dict[str, object]:
    """A request whose address tells the simulated card how long it really is."""
    return {"engine": ENGINE, "params": {"prompts": ["speech"]}, "input": {"url": address(name, audio)}}


def address(name: str, audio: float) -> str:
    return f"https://media.example/{name}/{audio:.3f}.flac"


def length_of(job: Job) -> float:
    source: Mapping[str, str] = job.request["input"]
    return float(source["url"].rpartition("/")[2].removesuffix(".flac"))


def changes(windows: Windows, start: datetime) -> Iterator[datetime]:
    """Every instant at which the windows open or close, from `start` on."""
    at: datetime | None = start
    while (at := windows.next_change(at) if at is not None else None) is not None:
        yield at
