"""Celery's tasks, all of them."""

from __future__ import annotations

from celery import shared_task

from common.queue import RUN_TASK
from worker.answer import answer
from worker.child import runner


@shared_task(name=RUN_TASK)
def run(job_id: str) -> bool:
    """The bell of a job: works on the next one of its lane; says whether there was one."""
    return answer(runner(), job_id)
