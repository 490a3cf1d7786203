"""The doorbell: Celery's configuration, the names of its queues, and ringing.

A message carries a job's id and nothing else; the database says what becomes of the job. Losing a message or delivering
it twice changes nothing, so ringing never fails: the scheduler rings again for what nobody answered.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from common import log
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs.queueing import Bell
from common.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

_log = log.get(__name__)

RUN_TASK = "nightshift.run"

# A worker waits for the broker as long as it takes; a caller's request does not.
_PATIENT = {"socket_timeout": 10, "socket_connect_timeout": 5}
_BRIEF = {
    "socket_timeout": 1,
    "socket_connect_timeout": 1,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}
_ONE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def queue_name(prefix: str, lane: str, *, interactive: bool) -> str:
    return f"{prefix}.{lane}.{'interactive' if interactive else 'batch'}"


def queue_names(prefix: str, lanes: Collection[str]) -> list[str]:
    """The queues a worker of these lanes looks into, in that order: what somebody waits for before all bulk work."""
    return [queue_name(prefix, lane, interactive=interactive) for interactive in (True, False) for lane in lanes]


def make_celery(settings: Settings, *, brief: bool = False) -> Celery:
    """Celery on the broker of the settings. brief: gives up on a broker that does not answer, after a second or so.

    Raises `unavailable` where the settings name no broker.
    """
    # Here, because it takes a third of a second to import, and an embedded installation has no broker.
    from celery import Celery
    from kombu.entity import Queue

    if settings.broker is None:
        raise NightshiftError(
            "unavailable",
            "No broker is configured.",
            hint="Set NIGHTSHIFT_BROKER_URL, for example redis://127.0.0.1/0.",
        )
    app = Celery("nightshift", broker=settings.broker, set_as_current=not brief)
    names = queue_names(settings.broker_prefix, list(Lane))
    app.conf.update(
        # Early acknowledgement, no results, no retry, no ETA: the database has the lease, the result and the backoff.
        task_acks_late=False,
        task_ignore_result=True,
        result_backend=None,
        # One spawned child, which alone touches the card; the main process answers while the child computes.
        worker_pool="prefork",
        worker_concurrency=1,
        worker_pool_start_method="spawn",
        worker_proc_alive_timeout=60.0,
        # A message is taken only by a worker that is free.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        task_queues=[Queue(name) for name in names],  # type: ignore[no-untyped-call]
        task_default_queue=names[-1],
        # A misspelt queue is an error, not a bell in a room nobody enters.
        task_create_missing_queues=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=1 if brief else 5,
        broker_transport_options={
            **(_BRIEF if brief else _PATIENT),
            "health_check_interval": 5,
            "socket_keepalive": True,
            # Several installations, and tests, may share a Redis.
            "global_keyprefix": f"{settings.broker_prefix}:",
            "queue_order_strategy": "priority",
            "priority_steps": [0],
        },
        # Flower needs both.
        worker_send_task_events=True,
        task_send_sent_event=True,
        enable_utc=True,
        timezone="UTC",
        task_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        worker_redirect_stdouts=False,
    )
    return app


class Ringer(Protocol):
    """Wakes workers. A lost bell is rung again by the scheduler."""

    def ring(self, bells: Iterable[Bell]) -> None:
        """Rings once for each; never raises."""


class SilentRinger:
    """Where no broker is: workers look into the database themselves."""

    def ring(self, bells: Iterable[Bell]) -> None:
        """Rings nothing."""


class CeleryRinger:
    """Rings through Celery. While the broker is away it tries once in `quiet_seconds`, and drops the other bells."""

    def __init__(
        self,
        app: Celery,
        prefix: str,
        *,
        quiet_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._prefix = prefix
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._outage: float | None = None
        self._dropped = 0

    def ring(self, bells: Iterable[Bell]) -> None:
        for bell in bells:
            if not self._may_try():
                continue
            try:
                self._app.send_task(RUN_TASK, **message(bell, self._prefix))
            except Exception as error:
                self._failed(error)
            else:
                self._worked()

    def _may_try(self) -> bool:
        with self._lock:
            now = self._clock()
            if self._outage is None:
                return True
            if now < self._outage:
                self._dropped += 1
                return False
            # This caller finds out; the others need not wait for the answer too.
            self._outage = now + self._quiet_seconds
            return True

    def _failed(self, error: Exception) -> None:
        with self._lock:
            first = self._outage is None
            self._dropped += 1
            self._outage = self._clock() + self._quiet_seconds
        if first:
            _log.warning(
                "the broker does not answer; the scheduler will ring again", error=f"{type(error).__name__}: {error}"
            )

    def _worked(self) -> None:
        with self._lock:
            if self._outage is None:
                return
            dropped, self._dropped, self._outage = self._dropped, 0, None
        _log.info("the broker answers again", dropped_bells=dropped)


def message(bell: Bell, prefix: str) -> dict[str, Any]:
    """The arguments of Celery's `send_task`. Only the id is carried; the rest is for whoever watches Flower."""
    return {
        "args": (bell.job_id,),
        # Unique per ring, for Celery knows a task by it; the job's id in front, for people know the job by that.
        "task_id": f"{bell.job_id}.{secrets.token_hex(4)}",
        "queue": queue_name(prefix, bell.lane, interactive=bell.interactive),
        "argsrepr": repr((bell.job_id,)),
        "kwargsrepr": repr({"kind": str(bell.kind), "engine": bell.engine, "batch": bell.batch}),
        "ignore_result": True,
        # Once more on a fresh connection: the broker may have been restarted since the last bell.
        "retry": True,
        "retry_policy": _ONE_MORE,
    }


def open_ringer(settings: Settings) -> Ringer:
    if settings.broker is None:
        return SilentRinger()
    return CeleryRinger(make_celery(settings, brief=True), settings.broker_prefix)
