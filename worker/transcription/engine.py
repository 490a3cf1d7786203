"""The engines of the kind transcription: a recording of any length in, block by block; its words and times out.

Blocks follow each other: where one begins depends on what was heard at the end of the one before. Each is stored with
all that the next needs, so a job may stop after any block and go on elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from common.engines import REGISTRY, Lane
from common.errors import NightshiftError
from common.params import TranscriptionParams
from worker import device as devices
from worker import hub
from worker.engine import Artifact, BlockDone, Event, Host, Metrics, Note, Progress, Work
from worker.transcription import documents
from worker.transcription.segments import Segment, settle, tidy
from worker.transcription.sound import RATE, Sound
from worker.transcription.whisper import Whisper as Model

BLOCK_SECONDS = 120.0

# Below this no model is asked: what it would hear in silence it makes up.
_SILENT = 10 ** (-60 / 20)


class TranscriptionEngine:
    """A model as an engine of the registry. Outputs: `transcript` (JSON), `text` and `captions` (WebVTT)."""

    name = "whisper"
    block_seconds = BLOCK_SECONDS

    def __init__(self, host: Host) -> None:
        """Raises `device_missing`, `weights_missing`, `weights_invalid`, `gpu_oom`."""
        spec = REGISTRY[self.name]
        assert spec.weights is not None
        device = devices.choose(replace(host, models_on_cpu=True) if spec.lane is Lane.CPU else host, self.name)
        folder = hub.locate(spec.weights, host.models, host.token, tell=host.on_fetch)
        with (folder / "model.safetensors").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.version = f"{self.name}-{digest[:16]}-1"
        self.model = Model(self.name, folder, device)

    def run(self, work: Work) -> Generator[Event, None, None]:
        """Raises `engine_unsupported` for a language the model does not know, and what decoding raises."""
        yield from _Run(self, work).events()

    def memory_bytes(self) -> int:
        return self.model.memory_bytes

    def close(self) -> None:
        self.model.close()


class Whisper(TranscriptionEngine):
    name = "whisper"


class WhisperLarge(TranscriptionEngine):
    name = "whisper-large"


class _Run:
    """One job on its way through the blocks."""

    def __init__(self, engine: TranscriptionEngine, work: Work) -> None:
        work.check()
        self._started = time.monotonic()
        self._engine, self._model, self._work = engine, engine.model, work
        self._params = cast(TranscriptionParams, work.params)
        self._language = self._params.language
        self._seconds = work.block_seconds or engine.block_seconds
        self._segments: list[Segment] = []
        self._at = self._end = 0.0
        self._over = False
        self._index = 0
        self._resumed = 0
        self._origin = {"generated": True, "engine": engine.name, "version": engine.version, "job": work.job_id}
        known = self._model.languages
        if self._language is not None and self._language not in (known or ("en",)):
            raise NightshiftError(
                "engine_unsupported",
                f"The engine {engine.name} does not know the language {self._language!r}.",
                hint=f"It knows: {', '.join(known or ('en',))}.",
                pointer="/params/language",
            )
        if self._params.task == "translate" and not known:
            raise NightshiftError(
                "engine_unsupported", f"The engine {engine.name} cannot translate.", pointer="/params/task"
            )

    def events(self) -> Iterator[Event]:
        with Sound(self._work.source.path, self._work.limits, self._work.check) as sound:
            yield self._progress(sound)
            while not self._over:
                if self._index in self._work.blocks.finished:
                    self._resume()
                else:
                    yield self._hear(sound)
                yield self._progress(sound)
            shortfall = sound.reader.shortfall
        if not self._end:
            raise NightshiftError("no_samples")
        if shortfall is not None:
            yield Note(
                "warning",
                "shortfall",
                f"The file declares {shortfall.declared_seconds:.2f} s but holds {shortfall.decoded_seconds:.2f} s: "
                "it is truncated or damaged. What is there was transcribed.",
            )
        if not self._segments:
            yield Note("warning", "no_speech", "Nothing was understood in the recording.")
        yield from self._results()

    def _resume(self) -> None:
        kept = json.loads(self._work.blocks.fetch(self._index)["segments"].read_text())
        self._take([Segment.of(segment) for segment in kept["segments"]], kept["end"], kept["next"], kept["last"])
        self._language = kept["language"]
        self._resumed += 1

    def _hear(self, sound: Sound) -> BlockDone:
        start = self._at
        samples, last = sound.block(start, self._seconds)
        heard: list[Segment] = []
        if samples.size and np.abs(samples).max() >= _SILENT:
            if self._language is None:
                self._language = self._model.language_of(samples, self._work.check)
            made = self._model.hear(samples, self._language, self._params.task, self._work.check, seed=_seed(start))
            heard = [Segment(start + segment.start, start + segment.end, segment.text) for segment in made]
        end = start + samples.size / RATE
        kept, then = settle(tidy(heard, start, end), start, end, last=last)
        path = self._work.scratch / f"block-{self._index:06d}.json"
        stands = {"segments": [segment.as_dict() for segment in kept], "end": end, "next": then, "last": last}
        path.write_text(json.dumps({**stands, "language": self._language}))
        self._take(kept, end, then, last)
        return BlockDone(self._index - 1, self._count(sound), {"segments": path})

    def _take(self, segments: list[Segment], end: float, then: float, last: bool) -> None:
        self._segments += segments
        self._end, self._at, self._over = end, then, last
        self._index += 1

    def _count(self, sound: Sound) -> int:
        """How many blocks there will be, about: each begins a little before the end of the one before."""
        left = 0.0 if self._over else max(1.0, sound.seconds - self._at)
        return self._index + int(np.ceil(left / self._seconds))

    def _progress(self, sound: Sound) -> Progress:
        total = self._end if self._over else max(sound.seconds, self._at)
        return Progress("transcribe", self._at, total, "s", self._index, self._count(sound))

    def _results(self) -> Iterator[Event]:
        duration = self._end
        folder = self._work.scratch / "result"
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"language": self._language, "duration": round(duration, 6), "segments": len(self._segments)}
        made = documents.document(self._segments, self._language, duration, self._origin)
        for name, filename, content_type, role, content in (
            ("transcript", "transcript.json", "application/json", "transcript", json.dumps(made, ensure_ascii=False)),
            ("text", "transcript.txt", "text/plain", "text", documents.text(self._segments)),
            ("captions", "captions.vtt", "text/vtt", "captions", documents.webvtt(self._segments)),
        ):
            path = folder / filename
            path.write_text(content, encoding="utf-8")
            yield Artifact(name, path, content_type, role, {**meta, "provenance": self._origin})
        wall = time.monotonic() - self._started
        yield Metrics(
            {
                "audio_seconds": round(duration, 6),
                "segments": len(self._segments),
                "language": self._language,
                "blocks": self._index,
                "blocks_resumed": self._resumed,
                "wall_seconds": round(wall, 3),
                "times_real_time": round(duration / wall, 2) if wall else 0.0,
            }
        )


def _seed(start: float) -> int:
    """Of a block, 63 bits: the same block draws the same, whoever hears it."""
    return int.from_bytes(hashlib.sha256(f"{start:.3f}".encode()).digest()[:8], "big") >> 1
