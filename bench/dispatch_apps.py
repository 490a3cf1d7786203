"""What both ends of `dispatch` share: how they meet in the broker, and bare Celery's application."""

from __future__ import annotations

from celery import Celery

from common.settings import Settings

DONE = "bench.done"
GATE = "bench.gate"
BARE_TASK = "bare"
WORKER = "cpu0@bench"


def make_bare(settings: Settings) -> Celery:
    """Celery as it comes, but with one process, as the service has one per card, and without stored results."""
    app = Celery("bare", broker=settings.broker, set_as_current=False)
    app.conf.update(task_ignore_result=True, worker_concurrency=1, task_default_queue="bare")
    return app
