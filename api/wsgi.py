"""For WSGI servers: `gunicorn --worker-class gthread api.wsgi:app`. The one module that works at import."""

from __future__ import annotations

from api import create_app
from common import log
from common.settings import load

settings = load()
log.setup(settings)
app = create_app(settings)
