"""Celery's tasks, all of them."""

from __future__ import annotations

from celery import shared_task

from common.queue import RUN_TASK
from worker.answer import answer
from worker.child import runner


@shared_task(name=RUN_TASK)
def run(job_id: str) -> bool:
    """Works on the job if it is still there to be claimed; says whether it was."""
    return answer(runner(), job_id)
