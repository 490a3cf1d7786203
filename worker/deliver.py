"""Callbacks out: takes due messages from the outbox, sends each once, and writes down what came of it."""

from __future__ import annotations

import random
import signal
import socket
import sys
import threading
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from common import log, settings
from common.db.engine import Database
from common.jobs import callbacks
from common.jobs.callbacks import Callback
from common.outbound.backoff import Outcome, next_try
from common.outbound.webhooks import Delivery, post, sign
from common.secret import signing_key
from common.settings import Settings
from worker.presence import Presence

_log = log.get(__name__)

AT_ONCE = 16
POLL_SECONDS = 1.0


class Deliverer:
    """Sends messages, several at once, at most two to one host. None waits for another's receiver."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._signing_key = signing_key(settings)

    def serve(self, over: threading.Event) -> None:
        """Sends what is due until `over`; then waits for what is under way."""
        under_way: dict[Future[None], str] = {}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="deliver") as pool:
            while not over.is_set():
                for callback in self._take(AT_ONCE - len(under_way), Counter(under_way.values())):
                    under_way[pool.submit(self._deliver, callback)] = callback.host
                if under_way:
                    # Whichever ends makes room for the next.
                    for ended in wait(under_way, POLL_SECONDS, FIRST_COMPLETED).done:
                        del under_way[ended]
                else:
                    over.wait(POLL_SECONDS)

    def _take(self, places: int, busy: Counter[str]) -> list[Callback]:
        """Messages to send now. Each is held for longer than a try can take: one whose deliverer dies is sent again by
        the next, under the same webhook-id."""
        if not places:
            return []
        try:
            with self._database.write() as tx:
                return callbacks.due(tx, places, self._settings.callback_timeout_seconds * 2 + 30, busy=busy)
        except SQLAlchemyError as error:
            _log.warning("the database did not answer", error=type(error).__name__)
            return []

    def _deliver(self, callback: Callback) -> None:
        with log.bound(callback=callback.id, job=callback.job_id):
            try:
                delivery = self._send(callback)
                self._record(callback, delivery)
            except SQLAlchemyError as error:
                _log.warning("the database did not answer; the message will be sent again", error=type(error).__name__)
            except Exception:
                _log.exception("a callback could not be handled")

    def _send(self, callback: Callback) -> Delivery:
        with self._database.read() as tx:
            secrets = callbacks.secrets(tx, self._signing_key, callback.key_id)
        body = callback.body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Nightshift-Callbacks/1",
            **sign(secrets, callback.id, datetime.now(UTC), body),
        }
        return post(
            callback.url,
            body,
            headers,
            timeout=self._settings.callback_timeout_seconds,
            allow_hosts=self._settings.allow_private_hosts,
        )

    def _record(self, callback: Callback, delivery: Delivery) -> None:
        outcome = delivery.outcome
        state = self._database.run(
            callbacks.record,
            callback,
            status=delivery.status,
            error=delivery.error,
            duration_ms=round(delivery.duration * 1000),
            response=delivery.response.replace("\0", "") or None,
            next_in=next_try(callback.tries, delivery.retry_after),
            gone=outcome is Outcome.GONE,
            disable_after_seconds=self._settings.callback_disable_days * 86400,
        )
        _log.info("callback tried", status=delivery.status, error=delivery.error, tries=callback.tries, state=state)


def main() -> int:
    made = settings.load()
    log.setup(made)
    database = Database(made.database)
    name = f"deliverer@{socket.gethostname()}:{random.randrange(10**6)}"
    presence = Presence(database, name, "deliverer", beat_seconds=made.beat_seconds)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    presence.start()
    _log.info("deliverer is there", name=presence.name)
    try:
        Deliverer(made, database).serve(over)
    finally:
        presence.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
