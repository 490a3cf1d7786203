"""What `celery --app worker.celery_app` finds. Celery's command wants it made at import; nothing else here is."""

from __future__ import annotations

from common.queue import make_celery
from common.settings import load

app = make_celery(load())
app.conf.include = ["worker.tasks"]
