"""What a batch would be, without making it: the same items, judged the same way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import BinaryIO

from common.batches import expected, sources
from common.batches.expected import Expected, Form, Measured, Results
from common.batches.intake import Intake, Judge, source_of
from common.batches.sources import Harvest
from common.batches.template import Template
from common.db import uploads
from common.errors import NightshiftError
from common.jobs import batches, outlook, speeds
from common.jobs.batch import OnError
from common.jobs.batches import CHUNK, Entry
from common.jobs.outlook import Outlook
from common.jobs.speeds import Lane
from common.naming import Template as Naming
from common.params.batch import BatchRequest, BatchWork

MAX_REJECTS = 100
NAMES = 5


@dataclass
class Plan:
    """seconds, bytes: of the media of those items whose source says; known: of how many.  rejects: the first ones.
    target: where the first of `names` would be delivered to.
    outlook: as if it were started now, among all that waits.  results: their size; both None where there are no jobs.
    starts: False where an item is wrong and the request says that this stops the batch.
    """

    name: str
    jobs: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    rejects: list[Entry] = field(default_factory=list)
    seconds: float = 0.0
    seconds_known: int = 0
    bytes: int = 0
    bytes_known: int = 0
    names: list[str] = field(default_factory=list)
    target: str | None = None
    window: str | None = None
    opens_at: datetime | None = None
    first_window_seconds: float | None = None
    deadline: datetime | None = None
    outlook: Outlook | None = None
    results: Results | None = None
    starts: bool = True


def plan(intake: Intake, key_id: str, request: BatchWork, body: BinaryIO | None = None) -> Plan:
    """body: a manifest that came with the request. Raises what making the batch would raise, and what reading its
    source does."""
    intake.check(request)
    template = intake.template(key_id, request)
    made, wanted = Plan(template.work["batch"], deadline=request.deadline), Expected()
    judge = Judge(intake, key_id, template)
    marks: set[str] = set()
    harvest = _harvest(intake, key_id, request, template, body)
    while chunk := list(islice(harvest.found, CHUNK)):
        entries = judge.entries(chunk)
        with intake.database.read() as tx:
            marks |= batches.taken(tx, key_id, [entry.mark for entry in entries if entry.mark])
        for found, entry in zip(chunk, entries, strict=True):
            if entry.error is not None:
                made.rejected += 1
                made.rejects += [entry] if made.rejected <= MAX_REJECTS else []
            elif entry.mark is not None and entry.mark in marks:
                made.skipped["taken_before"] += 1
            else:
                marks |= {entry.mark} if entry.mark else set()
                made.jobs += 1
                _add(made, found)
                _name(made, template, entry)
                assert entry.request is not None
                wanted.add(entry.request, found.seconds)
    made.skipped += harvest.skipped
    made.starts = not made.rejected or request.on_error is not OnError.STOP
    if request.deliver is not None and made.names:
        made.target = request.deliver.to + made.names[0]
    _window(made, intake, request)
    if made.jobs:
        _foretell(made, intake, key_id, request, wanted)
    return made


def _foretell(plan: Plan, intake: Intake, key_id: str, request: BatchWork, wanted: Expected) -> None:
    work = wanted.work()
    lanes: list[Lane] = [(one.engine, one.lane) for one in work]
    with intake.database.read() as tx:
        plan.outlook = outlook.planned(
            tx, intake.settings.alive_seconds, key_id, work, weight=request.weight, windows=request.window,
            urgent=request.priority == "interactive", deadline=request.deadline,
        )  # fmt: skip
        typical = {lane: speed.mean for lane, speed in speeds.speeds(tx, lanes).items()}
        done = {lane: speeds.finished(tx, lane) for lane in lanes}

    def measure(lane: Lane, form: Form) -> Measured | None:
        return expected.measured(done[lane], form)

    plan.results = wanted.results(measure, typical)


def _harvest(
    intake: Intake, key_id: str, request: BatchWork, template: Template, body: BinaryIO | None
) -> Harvest:  # fmt: skip
    if body is not None:
        return Harvest(sources.from_manifest(body))
    assert isinstance(request, BatchRequest)
    if request.items is not None:
        return Harvest(sources.from_items(request.items))
    if request.manifest is not None:
        with intake.database.read() as tx:
            upload = uploads.get(tx, request.manifest, key_id)
        if upload is None or upload.state != "ready":
            raise NightshiftError("input_missing", "There is no such upload, or not its bytes.", pointer="/manifest")
        return Harvest(sources.from_manifest(intake.store.open(upload.storage_key)))
    return intake.harvest(key_id, source_of(request), template)


def _add(plan: Plan, found: sources.Found) -> None:
    if found.seconds is not None:
        plan.seconds += found.seconds
        plan.seconds_known += 1
    if found.bytes is not None:
        plan.bytes += found.bytes
        plan.bytes_known += 1


def _name(plan: Plan, template: Template, entry: Entry) -> None:
    if len(plan.names) < NAMES:
        given = {**entry.fields, "batch": plan.name, "index": str(entry.position), "job": "job"}
        plan.names.append(Naming.parse(template.naming).render(given, "stem", "flac"))


def _window(plan: Plan, intake: Intake, request: BatchWork) -> None:
    if request.window is None:
        return
    with intake.database.read() as tx:
        now = tx.instant()
    opens = request.window.next_opening(now)
    first = next(request.window.intervals(opens, opens.astimezone(UTC) + timedelta(days=8)))
    plan.window = str(request.window)
    plan.opens_at = opens if opens > now else None
    plan.first_window_seconds = first.seconds
