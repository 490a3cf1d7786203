"""The week itself: what is submitted when, who is killed when, and what came of it."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bench.nights import verdict
from bench.nights.house import LOOKED_FOR, RECEIVER, Broker, Card, Front, Postman, Rates, Ticker, address, body
from bench.nights.verdict import Figure
from bench.nights.world import Process, World
from common.batches import sources
from common.batches.intake import Intake, new_batch
from common.batches.sources import Found
from common.batches.template import Template
from common.db import keys
from common.db.keys import Scope
from common.jobs import batch_query, batches, outlook
from common.jobs.outlook import Outlook
from common.params.batch import BatchRequest, BatchWork, Item
from common.settings import Settings
from common.storage import keys as layout
from common.storage import open_store
from common.windows import Windows

WINDOW = "22:00-06:00 Europe/Madrid"
# Minutes of an episode: lognormal around the middle one, within the bounds.
MIDDLE, SPREAD, SHORTEST, LONGEST = 30.0, 0.65, 5.0, 180.0
# Of these episodes the feed tells the length, give or take so much.
TOLD, OFF = 0.7, 0.03
# Seconds until somebody looks at what nobody answered, also where he has to begin again.
LATE = 1.2 * LOOKED_FOR + Process.RESTART_SECONDS


@dataclass(frozen=True)
class Plan:
    """interactive_per_hour: jobs that somebody waits for, at random in the nights.  kills_per_hour: of all processes
    together.  forecast_after: when the forecast is made, hours into the first night.  speed: seconds of audio that a
    card computes in one."""

    episodes: int = 5000
    cards: int = 4
    schedulers: int = 2
    start: str = "2026-10-20T17:00:00+00:00"
    interactive_per_hour: float = 6.0
    kills_per_hour: float = 2.0
    forecast_after: float = 2.0
    speed: float = 14.0
    seed: int = 5
    days: int = 21


@dataclass
class Week:
    """A simulated installation and its batch. `run` plays it through."""

    plan: Plan
    url: str
    home: Path

    def __post_init__(self) -> None:
        plan = self.plan
        self.rates = Rates(speed=plan.speed)
        self.windows = Windows.parse(WINDOW)
        self.start = datetime.fromisoformat(plan.start)
        self.world = World(self.url, self.start, plan.seed)
        # A lease of minutes: what a real worker renews every ten seconds is here renewed with every block.
        lease = max(300.0, 3 * self.rates.block_seconds / self.rates.speed)
        self.settings = Settings(home=self.home, database_url=self.url, lease_seconds=lease)
        self.store = open_store(self.settings)
        with self.world.database.write() as tx:
            self.archive = keys.create(tx, "archive", list(Scope))[0].id
            self.newsroom = keys.create(tx, "newsroom", list(Scope))[0].id
        broker = Broker(self.world)
        self.cards = [Card(self.world, f"card{n}", broker, self.settings, self.rates) for n in range(plan.cards)]
        self.tickers = [
            Ticker(self.world, f"scheduler{n}", self.settings, self.store, broker, self.windows)
            for n in range(plan.schedulers)
        ]
        self.postman = Postman(self.world, "deliverer")
        self.front = Front(self.world, "api", self.settings, broker, self.newsroom)
        self.processes: list[Process] = [*self.cards, *self.tickers, self.postman, self.front]
        self.batch_id = ""
        self.finished: datetime | None = None
        self.made: datetime | None = None
        self.told: Outlook | None = None
        self.interactive = 0
        self.over = False

    # --- What happens -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._submit_batch()
        for card in self.cards:
            card.step(card.start)
        for ticker in self.tickers:
            ticker.begin()
        self.postman.step(self.postman.start)
        end = self.start + timedelta(days=self.plan.days)
        nights = self.windows.intervals(self.start, end)
        first = next(nights)
        self.world.at(first.opens + timedelta(hours=self.plan.forecast_after), self._foretell)
        self._at_random(self.plan.interactive_per_hour, end, self._ask)
        self._at_random(self.plan.kills_per_hour, end, self._kill)
        self.world.at(first.opens, self._look)
        self.world.run(lambda: self.over, end)

    def _submit_batch(self) -> None:
        """As the API makes one of a feed; the schedulers take it in."""
        random = self.world.random
        intake = Intake(self.settings, self.world.database, self.store)
        request = BatchRequest.model_validate(
            {
                "name": "archive", "engine": body("", 0.0)["engine"], "params": {"prompts": ["speech"]},
                "window": WINDOW, "items": [{"input": address("none", 60.0)}],
                "callback": {"url": RECEIVER, "every_percent": 10},
            }
        )  # fmt: skip
        template = intake.template(self.archive, request)
        batch_id = batches.new_id()

        def found() -> Iterator[Found]:
            for number in range(1, self.plan.episodes + 1):
                minutes = min(max(MIDDLE * math.exp(random.gauss(0, SPREAD)), SHORTEST), LONGEST)
                audio = round(minutes * 60, 3)
                told = round(audio * random.uniform(1 - OFF, 1 + OFF)) if random.random() < TOLD else None
                item = Item.model_validate({"input": address(f"episode-{number}", audio)})
                yield Found(number, item, seconds=told)

        self.store.put(
            layout.manifest(batch_id), io.BytesIO(b"".join(sources.written(found()))), "application/x-ndjson"
        )
        source = {"type": "items", "key": layout.manifest(batch_id)}
        self._create(batch_id, request, template, source)
        self.batch_id = batch_id

    def _create(self, batch_id: str, request: BatchWork, template: Template, source: dict[str, str]) -> None:
        with self.world.database.write() as tx:
            new = new_batch(request, template, source, "digest")
            batches.create(tx, self.archive, new, idempotency_key="archive", batch_id=batch_id)

    def _at_random(self, per_hour: float, end: datetime, do: Callable[[], None]) -> None:
        """At random moments of the nights."""
        if per_hour <= 0:
            return
        for night in self.windows.intervals(self.start, end):
            at = night.opens
            while (at := at + timedelta(hours=self.world.random.expovariate(per_hour))) < night.closes:
                self.world.at(at, do)

    def _ask(self) -> None:
        if self.finished is not None:
            return
        self.interactive += 1
        self.front.ask(f"clip-{self.interactive}", self.world.random.uniform(60, 900))

    def _kill(self) -> None:
        """One of all processes: at once, or at one of its next statements."""
        if self.finished is not None:
            return
        random = self.world.random
        victim = random.choice(self.processes)
        victim.kill(None if random.random() < 0.5 else random.randrange(12))

    def _foretell(self) -> None:
        with self.world.database.read() as tx:
            standing = outlook.read(tx, self.settings.alive_seconds)
        self.made, self.told = self.world.now, outlook.of_batch(standing, self.batch_id)

    def _look(self) -> None:
        """Whether the batch is over; a little later so is the week, when its callbacks have arrived."""
        with self.world.database.read() as tx:
            batch = batch_query.get(tx, self.batch_id)
        if batch is None or batch.finished_at is None:
            self.world.after(900.0, self._look)
        elif self.finished is None:
            self.finished = batch.finished_at
            self.world.after(1800.0, self._look)
        else:
            self.over = not self.front.waiting
            self.world.after(900.0, self._look)

    # --- What came of it ----------------------------------------------------------------------------------------------

    def figures(self) -> list[Figure]:
        spans = [span for card in self.cards for span in card.spans]
        with self.world.database.read() as tx:
            found = verdict.lives(tx)
            batch = batch_query.get(tx, self.batch_id)
            assert batch is not None
            messages = verdict.told(tx, self.postman.received, self.interactive, self.postman.deaths)
        told = self.told.forecast if self.told is not None else None
        made = self.made or self.start
        range_ = ""
        if told is not None and told.earliest and told.latest:
            low, high = (self.windows.open_seconds(made, at) / 3600 for at in (told.earliest, told.latest))
            range_ = f"({low:.1f} to {high:.1f})"
        return [
            verdict.inside(found, spans, self.windows, self.rates),
            verdict.once(found, self.plan.episodes, self.interactive, batch.succeeded),
            verdict.overlaps(spans),
            verdict.busy(spans, found, self.windows, self.plan.cards),
            verdict.forecast(self.windows, made, told.likely if told else None, range_, self.finished),
            verdict.prompt(found, self._disturbed(found), self.rates, self.settings.rering_seconds + LATE),
            messages,
        ]  # fmt: skip

    def _disturbed(self, found: list[verdict.Life]) -> set[str]:
        """Jobs while whose wait a process was dead, or had only just begun again."""
        before = timedelta(seconds=Process.RESTART_SECONDS * 2)
        return {
            life.id
            for life in found
            if life.starts and any(life.created - before <= at <= life.starts[0] for at in self.world.deaths)
        }

    def close(self) -> None:
        self.world.database.dispose()


def played(plan: Plan, url: str) -> tuple[Week, list[Figure]]:
    """Plays a week through on an empty, migrated database."""
    with tempfile.TemporaryDirectory(prefix="nightshift-nights-") as folder:
        week = Week(plan, url, Path(folder))
        try:
            week.run()
            return week, week.figures()
        finally:
            week.close()
