"""Callbacks out: takes due messages from the outbox, sends each once, and writes down what came of it.

The process also carries results into buckets (`worker.transfer`), in threads of their own.
"""

from __future__ import annotations

import random
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Collection
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
from common.storage import open_store
from worker import outbox
from worker.presence import Presence
from worker.transfer import Carrier

_log = log.get(__name__)

AT_ONCE = 16


class Deliverer:
    """Sends messages, several at once, at most two to one host. None waits for another's receiver."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._signing_key = signing_key(settings)

    def serve(self, over: threading.Event) -> None:
        """Sends what is due until `over`; then waits for what is under way."""
        outbox.serve("deliver", AT_ONCE, self._take, self._deliver, over)

    def _take(self, places: int, under_way: Collection[Callback]) -> list[Callback]:
        """Messages to send now. Each is held for longer than a try can take: one whose deliverer dies is sent again by
        the next, under the same webhook-id."""
        busy = Counter(callback.host for callback in under_way)
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
    # Beside the callbacks: a copy may take an hour.
    carrier = Carrier(made, database, open_store(made))
    carrying = threading.Thread(target=carrier.serve, args=(over,), name="carry")
    carrying.start()
    try:
        Deliverer(made, database).serve(over)
    finally:
        over.set()
        carrying.join()
        presence.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
