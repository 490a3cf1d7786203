"""Figures for Prometheus: requests as they pass, the queue as the database has it when it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.context import Service
from common.db import processes
from common.engines import Lane
from common.jobs import figures, query

# Jobs that ended so long ago still count as recent.
RECENT_SECONDS = 3600.0

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Requests:
    """Counts and times the requests of this process, by rule: addresses with ids would make series without end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "nightshift_http_request_seconds",
            "Time until the first byte of the answer",
            ("method", "rule", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )

    def install(self, app: Flask) -> None:
        @app.before_request
        def start() -> None:
            g.started = time.perf_counter()

        @app.after_request
        def count(response: Response) -> Response:
            rule = request.url_rule.rule if request.url_rule else "none"
            method = request.method if request.method in _METHODS else "other"
            labels = (method, rule, str(response.status_code))
            self._seconds.labels(*labels).observe(time.perf_counter() - g.get("started", time.perf_counter()))
            return response


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})


class QueueFigures(Collector):
    """The queue, its processes and the callbacks, read from the database."""

    def __init__(self, here: Service) -> None:
        self._here = here

    def collect(self) -> Iterator[Metric]:
        with self._here.database.read() as tx:
            depth = query.depth(tx)
            oldest = query.oldest(tx)
            ended = figures.ended(tx, RECENT_SECONDS)
            lost = figures.lost_leases(tx, RECENT_SECONDS)
            outbox = figures.outbox(tx)
            deliveries = figures.deliveries(tx, RECENT_SECONDS)
            there = [p for p in processes.list_all(tx, self._here.settings.alive_seconds) if p.alive]
            now = tx.instant()
        workers = [process for process in there if process.role == "worker"]
        jobs = GaugeMetricFamily(
            "nightshift_jobs", "Unfinished jobs; later: not due, or of a closed batch", labels=("lane", "state")
        )
        age = GaugeMetricFamily("nightshift_oldest_job_seconds", "Wait of the oldest due job", labels=("lane",))
        losses = GaugeMetricFamily(
            "nightshift_lost_leases", "Leases that ran out, of unfinished jobs and the last hour's", labels=("lane",)
        )
        alive = GaugeMetricFamily("nightshift_workers", "Live workers", labels=("lane", "control"))
        for lane in Lane:
            for state in query.STANDINGS:
                jobs.add_metric((lane, state), depth.get(lane, {}).get(state, 0))
            age.add_metric((lane,), oldest.get(lane, 0.0))
            losses.add_metric((lane,), lost.get(lane, 0))
            for control in ("run", "pause", "drain"):
                alive.add_metric((lane, control), sum(lane in w.lanes and w.control == control for w in workers))
        yield from (jobs, age, losses, alive, *_endings(ended))
        quarantined = sum(w.quarantined_until is not None and w.quarantined_until > now for w in workers)
        yield GaugeMetricFamily(
            "nightshift_quarantined_workers", "Live workers that get no job for a while", quarantined
        )
        roles = GaugeMetricFamily("nightshift_processes", "Live processes", labels=("role",))
        for role in ("worker", "scheduler", "deliverer"):
            roles.add_metric((role,), sum(process.role == role for process in there))
        yield roles
        yield from _callbacks(outbox)
        results = GaugeMetricFamily(
            "nightshift_deliveries",
            "Results to be delivered into buckets; failed: given up in the last hour",
            labels=("state",),
        )
        results.add_metric(("pending",), deliveries.pending - deliveries.retrying)
        results.add_metric(("retrying",), deliveries.retrying)
        results.add_metric(("failed",), deliveries.failed)
        yield results


def _endings(ended: Mapping[tuple[str, str, str], int]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "nightshift_jobs_ended", "Jobs that ended in the last hour", labels=("lane", "state", "reason")
    )
    for labels, count in sorted(ended.items()):
        family.add_metric(labels, count)
    yield family


def _callbacks(outbox: figures.Outbox) -> Iterator[Metric]:
    messages = GaugeMetricFamily("nightshift_callbacks", "Callbacks to be delivered", labels=("tried",))
    messages.add_metric(("yes",), outbox.retrying)
    messages.add_metric(("no",), outbox.pending - outbox.retrying)
    yield messages
    yield GaugeMetricFamily(
        "nightshift_late_callback_seconds", "How long the most overdue callback has been due", outbox.late_seconds
    )
    receivers = GaugeMetricFamily("nightshift_callback_receivers", "Addresses in trouble", labels=("state",))
    receivers.add_metric(("failing",), outbox.failing)
    receivers.add_metric(("disabled",), outbox.disabled)
    yield receivers


def exposition(here: Service) -> tuple[bytes, str]:
    """The text and its content type."""
    queue = CollectorRegistry(auto_describe=False)
    queue.register(QueueFigures(here))
    return generate_latest(here.requests.registry) + generate_latest(queue), CONTENT_TYPE_LATEST
