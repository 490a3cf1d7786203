"""Pure: batches, plans, presets and schedules as their owner sees them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from api import schemas
from common.batches.planning import Plan
from common.engines import Kind
from common.forecast import Estimate, Why
from common.jobs.batch import Batch, BatchState, Reject
from common.jobs.outlook import Outlook
from common.jobs.schedules import Schedule, Tick
from common.presets import Preset
from common.retention import Retention
from common.states import State

HINTS = {
    Why.NO_CARDS: "No worker that takes such jobs is there. Start one; nightshift doctor tells what is wrong.",
    Why.NOT_MEASURED: "No job of this engine has finished yet. Run one first, a batch of one item for instance.",
    Why.LENGTHS_UNKNOWN: "Nothing tells how long the audio is. Run one job first: its length then stands for others.",
    Why.BEYOND_HORIZON: "It would take more than ten years. Give it more workers, or a longer window.",
}


def batch_view(
    batch: Batch, keep: Retention, under_way: Mapping[State, int], now: datetime, outlook: Outlook | None = None,
    held_until: datetime | None = None,
) -> schemas.Batch:  # fmt: skip
    """keep: how long this service keeps what has ended.  under_way: its jobs that are queued and running.
    held_until: while its key has used its hours of the day."""
    work = batch.template["work"]
    paused = batch.state is BatchState.PAUSED
    queued, running = under_way.get(State.QUEUED, 0), under_way.get(State.RUNNING, 0)
    return schemas.Batch(
        id=batch.id,
        name=batch.name,
        state=batch.state,
        reason=batch.reason,
        counts=schemas.BatchCounts(
            total=batch.total,
            rejected=batch.rejected,
            skipped=batch.skipped,
            # Counted at another moment than the rest, and so never shown below nothing.
            waiting=max(0, batch.total - batch.ended - queued - running),
            queued=queued,
            running=running,
            succeeded=batch.succeeded,
            failed=batch.failed,
            cancelled=batch.cancelled,
            expired=batch.expired,
        ),
        percent=round(100 * batch.ended / batch.total, 1) if batch.total else 100.0 if batch.over else 0.0,
        source={name: value for name, value in batch.source.items() if name != "key"},
        preset=work.get("preset"),
        kind=work.get("kind"),
        engine=work.get("engine"),
        params=dict(work["params"]),
        priority=work["priority"],
        naming=batch.template["naming"],
        only_new=batch.template["only_new"],
        window=batch.window,
        open=batch.open_until is not None and batch.open_until > now,
        changes_at=batch.changes_at,
        held_until=None if batch.over else held_until,
        deadline=batch.deadline,
        risk=None if batch.over else batch.risk,
        audio=_audio(batch),
        on_error=batch.on_error,
        weight=batch.weight,
        callback_url=batch.callback["url"] if batch.callback else None,
        schedule=batch.schedule_id,
        delivery=schemas.BatchDelivery(**batch.delivery) if batch.delivery else None,
        error=schemas.JobError(**batch.error) if batch.error else None,
        created_at=batch.created_at,
        finished_at=batch.finished_at,
        expires_at=keep.expires_at(batch.finished_at, batch.expiry_told_at),
        warned_at=batch.expiry_told_at,
        updated_at=batch.updated_at,
        # Of what waits for somebody's word, or for another day, nobody knows when it will be done.
        forecast=_forecast(outlook) if outlook is not None and not (paused or held_until) else None,
    )


def _audio(batch: Batch) -> schemas.BatchAudio | None:
    if batch.template["work"].get("kind") == Kind.SEGMENTATION:
        return None
    left = 0 if batch.over else batch.total - batch.ended
    return schemas.BatchAudio(done=batch.audio_done, left=max(0.0, batch.length), unknown=max(0, left - batch.lengths))


def _forecast(outlook: Outlook) -> schemas.BatchForecast:
    found = outlook.forecast
    return schemas.BatchForecast(
        earliest=found.earliest,
        likely=found.likely,
        latest=found.latest,
        worker_seconds=_share(found.card_seconds),
        closes=found.closes,
        by_close=_share(found.by_close) if found.by_close is not None else None,
        nights=found.nights,
        workers={lane: int(cards) for lane, cards in outlook.cards.items()},
        risk=outlook.risk,
        missing=[
            schemas.ForecastMissing(why=one.why, engine=one.engine, lane=one.lane, hint=HINTS[one.why])
            for one in found.missing
        ],
    )


def _share(estimate: Estimate) -> schemas.Share:
    return schemas.Share(low=estimate.low, likely=estimate.likely, high=estimate.high)


def reject_view(reject: Reject) -> schemas.Rejected:
    return schemas.Rejected(item=reject.item, source=reject.source, error=schemas.JobError(**reject.error))


def plan_view(plan: Plan) -> schemas.Plan:
    return schemas.Plan(
        name=plan.name,
        jobs=plan.jobs,
        skipped=dict(plan.skipped),
        rejected=plan.rejected,
        rejects=[
            schemas.Rejected(item=entry.position, source=entry.source, error=schemas.JobError(**(entry.error or {})))
            for entry in plan.rejects
        ],
        seconds=plan.seconds if plan.seconds_known else None,
        seconds_known=plan.seconds_known,
        bytes=plan.bytes if plan.bytes_known else None,
        names=list(plan.names),
        target=plan.target,
        window=plan.window,
        opens_at=plan.opens_at,
        first_window_seconds=plan.first_window_seconds,
        deadline=plan.deadline,
        results=schemas.PlanResults(**plan.results._asdict()) if plan.results is not None else None,
        forecast=_forecast(plan.outlook) if plan.outlook is not None else None,
        starts=plan.starts,
    )


def preset_view(preset: Preset) -> schemas.Preset:
    return schemas.Preset(
        name=preset.name,
        version=preset.version,
        built_in=preset.built_in,
        description=preset.description,
        kind=preset.work.get("kind"),
        engine=preset.work.get("engine"),
        params=dict(preset.work.get("params") or {}),
    )


def schedule_view(schedule: Schedule) -> schemas.Schedule:
    return schemas.Schedule(
        id=schedule.id,
        name=schedule.name,
        cron=schedule.cron,
        timezone=schedule.timezone,
        missed=schedule.missed,
        paused=schedule.paused,
        batch=dict(schedule.batch),
        deadline_after=timedelta(seconds=schedule.deadline_after) if schedule.deadline_after is not None else None,
        next_at=None if schedule.paused else schedule.next_at,
        created_at=schedule.created_at,
        updated_at=schedule.updated_at,
    )


def tick_view(tick: Tick) -> schemas.ScheduleTick:
    return schemas.ScheduleTick(
        tick=tick.tick,
        outcome=tick.outcome,
        batch=tick.batch_id,
        missed=tick.missed,
        error=schemas.JobError(**tick.error) if tick.error else None,
        at=tick.at,
    )
