"""The stack on PostgreSQL, Redis and an S3 server, every part a real process started as README says: one job by curl,
the same by the command, two workers side by side, a signed callback, and Flower."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from standardwebhooks import Webhook

from tests import media
from tests.house import wait_for
from tests.servers.availability import unavailable
from tests.servers.postgres import Databases
from tests.servers.processes import free_port
from tests.servers.receiver import Receiver, Request
from tests.servers.redis import PrivateRedis
from tests.servers.swift import S3Server
from tests.stack import Stack

LOGIN = ("night", "watch")


@pytest.fixture
def stack(
    tmp_path: Path, postgres_databases: Databases, private_redis: PrivateRedis, s3_server: S3Server, receiver: Receiver
) -> Stack:
    return Stack(
        tmp_path,
        database_url=postgres_databases.create(),
        broker_url=private_redis.url,
        broker_prefix="real",
        s3_endpoint=s3_server.endpoint,
        s3_bucket=f"real-{uuid.uuid4().hex[:12]}",
        s3_access_key=s3_server.access_key,
        s3_secret_key=s3_server.secret_key,
        allow_private_hosts=receiver.host,
        flower_port=free_port(),
        flower_basic_auth=":".join(LOGIN),
    )


class Curl:
    """Talks to the service with the real curl, as README shows it."""

    def __init__(self, url: str, token: str) -> None:
        program = shutil.which("curl")
        if program is None:
            unavailable("curl", "it is not installed")
        self._program, self._url, self._token = program, url, token

    def __call__(self, method: str, path: str, body: object = None, *more: str) -> Any:
        given = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        key = ["-H", f"Authorization: Bearer {self._token}"]
        return json.loads(self.plain("-X", method, *key, *given, *more, f"{self._url}{path}"))

    def plain(self, *arguments: str) -> bytes:
        """Without a key."""
        line = [self._program, "-sS", "--fail-with-body", "--max-time", "120", *arguments]
        done = subprocess.run(line, capture_output=True, timeout=150)
        assert done.returncode == 0, f"{arguments}\n{done.stdout!r}\n{done.stderr!r}"
        return done.stdout


def test_the_stack_on_real_services(stack: Stack, receiver: Receiver, s3_server: S3Server) -> None:
    stack.once("nightshift", "migrate")
    stack.once("python", "-m", "common.storage.ensure")
    token = stack.once("nightshift", "key", "create", "--local", "radio").strip()
    curl = Curl(stack.url, token)
    modules = (("api",), ("worker.scheduler",), ("worker.deliver",), ("worker.flower",), ("worker", "--cpu", "2"))
    with stack.running(*(stack.process(*module) for module in modules)):
        wait_for(stack.ready, 90)
        workers = wait_for(lambda: _alive(curl) if len(_alive(curl)) == 2 else None, 90, "two workers")
        wait_for(lambda: _flower(stack, "/api/workers?refresh=1").status_code == 200, 60)
        episode = media.make(stack.folder / "episode.flac", 44_100, 2, 6.0, "noise")

        job = by_curl(curl, episode, receiver)
        results_are_right(curl, job, episode, s3_server)
        callback_is_genuine(receiver.wait(1, 60)[0], curl("GET", "/v1/callbacks/secret")["secrets"][0], job)
        by_command(stack, token, episode)
        both_work(stack, curl, token, workers, episode)
        flower_lists(stack, job)
        assert not [f for f in stack.command("doctor", "--json", api_key=token).json if f["level"] == "problem"]


def _alive(curl: Curl) -> set[str]:
    return {worker["name"] for worker in curl("GET", "/v1/workers")["items"] if worker["alive"]}


def by_curl(curl: Curl, episode: Path, receiver: Receiver) -> dict[str, Any]:
    """Announces the file, sends it straight to the S3 server, submits, and waits."""
    announced = curl(
        "POST",
        "/v1/uploads",
        {"filename": episode.name, "size": episode.stat().st_size, "content_type": "audio/flac"},
    )
    target = announced["upload"]
    assert not target["authorization"]
    headers = [part for name, value in target["headers"].items() for part in ("-H", f"{name}: {value}")]
    curl.plain("-X", target["method"], *headers, "--upload-file", str(episode), target["url"])
    job = curl(
        "POST",
        "/v1/jobs",
        {
            "kind": "separation",
            "input": {"upload": announced["id"]},
            "params": {"prompts": ["speech"]},
            "batch": "first-night",
            "callback": {"url": receiver.url("/hook")},
        },
        "-H",
        "Idempotency-Key: episode-1",
        "-H",
        "Prefer: wait=5",
    )
    return wait_for(lambda: _succeeded(curl("GET", f"/v1/jobs/{job['id']}")), 120)


def _succeeded(job: dict[str, Any]) -> dict[str, Any] | None:
    assert job["state"] not in ("failed", "cancelled", "expired"), job["error"]
    return job if job["state"] == "succeeded" else None


def results_are_right(curl: Curl, job: dict[str, Any], episode: Path, s3_server: S3Server) -> None:
    mix = soundfile.info(episode)
    outputs = {output["name"]: output for output in curl("GET", f"/v1/jobs/{job['id']}/results")["outputs"]}
    for output in outputs.values():
        assert output["url"].startswith(s3_server.endpoint), "the link leads to the storage itself"
        content = curl.plain(output["url"])
        assert (len(content), hashlib.sha256(content).hexdigest()) == (output["bytes"], output["sha256"])
        if output["role"] == "stem":
            samples, rate = soundfile.read(io.BytesIO(content), always_2d=True)
            assert (samples.shape, rate) == ((mix.frames, mix.channels), mix.samplerate)
    assert outputs.keys() >= {"speech", "residual", "waveform.png"}
    broken = outputs["speech"]["url"].replace("Signature=", "Signature=0")
    assert httpx.get(broken).status_code == 403, "a link is good only as it was signed"


def callback_is_genuine(request: Request, secret: str, job: dict[str, Any]) -> None:
    told = Webhook(secret).verify(request.body, dict(request.headers))
    assert (told["type"], told["data"]["id"], told["data"]["batch"]) == ("job.succeeded", job["id"], "first-night")
    # And by the letter of the specification, for the sender uses that library too.
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert request.headers["webhook-signature"] == f"v1,{signature}"
    assert (request.method, request.path) == ("POST", "/hook")


def by_command(stack: Stack, token: str, episode: Path) -> None:
    done = stack.command(
        "submit", episode, "--prompt", "speech", "--wait", "--json", "--download", "out", api_key=token
    ).json
    assert (done["state"], done["engine"]) == ("succeeded", "rnnoise")
    for stem in ("speech", "residual"):
        assert soundfile.info(stack.folder / "out" / f"{stem}.flac").frames == soundfile.info(episode).frames


def both_work(stack: Stack, curl: Curl, token: str, workers: set[str], episode: Path) -> None:
    """Jobs that are there at the same time are shared between the workers."""
    upload = stack.command("submit", episode, "-p", "speech", "--json", api_key=token).json["input"]["upload"]
    taken: set[str] = set()
    for turn in range(5):
        body = {
            "input": {"upload": upload}, "params": {"prompts": ["speech"]}, "metadata": {"turn": str(turn)},
            "cache": False,
        }  # fmt: skip
        jobs = [curl("POST", "/v1/jobs", body)["id"] for _ in range(6)]
        for job_id in jobs:
            wait_for(lambda job_id=job_id: _succeeded(curl("GET", f"/v1/jobs/{job_id}")), 120)
            events = curl("GET", f"/v1/jobs/{job_id}/events", None, "-H", "Accept: application/json")["items"]
            taken |= {event["data"]["worker"] for event in events if event["data"].get("state") == "running"}
        if taken == workers:
            return
    raise AssertionError(f"all jobs went to {taken} of {workers}")


def _flower(stack: Stack, path: str, login: tuple[str, str] | None = LOGIN) -> httpx.Response:
    try:
        return httpx.get(f"http://127.0.0.1:{stack.settings['flower_port']}{path}", auth=login, timeout=20)
    except httpx.HTTPError:
        return httpx.Response(503)


def flower_lists(stack: Stack, job: dict[str, Any]) -> None:
    assert _flower(stack, "/api/tasks", None).status_code == 401
    assert _flower(stack, "/api/tasks", ("night", "owl")).status_code == 401

    def finished() -> dict[str, Any] | None:
        tasks = _flower(stack, "/api/tasks").json().items()
        return next((task for uid, task in tasks if uid.startswith(job["id"]) and task["state"] == "SUCCESS"), None)

    task = wait_for(finished, 60)
    assert job["id"] in task["args"]
    assert "'kind': 'separation'" in task["kwargs"] and "'batch': 'first-night'" in task["kwargs"]
    assert task["worker"].startswith("cpu")
