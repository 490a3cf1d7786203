"""Results into buckets: takes due transfers from the outbox, copies what is not there yet, and writes down what came
of it."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from common import log
from common.batches.outputs import check_bucket, targets
from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import batch_query, query, transfers
from common.jobs.transfers import Transfer
from common.naming import Template
from common.outbound.backoff import DELIVERY, REFUSED_DELIVERY, next_try
from common.settings import Settings
from common.storage.store import Store
from worker import outbox

if TYPE_CHECKING:
    from common.storage.s3_outputs import S3Outputs

_log = log.get(__name__)

AT_ONCE = 8
PER_BUCKET = 4
# Renewed while a copy goes on: how long that takes, nobody knows.
HOLD_SECONDS = 120.0
# What trying again cannot mend, and what somebody may be about to mend.
_FINAL = frozenset({"target_exists", "input_missing"})
_REFUSED = frozenset({"delivery_refused", "bucket_forbidden"})


class Carrier:
    """Copies results, several jobs' at once, so many of them into one bucket. A second copy of what lies there already
    is none: whoever dies between copying and saying so has done no harm."""

    def __init__(self, settings: Settings, database: Database, store: Store) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._held_at = time.monotonic()

    def serve(self, over: threading.Event) -> None:
        """Carries what is due until `over`; then waits for what is under way."""
        outbox.serve("transfer", AT_ONCE, self._take, self._carry, over, self._hold)

    def _take(self, places: int, under_way: Collection[Transfer]) -> list[Transfer]:
        busy = Counter(transfer.bucket for transfer in under_way)
        try:
            with self._database.write() as tx:
                return transfers.due(tx, places, HOLD_SECONDS, per_bucket=PER_BUCKET, busy=busy)
        except SQLAlchemyError as error:
            _log.warning("the database did not answer", error=type(error).__name__)
            return []

    def _hold(self, under_way: Collection[Transfer]) -> None:
        if not under_way or time.monotonic() < self._held_at + HOLD_SECONDS / 4:
            return
        self._held_at = time.monotonic()
        try:
            with self._database.write() as tx:
                transfers.hold(tx, under_way, HOLD_SECONDS)
        except SQLAlchemyError as error:
            _log.warning("the database did not answer", error=type(error).__name__)

    def _carry(self, transfer: Transfer) -> None:
        with log.bound(job=transfer.job_id, batch=transfer.batch_id):
            try:
                self._record(transfer, self._copied(transfer))
            except SQLAlchemyError as error:
                _log.warning("the database did not answer; the results go again", error=type(error).__name__)

    def _copied(self, transfer: Transfer) -> int | NightshiftError:
        """Bytes of all that lies in the bucket now, or why not all does."""
        try:
            return self._copy(transfer)
        except NightshiftError as error:
            return error
        except SQLAlchemyError:
            raise
        except Exception as error:
            _log.exception("results could not be delivered")
            return NightshiftError("internal", f"The results could not be delivered ({type(error).__name__}).")

    def _copy(self, transfer: Transfer) -> int:
        with self._database.read() as tx:
            job, batch = query.get(tx, transfer.job_id), batch_query.get(tx, transfer.batch_id)
        if job is None or job.result is None or batch is None or batch.deliver is None:
            raise NightshiftError("input_missing", "The job was deleted.")
        check_bucket(self._settings, transfer.bucket)
        size = 0
        template = Template.parse(batch.template["naming"])
        for output, target in zip(job.result["outputs"], targets(batch, template, job), strict=True):
            if target is not None:
                self._outputs.bring(output, target, overwrite=batch.deliver["overwrite"])
                size += output["bytes"]
        return size

    @functools.cached_property
    def _outputs(self) -> S3Outputs:
        # boto3 is only needed where something is to be delivered; the embedded stack does without.
        from common.storage.s3_outputs import S3Outputs

        return S3Outputs(self._settings, self._store)

    def _record(self, transfer: Transfer, found: int | NightshiftError) -> None:
        if isinstance(found, int):
            if self._database.run(transfers.done, transfer, found):
                _log.info("results delivered", bytes=found, tries=transfer.tries)
            return
        schedule = () if found.code in _FINAL else REFUSED_DELIVERY if found.code in _REFUSED else DELIVERY
        next_in = next_try(transfer.tries, schedule=schedule)
        self._database.run(transfers.failed, transfer, found.as_job_error(), next_in)
        _log.warning("results not delivered", code=found.code, error=found.detail, tries=transfer.tries, again=next_in)
