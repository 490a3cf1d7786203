"""The processes of `manifest`, with nothing loaded that the service itself would not load.

`python -m bench.manifest_process intake BATCH …` takes batches in, `… output TOKEN BATCH …` reads their results from
the API. Both print a JSON list with an object for each batch: `seconds` of it alone, `peak_mb` of the process so far,
and `lines`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from bench.peak import peak_mb
from common import settings


def intake(batch_ids: Sequence[str]) -> list[dict[str, Any]]:
    from common.batches.intake import Intake
    from common.db.engine import Database
    from common.jobs.batch import BatchState
    from common.storage import open_store

    made = settings.load()
    work = Intake(made, Database(made.database), open_store(made))

    def take_in(batch_id: str) -> int:
        batch = work.run(batch_id)
        if batch is None or batch.state is not BatchState.ACTIVE:
            raise RuntimeError(f"the batch was not taken in: {batch}")
        return batch.total

    return [_measured(take_in, batch_id) for batch_id in batch_ids]


def output(token: str, batch_ids: Sequence[str]) -> list[dict[str, Any]]:
    from api import create_app

    client = create_app(settings.load()).test_client()

    def read(batch_id: str) -> int:
        address = f"/v1/batches/{batch_id}/output.jsonl"
        answer = client.get(address, headers={"Authorization": f"Bearer {token}"}, buffered=False)
        if answer.status_code != 200:
            raise RuntimeError(f"it was answered {answer.status_code}: {answer.get_data(as_text=True)[:500]}")
        return sum(part.count(b"\n") for part in answer.iter_encoded())

    return [_measured(read, batch_id) for batch_id in batch_ids]


def _measured(work: Callable[[str], int], batch_id: str) -> dict[str, Any]:
    began = time.perf_counter()
    lines = work(batch_id)
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(psutil.Process()), "lines": lines}


if __name__ == "__main__":
    told = sys.argv[2:]
    print(json.dumps(intake(told) if sys.argv[1] == "intake" else output(told[0], told[1:])))
