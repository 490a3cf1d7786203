"""What a recording and its stems look like: peaks for players, a picture for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from worker.engine import Artifact
from worker.media.picture import draw_waveforms
from worker.media.waveform import CONTENT_TYPE, Peaks


def pictures(folder: Path, mix: Peaks, stems: Sequence[tuple[str, Peaks]]) -> Iterator[Artifact]:
    """`waveform.json`: the documents of `worker.media.waveform`, mix first, each with `name` and `role`;
    `waveform.png`: the same, one above the other.
    """
    tracks = [{"name": "mix", "role": "mix", **mix.as_dict()}]
    tracks += [{"name": name, "role": "stem", **peaks.as_dict()} for name, peaks in stems]
    path = folder / "waveform.json"
    document = {"duration": round(mix.duration, 6), "tracks": tracks}
    path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    yield Artifact(path.name, path, CONTENT_TYPE, "peaks", {"tracks": [track["name"] for track in tracks]})

    path = folder / "waveform.png"
    draw_waveforms([("mix", mix), *stems], path, mix.duration)
    yield Artifact(path.name, path, "image/png", "waveform", {"tracks": [track["name"] for track in tracks]})
