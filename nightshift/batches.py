"""Batches for the Python client and the command: started from anywhere, watched, steered, collected."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from common.batches.outputs import PICTURES
from common.globs import Glob
from nightshift.client import Client, Job
from nightshift.errors import NightshiftClientError
from nightshift.files import Tell, save

OVER = frozenset({"finished", "cancelled", "failed"})
MEDIA = "**/*.{aac,aif,aiff,flac,m4a,m4b,mka,mkv,mov,mp3,mp4,ogg,oga,opus,wav,webm,wma}"
# What the API takes in one request; more go by a manifest.
_INLINE = 1000


def _silent(done: int, total: int) -> None:
    pass


class Batches:
    """The batches of one caller."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def start(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Batch:
        """Starts a batch as the API documents it. It is sent again after a broken connection and makes one batch."""
        key = idempotency_key or str(uuid.uuid4())
        body = self._client.transport.call(
            "POST",
            "/v1/batches",
            body=dict(request),
            headers={"Idempotency-Key": key},
            repeatable=True,
            timeout=120.0,
        )
        return Batch(self._client, body)

    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What `start` would make of the same request."""
        return dict(
            self._client.transport.call(
                "POST", "/v1/batches", params={"dry_run": "true"}, body=dict(request), repeatable=True, timeout=120.0
            )
        )

    def source(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The member of a request that gives these items: in itself, or as a manifest that is uploaded."""
        if len(items) <= _INLINE:
            return {"items": [dict(item) for item in items]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.jsonl"
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            return {"manifest": self._client.upload(path)}

    def folder(
        self, folder: str | PathLike[str], include: str = MEDIA, tell: Tell | None = None
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Uploads the files of a folder that a glob means, but those without a byte; gives an item for each. Raises
        FileNotFoundError where there are none."""
        root = Path(folder)
        found = [path for path in self.files(root, include) if path.stat().st_size]
        if not found:
            raise FileNotFoundError(f"{root} has nothing but empty files like {include}")
        return [
            {
                "input": {"upload": self._client.upload(path, tell or _silent)},
                "id": path.relative_to(root).as_posix(),
                "title": path.stem,
            }
            for path in found
        ]

    @staticmethod
    def files(root: Path, include: str = MEDIA) -> list[Path]:
        """The files of a folder that a glob means, by their paths. Raises FileNotFoundError where there are none."""
        glob = Glob.parse(include)
        found = sorted(
            path for path in root.rglob("*") if path.is_file() and glob.matches(path.relative_to(root).as_posix())
        )
        if not found:
            raise FileNotFoundError(f"{root} has no file like {include}")
        return found

    def get(self, batch_id: str) -> Batch:
        return Batch(self._client, self._client.transport.call("GET", f"/v1/batches/{batch_id}"))

    def list(self, *, state: Sequence[str] = (), schedule: str | None = None, page: int = 50) -> Iterator[Batch]:
        """The key's batches, newest first; fetched page by page as they are asked for."""
        cursor: str | None = None
        while True:
            query = {"state": list(state) or None, "schedule": schedule, "limit": page, "cursor": cursor}
            found = self._client.transport.call("GET", "/v1/batches", params=query)
            yield from (Batch(self._client, body) for body in found["items"])
            cursor = found["next"]
            if cursor is None:
                return


class Batch:
    """A batch as it was when it was last looked at; `refresh` and `follow` look again."""

    def __init__(self, client: Client, body: Mapping[str, Any]) -> None:
        self._client = client
        self.body = dict(body)

    def __repr__(self) -> str:
        return f"<Batch {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def state(self) -> str:
        return str(self.body["state"])

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.body["counts"])

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def settled(self) -> bool:
        """Whether it is over and nothing of it is still to be delivered."""
        return self.over and not (self.body["delivery"] or {}).get("pending")

    @property
    def flawless(self) -> bool:
        """Whether every item became a job that succeeded, and no result could not be delivered."""
        counts = self.counts
        all_done = self.state == "finished" and counts["succeeded"] == counts["total"] and not counts["rejected"]
        return all_done and not (self.body["delivery"] or {}).get("failed")

    def refresh(self) -> Batch:
        self.body = self._client.transport.call("GET", f"/v1/batches/{self.id}")
        return self

    def follow(self, timeout: float | None = None, poll: float = 1.0) -> Iterator[Batch]:
        """This batch again and again until it is over and nothing is still to be delivered. Raises TimeoutError after
        `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while True:
            yield self
            if self.settled:
                return
            if deadline is not None and time.monotonic() + poll > deadline:
                raise TimeoutError(f"{self.id} is still {self.state} after {timeout:g} s")
            time.sleep(poll)
            self.refresh()

    def items(self, *, state: Sequence[str] = (), page: int = 100) -> Iterator[Job]:
        """Its jobs, in the order of its items."""
        cursor: str | None = None
        while True:
            query = {"state": list(state) or None, "limit": page, "cursor": cursor}
            found = self._client.transport.call("GET", f"/v1/batches/{self.id}/items", params=query)
            yield from (Job(self._client, body) for body in found["items"])
            cursor = found["next"]
            if cursor is None:
                return

    def output(self) -> Iterator[dict[str, Any]]:
        """A line for each item that has succeeded: its outputs with their paths and links."""
        return self._client.transport.lines(f"/v1/batches/{self.id}/output.jsonl")

    def errors(self) -> Iterator[dict[str, Any]]:
        """A line for each item that could not become a job, whose job did not succeed, or whose results could not be
        delivered."""
        return self._client.transport.lines(f"/v1/batches/{self.id}/errors.jsonl")

    def download(
        self, folder: str | PathLike[str], *, pictures: bool = False, overwrite: bool = False, tell: Tell | None = None
    ) -> Iterator[Path]:  # fmt: skip
        """Saves the results below a folder, by the names of the batch's template; gives the paths as they are there.

        pictures: also those of waveforms, and what they are drawn from.
        A file that is there already is kept where it is the same; another one raises FileExistsError unless
        `overwrite`.
        """
        root = Path(folder).resolve()
        for line in self.output():
            for output in line["outputs"]:
                if output["role"] in PICTURES and not pictures:
                    continue
                target = (root / output["path"]).resolve()
                if not target.is_relative_to(root):
                    raise NightshiftClientError(f"{output['path']} lies outside of {root}")
                named = {**output, "filename": target.name}
                yield save(self._client.transport, named, target.parent, overwrite, tell or _silent)

    def pause(self) -> Batch:
        return self._steer("pause")

    def resume(self) -> Batch:
        return self._steer("resume")

    def change(self, **members: Any) -> Batch:
        """Another `window`, `deadline` or `weight` from now on, as the API takes them; None: no window, no deadline."""
        self.body = self._client.transport.call("PATCH", f"/v1/batches/{self.id}", body=members)
        return self

    def cancel(self) -> Batch:
        return self._steer("cancel")

    def retry_failed(self) -> tuple[int, int, int]:
        """How many of its jobs run again, how many cannot, and of how many the delivery is tried again."""
        done = self._client.transport.call("POST", f"/v1/batches/{self.id}/retry-failed", timeout=120.0)
        self.body = done["batch"]
        return done["again"], done["refused"], done["deliveries"]

    def _steer(self, verb: str) -> Batch:
        self.body = self._client.transport.call(
            "POST", f"/v1/batches/{self.id}/{verb}", repeatable=True, timeout=120.0
        )  # fmt: skip
        return self
