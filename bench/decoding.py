"""What safety and thrift cost in the audio path: decoding in a sandbox, and channels that are equal.

`decode-*` is the speed of decoding in the confined child, where media of strangers belongs, over that of plain PyAV
in this process. `channels` is the time that RNNoise's pipeline needs for two equal channels over two that differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from bench import place
from bench.figures import Figure, Goal, figure, in_turns
from bench.scale import Scale
from common.params import SeparationParams
from tests import media
from worker.engine import Limits, Metrics, Source, Work
from worker.media.decode import AudioReader
from worker.separation.rnnoise import RNNoiseEngine

FORMATS = ("flac", "mp3")


def run(scale: Scale) -> Iterator[Figure]:
    seconds, repetitions = scale.pick(quick=(5.0, 1), normal=(600.0, 7))
    with place.folder() as folder:
        for suffix in FORMATS:
            path = media.make(folder / f"episode.{suffix}", 44_100, 2, seconds, "noise")
            pairs = in_turns(lambda p=path: in_child(p), lambda p=path: in_process(p), repetitions)
            yield figure(
                f"decode-{suffix}", f"speed of decoding {seconds / 60:.3g} min of stereo {suffix} in the sandbox",
                "plain PyAV in this process", [here / child for child, here in pairs],
            )  # fmt: skip
            path.unlink()
        yield _channels(folder, scale)


def in_child(path: Path) -> float:
    """Seconds to decode a file as the service does, the child's start included."""
    began = time.perf_counter()
    with AudioReader(path, Limits()) as reader:
        for _ in reader:
            pass
    return time.perf_counter() - began


def in_process(path: Path) -> float:
    """Seconds to decode a file with PyAV in this process, as programs do that trust their files."""
    began = time.perf_counter()
    samples = 0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            pcm = frame.to_ndarray()
            if pcm.dtype.kind == "i":
                pcm = pcm.astype(np.float32) / np.float32(2.0 ** (8 * pcm.dtype.itemsize - 1))
            samples += frame.samples
    if not samples:
        raise RuntimeError(f"nothing was decoded from {path.name}")
    return time.perf_counter() - began


def _channels(folder: Path, scale: Scale) -> Figure:
    seconds, repetitions = scale.pick(quick=(3.0, 1), normal=(60.0, 5))
    equal = place.recording(folder / "equal.flac", seconds, equal_channels=True)
    differing = place.recording(folder / "differing.flac", seconds)
    pairs = in_turns(lambda: _separate(equal), lambda: _separate(differing), repetitions)
    return figure(
        "channels", "time that the engine computes for two equal channels", "for two that differ",
        [a / b for a, b in pairs], Goal("<=", 0.6),
    )  # fmt: skip


def _separate(path: Path) -> float:
    """Seconds of computing, as the engine itself counts them."""
    with place.folder() as scratch:
        work = Work(
            "job_bench",
            SeparationParams.model_validate({"prompts": ["speech"]}),
            (Source(path, path.name, path.stat().st_size, ""),),
            scratch,
        )
        found = [event.values for event in RNNoiseEngine().run(work) if isinstance(event, Metrics)]
    return float(found[-1]["compute_seconds"])
