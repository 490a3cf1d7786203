"""The API for tests: the real application, and callers whose every answer is checked against the OpenAPI document."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from api import create_app
from common.db import keys
from common.db.engine import Database
from common.db.keys import Key, Scope
from common.jobs import finish
from common.jobs.job import Job
from common.jobs.queueing import Bell
from common.settings import Settings
from common.storage import keys as layout
from common.storage import open_store
from common.storage.store import Store
from tests import jobs

AUDIO = b"RIFF not really, but the API does not listen"

VOICE = {
    "name": "Ada",
    "input": {"url": "https://media.example/ada.wav"},
    "transcript": "What is said.",
    "consent": {"given_by": "Ada L.", "date": "2026-01-31", "purpose": "the evening news"},
}


class Contract:
    """The OpenAPI document as a judge of answers."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._paths = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$"), path)
            # Fixed paths before those with parameters: /keys/me is not a key.
            for path in sorted(document["paths"], key=lambda path: ("{" in path, path))
        ]

    def operation(self, method: str, path: str) -> Mapping[str, Any] | None:
        """The description of what answers a request; None where the document has nothing there."""
        for pattern, template in self._paths:
            if pattern.match(path) and method.lower() in self.document["paths"][template]:
                found: Mapping[str, Any] = self.document["paths"][template][method.lower()]
                return found
        return None

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raises AssertionError for an answer that the document does not announce."""
        where = f"{method} {path} -> {status}"
        assert headers.get("X-Request-Id"), f"{where}: no request id"
        operation = self.operation("GET" if method == "HEAD" else method, path)
        media = headers.get("Content-Type", "").partition(";")[0]
        if media == "application/problem+json":
            problem = json.loads(body) if body else None
            if problem is not None:
                self._fits({"$ref": "#/components/schemas/Problem"}, problem, where)
                assert problem["status"] == status, where
                assert problem["request_id"] == headers["X-Request-Id"], where
        if operation is None:
            assert status in (404, 405), f"{where}: not in the document"
            return
        described = operation["responses"].get(str(status))
        assert described is not None, f"{where}: the document has {sorted(operation['responses'])}; {body[:300]!r}"
        content = described.get("content", {})
        if not content:
            assert not body, f"{where}: a body where none is announced"
            return
        if media == "application/problem+json" and body:
            assert f"`{json.loads(body)['code']}`" in described["description"], f"{where}: {body!r} not announced"
        assert media in content or "*/*" in content, f"{where}: {media} instead of {sorted(content)}"
        if media in content and media.endswith(("/json", "+json")) and body:
            self._fits(content[media]["schema"], json.loads(body), where)

    def _fits(self, schema: Mapping[str, Any], value: Any, where: str) -> None:
        judge = Draft202012Validator({**schema, "components": self.document["components"]})
        wrong = [f"{error.json_path}: {error.message[:300]}" for error in judge.iter_errors(value)]
        assert not wrong, f"{where}: {wrong}"


class RecordingRinger:
    """Remembers whom it would have rung."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, bells: Iterable[Bell]) -> None:
        self.rung += [bell.job_id for bell in bells]


class Caller:
    """Speaks to the API with one key; every answer is checked."""

    def __init__(self, client: FlaskClient, contract: Contract, key: Key | None, token: str | None) -> None:
        self._client, self._contract, self._token = client, contract, token
        self._key = key

    @property
    def key(self) -> Key:
        assert self._key is not None
        return self._key

    def request(self, method: str, path: str, **more: Any) -> TestResponse:
        headers = dict(more.pop("headers", {}))
        if self._token is not None:
            headers.setdefault("Authorization", f"Bearer {self._token}")
        response = self._client.open(path, method=method, headers=headers, **more)
        streamed = response.mimetype == "text/event-stream"
        body = b"" if streamed else response.data
        self._contract.check(method, path.partition("?")[0], response.status_code, response.headers, body)
        return response

    get = functools.partialmethod(request, "GET")
    post = functools.partialmethod(request, "POST")
    patch = functools.partialmethod(request, "PATCH")
    put = functools.partialmethod(request, "PUT")
    delete = functools.partialmethod(request, "DELETE")

    def upload(self, content: bytes = AUDIO, filename: str = "episode.wav") -> str:
        """Uploads a file; returns the upload's id."""
        response = self.post(f"/v1/uploads?filename={filename}", data=content, content_type="audio/wav")
        assert response.status_code == 201, response.text
        return str(response.json["id"])

    def submit(self, **members: Any) -> TestResponse:
        """Submits a separation of speech; `members` replace its members."""
        headers = members.pop("headers", {})
        body = {"input": {"url": "https://media.example/a.wav"}, "params": {"prompts": ["speech"]}, **members}
        return self.post("/v1/jobs", json=body, headers=headers)


class Api:
    """The application with its parts in reach."""

    def __init__(self, settings: Settings, database: Database, store: Store | None = None) -> None:
        self.settings, self.database = settings, database
        self.store = store or open_store(settings)
        self.ringer = RecordingRinger()
        self.app: Flask = create_app(settings, database=database, store=self.store, ringer=self.ringer)
        self.contract = Contract(self.app.extensions["openapi"])
        self.me = self.caller("me")

    def caller(self, name: str, *scopes: Scope) -> Caller:
        """A caller with a key of its own; read and write unless said otherwise."""
        with self.database.write() as tx:
            key, token = keys.create(tx, name, scopes or (Scope.READ, Scope.WRITE))
        return Caller(self.app.test_client(), self.contract, key, token)

    def stranger(self, token: str | None = None) -> Caller:
        """A caller without a key, or with a token that is none."""
        return Caller(self.app.test_client(), self.contract, None, token)

    def succeeded(self, owner: Caller, files: Mapping[str, bytes] | None = None) -> Job:
        """A job of the owner's that has succeeded, its files in the store."""
        job = jobs.claimed(self.database, jobs.submitted(self.database, owner.key.id).id)
        outputs = []
        for filename, content in (files or {"speech.flac": b"speech" * 1000, "waveform.png": b"picture"}).items():
            key = layout.artifact(job.id, job.attempt, filename)
            media = "image/png" if filename.endswith(".png") else "audio/flac"
            stat = self.store.put(key, io.BytesIO(content), media)
            name = filename.partition(".")[0]
            outputs.append(
                {"name": name, "role": "target", "filename": filename, "content_type": media, "bytes": stat.size,
                 "sha256": "0" * 64, "key": key, "duration_seconds": 1.5}
            )  # fmt: skip
        result = {
            "outputs": outputs,
            "warnings": [{"code": "shortfall", "message": "It ended early."}],
            "metrics": {"seconds": 1.0},
            "inputs": [{"filename": "épisode 1.wav", "bytes": 9, "sha256": "0" * 64}],
            "engine": {"name": "rnnoise", "version": "1"},
        }
        with self.database.write() as tx:
            return finish.succeed(tx, job.lease, result)

    def voice(self, owner: Caller, transcript: str | None = "What is said.", *, exact: bool = True) -> str:
        """The id of a voice of the owner's whose audio lies in the store; ready where its words are exact."""
        upload = owner.upload(filename="me.wav")
        response = owner.post("/v1/voices", json={**VOICE, "input": {"upload": upload}, "transcript": "What is said."})
        assert response.status_code == 201, response.text
        voice_id, job_id = response.json["id"], response.json["job"]
        job = jobs.claimed(self.database, job_id)
        outputs = []
        for name, more in (
            ("recording", {"duration": 20.0}),
            ("excerpt", {"start": 1.5, "end": 11.5, "transcript": transcript, "exact": exact}),
        ):
            key = f"{layout.voice_folder(owner.key.id, voice_id, 1)}{name}.flac"
            stat = self.store.put(key, io.BytesIO(name.encode()), "audio/flac")
            outputs.append(
                {"name": name, "role": "voice", "filename": f"{name}.flac", "content_type": "audio/flac",
                 "bytes": stat.size, "sha256": "0" * 64, "key": key, **more}
            )  # fmt: skip
        with self.database.write() as tx:
            finish.succeed(tx, job.lease, {"outputs": outputs, "warnings": [], "metrics": {}, "inputs": []})
        return str(voice_id)


@pytest.fixture
def api(tmp_path: Path, database: Database) -> Api:
    """The application on an empty database, once on SQLite and once on PostgreSQL, with a local store."""
    return Api(Settings(home=tmp_path / "home", max_upload_bytes=1_000_000), database)


@pytest.fixture
def sqlite_api(tmp_path: Path, sqlite_database: Database) -> Api:
    return Api(Settings(home=tmp_path / "home", max_upload_bytes=1_000_000), sqlite_database)
