"""A Celery worker whose runner writes down what it is asked for: the wiring is real, the work is not.

Jobs whose id begins with `job_wait` last until the file `go` appears in the folder named by RECORDING_FOLDER.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from worker import child
from worker.celery_app import app


class RecordingRunner:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.presence = self

    @property
    def draining(self) -> bool:
        return (self._folder / "drain").exists()

    def drain(self) -> None:
        self._note("drained")

    def start(self) -> None:
        self._note("opened")

    def run(self, job_id: str | None = None) -> bool:
        self._note("began", job_id)
        while str(job_id).startswith("job_wait") and not (self._folder / "go").exists():
            time.sleep(0.02)
        self._note("ended", job_id)
        return True

    def close(self) -> None:
        self._note("closed")

    def _note(self, what: str, job_id: str | None = None) -> None:
        with (self._folder / "record").open("a") as record:
            record.write(f"{os.getpid()} {what} {job_id or '-'}\n")


app.conf.include = [*app.conf.include, __name__]
child.opener = lambda: RecordingRunner(Path(os.environ["RECORDING_FOLDER"]))  # type: ignore[assignment,return-value]
