"""Voices in the Python client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from nightshift.errors import JobEnded, NightshiftClientError
from nightshift.transport import Transport, read


class Voice:
    """A voice as it was when it was last looked at; `refresh` and `wait` look again."""

    def __init__(self, transport: Transport, body: Mapping[str, Any]) -> None:
        self._transport = transport
        self.body = dict(body)

    def __repr__(self) -> str:
        return f"<Voice {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def name(self) -> str:
        return str(self.body["name"])

    @property
    def state(self) -> str:
        """`draft`, or `ready` to speak."""
        return str(self.body["state"])

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    @property
    def needs(self) -> str | None:
        """What a draft waits for: `preparation`, or the `transcript` to be confirmed."""
        return self.body["needs"]

    @property
    def transcript(self) -> str | None:
        """What is said in the excerpt; of a draft, as it was heard."""
        return self.body["transcript"]

    @property
    def excerpt(self) -> dict[str, Any] | None:
        """start, end: seconds of the recording; url: a link that works for a while without a key."""
        return self.body["excerpt"]

    @property
    def error(self) -> dict[str, Any] | None:
        return self.body["error"]

    def refresh(self) -> Voice:
        self.body = self._transport.call("GET", f"/v1/voices/{self.id}")
        return self

    def wait(self, timeout: float | None = None, poll: float = 0.5) -> Voice:
        """Waits until it is prepared: ready, or a draft whose transcript is to be confirmed.

        Raises JobEnded where it cannot be prepared, TimeoutError after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        while self.needs == "preparation":
            if self.error is not None:
                raise JobEnded(str(self.body["job"]), "failed", self.error)
            if deadline is not None and time.monotonic() + poll > deadline:
                raise TimeoutError(f"{self.id} is not prepared after {timeout:g} s")
            time.sleep(poll)
            self.refresh()
        return self

    def confirm(self, transcript: str | None = None) -> Voice:
        """Says what the exact words of the excerpt are; None: those that were drafted."""
        words = transcript if transcript is not None else self.transcript
        if words is None:
            raise NightshiftClientError(f"Nothing was drafted for {self.id}: say what you hear in its excerpt.")
        return self._change({"transcript": words})

    def rename(self, name: str) -> Voice:
        return self._change({"name": name})

    def listen(self, path: str | PathLike[str]) -> Path:
        """Saves the excerpt, a FLAC file, under this name."""
        if self.refresh().excerpt is None:
            raise NightshiftClientError(f"{self.id} is not prepared yet.")
        assert self.excerpt is not None
        response = self._transport.plain.get(self.excerpt["url"])
        if response.status_code >= 400:
            read(response)
        target = Path(path)
        target.write_bytes(response.content)
        return target

    def delete(self) -> None:
        """With its audio, the upload it was made from, and the jobs that prepared it."""
        self._transport.call("DELETE", f"/v1/voices/{self.id}")

    def _change(self, body: Mapping[str, str]) -> Voice:
        self.body = self._transport.call("PATCH", f"/v1/voices/{self.id}", body=dict(body))
        return self
