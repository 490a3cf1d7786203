"""The engine `excerpt`: of a recording, what a voice needs. Plain arithmetic, on any CPU."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from common.errors import NightshiftError
from common.params import VoiceParams
from worker.engine import Artifact, Event, Host, Metrics, Note, Progress, Work
from worker.media.decode import AudioReader
from worker.media.encode import CONTENT_TYPES, AudioWriter
from worker.voices import excerpt as excerpts
from worker.voices.activity import Activity, measure
from worker.voices.excerpt import Excerpt
from worker.voices.words import Words

SHORTEST, LONGEST = 5.0, 180.0
"""Seconds of a recording."""

_QUIET_DB = 15.0


@dataclass(frozen=True)
class _Found:
    """exact: whether `transcript` is known to be what is said in the excerpt, word for word."""

    excerpt: Excerpt
    transcript: str | None
    exact: bool
    remark: str = ""


class ExcerptEngine:
    """Its outputs: `recording`, the whole, and `excerpt`, what models get, both mono FLAC at the recording's rate."""

    name = "excerpt"
    version = "excerpt-1"

    def __init__(self, host: Host) -> None:
        pass

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def run(self, work: Work) -> Generator[Event, None, None]:
        """Raises `too_short`, `too_long`, `no_speech` and what decoding raises."""
        params = cast(VoiceParams, work.params)
        yield Progress("listen", 0, 1, "recording")
        samples, rate = _mono(work)
        activity = measure(samples, rate)
        heard = _heard(work.sources[1].path) if len(work.sources) > 1 else None
        work.check()
        found = _find(activity, samples.size / rate, params.transcript, heard)
        chosen = found.excerpt
        if found.remark:
            yield Note("warning", "transcript_needed", found.remark)
        if chosen.clipped:
            yield Note(
                "warning", "clipped", f"{chosen.clipped} samples of the excerpt are at full scale: it may rattle."
            )
        if chosen.contrast_db < _QUIET_DB:
            yield Note(
                "warning",
                "noisy",
                f"The speech is only {chosen.contrast_db:.0f} dB above the background: it may be heard.",
            )
        yield _saved(work, "recording", samples, rate, {})
        start, end = round(chosen.start * rate), min(samples.size, round(chosen.end * rate))
        yield _saved(
            work,
            "excerpt",
            samples[start:end],
            rate,
            {
                "start": round(start / rate, 6),
                "end": round(end / rate, 6),
                "transcript": found.transcript,
                "exact": found.exact,
            },
        )
        yield Metrics(
            {
                "audio_seconds": round(samples.size / rate, 6),
                "speech_share": round(chosen.speech, 4),
                "contrast_db": round(chosen.contrast_db, 2),
                "clipped_samples": chosen.clipped,
            }
        )
        yield Progress("listen", 1, 1, "recording")


def _mono(work: Work) -> tuple[np.ndarray, int]:
    """The recording, float32 [n], its channels averaged, and its rate in Hz."""
    pieces = []
    with AudioReader(work.sources[0].path, work.limits) as reader:
        rate = reader.info.sample_rate
        for chunk in reader:
            work.check()
            pieces.append(chunk.mean(axis=0))
            if reader.samples_read > LONGEST * rate:
                raise NightshiftError(
                    "too_long",
                    f"The recording of a voice has at most {LONGEST:.0f} s.",
                    hint="Cut out a part of 10 to 60 seconds where one person speaks.",
                    pointer="/inputs/0",
                )
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if samples.size < SHORTEST * rate:
        raise NightshiftError(
            "too_short",
            f"The recording has {samples.size / rate:.2f} s; a voice needs at least {SHORTEST:.0f} s.",
            hint="Record some sentences more.",
            pointer="/inputs/0",
        )
    return samples, rate


def _heard(path: Path) -> list[tuple[float, float, str]]:
    """The segments of a transcription: start and end, seconds, and text."""
    segments = json.loads(path.read_text())["segments"]
    return [(s["start"], s["end"], s["text"].strip()) for s in segments if s["text"].strip()]


def _find(
    activity: Activity, seconds: float, written: str | None, heard: list[tuple[float, float, str]] | None
) -> _Found:
    if seconds <= excerpts.LONGEST:
        # Models take it as a whole, and its words are the words of the whole.
        said = " ".join(text for _, _, text in heard or ()) or None
        return _Found(excerpts.whole(activity, seconds), written or said, written is not None)
    if not heard:
        best = excerpts.between_pauses(activity)[0]
        return _Found(
            best,
            None,
            False,
            f"Models hear {best.start:.2f} to {best.end:.2f} s of the recording: write down the words of that part."
            if written is not None
            else "",
        )
    candidates = excerpts.between_utterances(activity, [(start, end) for start, end, _ in heard])
    texts = [text for _, _, text in heard]
    if written is not None:
        words = Words(texts, written)
        for candidate in candidates:
            exact = words.between(candidate.first, candidate.last)
            if exact is not None:
                return _Found(candidate, exact, True)
    if not candidates:
        return _Found(excerpts.between_pauses(activity)[0], None, False)
    best = candidates[0]
    return _Found(
        best,
        " ".join(texts[best.first : best.last + 1]),
        False,
        "" if written is None else "What was heard differs from the transcript: confirm the words of the excerpt.",
    )


def _saved(work: Work, name: str, samples: np.ndarray, rate: int, meta: dict[str, object]) -> Artifact:
    path = work.scratch / f"{name}.flac"
    with AudioWriter(path, rate, 1, "flac", bit_depth=24) as writer:
        writer.write(samples[None])
    told = {"duration": round(samples.size / rate, 6), "sample_rate": rate, **meta}
    return Artifact(name, path, CONTENT_TYPES["flac"], "voice", told)
