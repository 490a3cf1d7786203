"""What a job gives beside the speech: its timing, captions and picture, and where it all comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.engine import Artifact
from worker.media.picture import draw_waveforms
from worker.media.waveform import CONTENT_TYPE
from worker.tts import timing
from worker.tts.assemble import Assembly, Whole
from worker.tts.script import Script


def provenance(engine: str, version: str, script: Script, job_id: str) -> dict[str, Any]:
    """That this was generated, by what, in which voices, for which job."""
    return {
        "generated": True,
        "engine": engine,
        "version": version,
        "voices": sorted({speaker.voice for speaker in script.speakers}),
        "cloned": any(speaker.cloned for speaker in script.speakers),
        "job": job_id,
    }


def tags(origin: Mapping[str, Any]) -> dict[str, str]:
    """The same for the audio file: every format has a comment."""
    voices = ", ".join(origin["voices"])
    return {
        "comment": f"Generated speech: engine {origin['engine']}, voice {voices}, job {origin['job']}",
        "software": "Nightshift",
    }


def results(
    folder: Path, script: Script, assembly: Assembly, whole: Whole, origin: Mapping[str, Any]
) -> Iterator[Artifact]:
    """`speech`; `timing.json` and `captions.vtt`, see `worker.tts.timing`; `waveform.json` and `waveform.png`."""
    speech = whole.artifact
    yield replace(speech, meta={**speech.meta, "cloned": origin["cloned"], "provenance": dict(origin)})
    spoken, duration = assembly.spoken(), speech.meta["duration"]
    yield _document(folder, "timing.json", {**timing.document(script, spoken, duration), "provenance": dict(origin)})
    path = folder / "captions.vtt"
    path.write_text(timing.webvtt(script, spoken), encoding="utf-8")
    yield Artifact(path.name, path, "text/vtt", "captions", {"cues": len(spoken)})

    peaks = whole.peaks
    tracks = [{"name": "speech", "role": "speech", **peaks.as_dict()}]
    yield _document(
        folder,
        "waveform.json",
        {"duration": round(peaks.duration, 6), "tracks": tracks},
        "peaks",
        {"tracks": ["speech"]},
    )
    path = folder / "waveform.png"
    draw_waveforms([("speech", peaks)], path, peaks.duration)
    yield Artifact(path.name, path, "image/png", "waveform", {"tracks": ["speech"]})


def _document(
    folder: Path, name: str, content: Mapping[str, Any], role: str = "timing", meta: Mapping[str, Any] | None = None
) -> Artifact:
    path = folder / name
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    return Artifact(name, path, CONTENT_TYPE, role, meta or {})
