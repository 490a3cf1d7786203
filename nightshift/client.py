"""The Python client: typed, synchronous, safe to repeat."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from nightshift.errors import JobEnded
from nightshift.files import Tell, save, send
from nightshift.place import find
from nightshift.transport import Transport, read
from nightshift.voices import Voice

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})

Prompt = str | Mapping[str, Any]


class Client:
    """A caller of one service.

    url, api_key: else from NIGHTSHIFT_URL and NIGHTSHIFT_API_KEY, else what `nightshift up` left in `home`.
    timeout: seconds without a sign of life from the service.
    Every method raises ApiError where the service refuses, and Unreachable where it does not answer.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        home: str | PathLike[str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.transport = Transport(find(url, api_key, Path(home) if home else None), timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    # --- Work ---------------------------------------------------------------------------------------------------------

    def separate(
        self,
        source: str | PathLike[str] | Job,
        prompts: Sequence[Prompt],
        *,
        engine: str | None = None,
        outputs: Sequence[Literal["target", "residual"]] = ("target", "residual"),
        channels: Literal["preserve", "mono"] = "preserve",
        quality: Literal["reference", "standard", "draft"] = "standard",
        seed: int = 0,
        format: Literal["flac", "wav", "mp3", "opus"] = "flac",
        bitrate_kbps: int | None = None,
        priority: Literal["interactive", "batch"] = "interactive",
        batch: str | None = None,
        metadata: Mapping[str, str] | None = None,
        deadline: datetime | None = None,
        cache: bool = True,
        callback_url: str | None = None,
        output: str | None = None,
        idempotency_key: str | None = None,
        on_upload: Tell | None = None,
    ) -> Job:
        """Separates sounds out of a recording.

        source: a local file, an http(s) address, `s3://bucket/key`, the id of an upload, or another job (then `output`
        names which of its outputs).  prompts: descriptions, or mappings with description, name and spans.
        cache: whether the result may be taken over from an earlier job with the same content and parameters.
        on_upload: called with bytes sent and bytes in all.
        """
        request: dict[str, Any] = {
            "kind": "separation",
            "input": self.input(source, output, on_upload),
            "params": {
                "prompts": [prompt if isinstance(prompt, str) else dict(prompt) for prompt in prompts],
                "outputs": list(outputs),
                "channels": channels,
                "quality": quality,
                "seed": seed,
                "output": {"format": format, "bitrate_kbps": bitrate_kbps},
            },
            "priority": priority,
        }
        optional = {
            "engine": engine,
            "batch": batch,
            "metadata": dict(metadata) if metadata else None,
            "deadline": deadline.isoformat() if deadline else None,
            "cache": None if cache else False,
            "callback": {"url": callback_url} if callback_url else None,
        }
        request |= {name: value for name, value in optional.items() if value is not None}
        return self.submit(request, idempotency_key=idempotency_key)

    def segment(
        self,
        images: str | PathLike[str] | Job | Sequence[str | PathLike[str] | Job],
        prompts: Sequence[Mapping[str, Any]] = (),
        *,
        automatic: bool | Mapping[str, Any] = False,
        engine: str | None = None,
        output: str | None = None,
        idempotency_key: str | None = None,
        on_upload: Tell | None = None,
        **members: Any,
    ) -> Job:
        """Finds masks in an image, or in a list of images as one job.

        images: each a source as `separate` takes one.  prompts: mappings with points and labels, box or mask, and name,
        multimask, image; in pixels of the image as it is seen.  automatic: masks of all that is there, with the
        settings that a mapping gives.  members: priority, batch, metadata, deadline, cache, callback_url, as for
        `separate`.
        """
        several = isinstance(images, Sequence) and not isinstance(images, str)
        request: dict[str, Any] = {
            "kind": "segmentation",
            "params": {"mode": "automatic" if automatic is not False else "prompts"},
        }
        if prompts:
            request["params"]["prompts"] = [dict(prompt) for prompt in prompts]
        if isinstance(automatic, Mapping):
            request["params"]["automatic"] = dict(automatic)
        if several:
            request["inputs"] = [self.input(image, output, on_upload) for image in images]  # type: ignore[union-attr]
        else:
            request["input"] = self.input(images, output, on_upload)  # type: ignore[arg-type]
        if engine is not None:
            request["engine"] = engine
        return self.submit(request | _common(**members), idempotency_key=idempotency_key)

    def speak(
        self,
        text: str | None = None,
        *,
        script: Sequence[Mapping[str, Any]] | None = None,
        source: str | PathLike[str] | Job | None = None,
        voice: str | None = None,
        engine: str | None = None,
        seed: int = 0,
        temperature: float | None = None,
        speed: float | None = None,
        context_turns: int | None = None,
        pauses: Mapping[str, float] | None = None,
        format: Literal["flac", "wav", "mp3", "opus"] = "flac",
        bitrate_kbps: int | None = None,
        sample_rate: int = 24_000,
        loudness_lufs: float | None = -19.0,
        output: str | None = None,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Job:
        """Speaks a text, or a script of several speakers: mappings with text, speaker and voice.

        source: in their place, a file of plain text, as `separate` takes one; of a job its output `text`, or `output`.
        voice: id of one of your voices, or a voice of the engine such as `espeak:de`.  pauses: seconds, by `sentence`,
        `paragraph`, `turn`.  loudness_lufs: None leaves it as it is.  members: priority, batch, metadata, deadline,
        cache, callback_url, as for `separate`.
        """
        optional = {
            "text": text,
            "script": [dict(turn) for turn in script] if script is not None else None,
            "voice": voice,
            "temperature": temperature,
            "speed": speed,
            "context_turns": context_turns,
            "pauses": dict(pauses) if pauses else None,
        }
        params: dict[str, Any] = {name: value for name, value in optional.items() if value is not None}
        params |= {
            "seed": seed,
            "output": {"format": format, "bitrate_kbps": bitrate_kbps},
            "sample_rate": sample_rate,
            "loudness_lufs": loudness_lufs,
        }
        request: dict[str, Any] = {"kind": "tts", "params": params}
        if source is not None:
            request["input"] = self.input(source, output or "text")
        if engine is not None:
            request["engine"] = engine
        return self.submit(request | _common(**members), idempotency_key=idempotency_key)

    def transcribe(
        self,
        source: str | PathLike[str] | Job,
        *,
        language: str | None = None,
        translate: bool = False,
        engine: str | None = None,
        output: str | None = None,
        idempotency_key: str | None = None,
        on_upload: Tell | None = None,
        **members: Any,
    ) -> Job:
        """Writes down what is said in a recording, and when: outputs `transcript` (JSON), `text`, `captions` (WebVTT).

        source, output, on_upload, members: as for `separate`.  language: a code; None: what is heard.  translate: to
        English.
        """
        params = {"language": language, "task": "translate" if translate else "transcribe"}
        request = {"kind": "transcription", "input": self.input(source, output, on_upload), "params": params}
        if engine is not None:
            request["engine"] = engine
        return self.submit(request | _common(**members), idempotency_key=idempotency_key)

    def converse(
        self,
        question: str | None = None,
        *,
        recording: str | PathLike[str] | Job | None = None,
        previous: str | Job | None = None,
        instructions: str | None = None,
        voice: str | Voice | None = None,
        speech: Mapping[str, Any] | None = None,
        transcription: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        engine: str | None = None,
        output: str | None = None,
        idempotency_key: str | None = None,
        on_upload: Tell | None = None,
        **members: Any,
    ) -> Job:
        """Asks a language model, and gets the answer spoken: outputs `question`, `answer`, `speech`, `conversation`.

        question: a text; or else `recording`, a source as for `separate`.  previous: the job of the turn before.
        instructions: what the model is told first.  voice: to answer in.  speech, transcription: the engines that speak
        and hear and what else they are to be told, as the API documents it.
        """
        optional = {
            "text": question,
            "instructions": instructions,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "transcription": dict(transcription) if transcription else None,
            "speech": _speech(voice, speech),
        }
        params = {name: value for name, value in optional.items() if value is not None}
        request: dict[str, Any] = {"kind": "conversation", "params": params}
        if recording is not None:
            request["input"] = self.input(recording, output, on_upload)
        if previous is not None:
            request["previous"] = {"job": previous.id if isinstance(previous, Job) else previous}
        if engine is not None:
            request["engine"] = engine
        return self.submit(request | _common(**members), idempotency_key=idempotency_key)

    def submit(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submits a request as the API documents it. It is sent again after a broken connection and makes one job."""
        key = idempotency_key or str(uuid.uuid4())
        body = self.transport.call(
            "POST", "/v1/jobs", body=dict(request), headers={"Idempotency-Key": key}, repeatable=True
        )
        return Job(self, body)

    def input(
        self, source: str | PathLike[str] | Job, output: str | None = None, on_upload: Tell | None = None
    ) -> dict[str, str]:
        """The `input` member of a request for a source; a local file is uploaded."""
        if isinstance(source, Job) or str(source).startswith("job_"):
            return {"job": source.id if isinstance(source, Job) else str(source), "output": output or "speech"}
        text = str(source)
        for member, starts in (("url", ("http://", "https://")), ("s3", ("s3://",)), ("upload", ("upl_",))):
            if text.startswith(starts):
                return {member: text}
        return {"upload": self.upload(source, on_upload)}

    def upload(self, path: str | PathLike[str], tell: Tell | None = None) -> str:
        """Sends a file; returns the id of the upload. Raises OSError where it cannot be read."""
        return send(self.transport, Path(path), tell or (lambda done, total: None))

    # --- Voices -------------------------------------------------------------------------------------------------------

    def create_voice(
        self,
        name: str,
        source: str | PathLike[str] | Job,
        *,
        consent: Mapping[str, str],
        transcript: str | None = None,
        transcriber: str | None = None,
        output: str | None = None,
        on_upload: Tell | None = None,
    ) -> Voice:
        """Makes a voice of 5 to 180 seconds of one person speaking; `wait` for it, and `confirm` what was heard.

        source, output, on_upload: as for `separate`.  consent: `given_by`, `date` (2026-01-31), `purpose`.
        transcript: the exact words of the recording; None: drafted.  transcriber: the engine that writes them down.
        """
        body: dict[str, Any] = {
            "name": name,
            "input": self.input(source, output, on_upload),
            "consent": dict(consent),
            "transcript": transcript,
        }
        if transcriber is not None:
            body["transcriber"] = transcriber
        return Voice(self.transport, self.transport.call("POST", "/v1/voices", body=body))

    def voice(self, voice_id: str) -> Voice:
        return Voice(self.transport, self.transport.call("GET", f"/v1/voices/{voice_id}"))

    def voices(self, page: int = 50) -> Iterator[Voice]:
        """The key's voices, newest first; fetched page by page as they are asked for."""
        cursor: str | None = None
        while True:
            found = self.transport.call("GET", "/v1/voices", params={"limit": page, "cursor": cursor})
            yield from (Voice(self.transport, body) for body in found["items"])
            cursor = found["next"]
            if cursor is None:
                return

    # --- Looking ------------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        return Job(self, self.transport.call("GET", f"/v1/jobs/{job_id}"))

    def jobs(
        self, *, state: Sequence[str] = (), engine: str | None = None, batch: str | None = None, page: int = 50
    ) -> Iterator[Job]:
        """The key's jobs, newest first; fetched page by page as they are asked for."""
        cursor: str | None = None
        while True:
            query = {"state": list(state) or None, "engine": engine, "batch": batch, "limit": page, "cursor": cursor}
            found = self.transport.call("GET", "/v1/jobs", params=query)
            yield from (Job(self, body) for body in found["items"])
            cursor = found["next"]
            if cursor is None:
                return

    def act(self, action: str, which: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Cancels, retries or deletes all jobs that a filter means: state, kind, engine, batch, created_after,
        created_before. Gives how many were matched, done and refused."""
        body = {"action": action, "filter": dict(which), "dry_run": dry_run}
        done = refused = 0
        while True:
            answer = dict(self.transport.call("POST", "/v1/jobs/bulk", body=body, timeout=120.0))
            done, refused = done + answer["done"], refused + answer["refused"]
            if dry_run or not answer["left"]:
                return {**answer, "done": done, "refused": refused}

    def engines(self) -> list[dict[str, Any]]:
        """The engines: what each does, and whether it is ready."""
        return list(self.transport.call("GET", "/v1/engines")["items"])

    def queues(self) -> dict[str, Any]:
        return dict(self.transport.call("GET", "/v1/queues"))

    def workers(self) -> list[dict[str, Any]]:
        return list(self.transport.call("GET", "/v1/workers")["items"])


class Job:
    """A job as it was when it was last looked at; `refresh` and `wait` look again."""

    def __init__(self, client: Client, body: Mapping[str, Any]) -> None:
        self._client = client
        self.body = dict(body)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def state(self) -> str:
        return str(self.body["state"])

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def error(self) -> dict[str, Any] | None:
        return self.body["error"]

    @property
    def progress(self) -> dict[str, Any] | None:
        """phase, done, total, unit, block, blocks, percent, eta_seconds; None before it starts."""
        return self.body["progress"]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What it made; empty until it has succeeded."""
        return list(self.body["outputs"] or [])

    @property
    def warnings(self) -> list[dict[str, Any]]:
        return list(self.body["warnings"])

    @property
    def cached_from(self) -> dict[str, str] | None:
        """Where its result was taken from: `job` that computed it, and when, `finished_at`."""
        return self.body["cached_from"]

    def refresh(self) -> Job:
        self.body = self._client.transport.call("GET", f"/v1/jobs/{self.id}")
        return self

    def follow(self, timeout: float | None = None, poll: float = 0.5) -> Iterator[Job]:
        """This job again and again until it has ended. Raises TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while True:
            yield self
            if self.ended:
                return
            if deadline is not None and time.monotonic() + poll > deadline:
                raise TimeoutError(f"{self.id} is still {self.state} after {timeout:g} s")
            time.sleep(poll)
            self.refresh()

    def wait(self, timeout: float | None = None, tell: Callable[[Job], None] | None = None) -> Job:
        """Waits for the result. Raises JobEnded where there will be none, TimeoutError after `timeout` seconds."""
        for job in self.follow(timeout):
            if tell is not None:
                tell(job)
        if self.state != "succeeded":
            raise JobEnded(self.id, self.state, self.error)
        return self

    def results(self) -> dict[str, Any]:
        """The outputs with links that work for a while without a key."""
        return dict(self._client.transport.call("GET", f"/v1/jobs/{self.id}/results"))

    def download(
        self,
        folder: str | PathLike[str],
        *,
        only: Sequence[str] = (),
        overwrite: bool = False,
        tell: Tell | None = None,
    ) -> list[Path]:
        """Saves the outputs (or `only` those named) in a folder; returns their paths.

        Every file is checked against its digest and appears whole. A file that is there already is kept where it is the
        same; another one raises FileExistsError unless `overwrite`.
        """
        found = self.results()["outputs"]
        wanted = [output for output in found if not only or output["name"] in only]
        absent = set(only) - {output["name"] for output in wanted}
        if absent:
            raise KeyError(f"{self.id} has no output {', '.join(sorted(absent))}")
        base = self._client.transport
        return [save(base, output, Path(folder), overwrite, tell or (lambda done, total: None)) for output in wanted]

    def text(self, name: str) -> str:
        """An output that is text, as a string. Raises KeyError where there is none of that name."""
        found = {output["name"]: output for output in self.results()["outputs"]}
        if name not in found:
            raise KeyError(f"{self.id} has no output {name}")
        response = self._client.transport.plain.get(found[name]["url"])
        if response.status_code >= 400:
            read(response)
        return response.content.decode()

    def cancel(self) -> Job:
        self.body = self._client.transport.call("POST", f"/v1/jobs/{self.id}/cancel", repeatable=True)
        return self

    def retry(self) -> Job:
        self.body = self._client.transport.call("POST", f"/v1/jobs/{self.id}/retry")
        return self

    def delete(self) -> None:
        self._client.transport.call("DELETE", f"/v1/jobs/{self.id}")

    def events(self) -> list[dict[str, Any]]:
        """The job's log: its changes of state and what its worker had to say."""
        found: list[dict[str, Any]] = []
        after: int | None = None
        while True:
            page = self._client.transport.call("GET", f"/v1/jobs/{self.id}/events", params={"after": after})
            found += page["items"]
            after = page["next"]
            if after is None:
                return found


def _speech(voice: str | Voice | None, speech: Mapping[str, Any] | None) -> dict[str, Any] | None:
    made = dict(speech or {})
    if voice is not None:
        made["voice"] = voice.id if isinstance(voice, Voice) else voice
    return made or None


def _common(
    *,
    priority: str | None = None,
    batch: str | None = None,
    metadata: Mapping[str, str] | None = None,
    deadline: datetime | None = None,
    cache: bool = True,
    callback_url: str | None = None,
) -> dict[str, Any]:
    """The members that requests of every kind have, without those that are left out."""
    members = {
        "priority": priority,
        "batch": batch,
        "metadata": dict(metadata) if metadata else None,
        "deadline": deadline.isoformat() if deadline else None,
        "cache": None if cache else False,
        "callback": {"url": callback_url} if callback_url else None,
    }
    return {name: value for name, value in members.items() if value is not None}
