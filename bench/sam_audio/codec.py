"""The figures of `sam-audio-codec`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench import place
from bench.apart import own_peak_mb
from bench.figures import Figure, figure, in_turns
from bench.sam_audio.cpu import at_a_glance, by
from bench.sam_audio.models import SIZES, Size, load
from bench.sam_audio.plain import undivided
from bench.sam_audio.sides import busy
from bench.scale import Scale
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.watermark import message_of

BASELINE = "every layer over the whole"


@dataclass(frozen=True)
class Given:
    """What is encoded, float32 [1, 1, N], and decoded, [1, 128, T]."""

    wave: Tensor
    latent: Tensor

    def encode(self, model: SamAudio) -> None:
        model.encode(self.wave)

    def decode(self, model: SamAudio) -> None:
        model.decode(self.latent, message_of("bench"))


def run(scale: Scale) -> Iterator[Figure]:
    size = scale.pick(quick=SIZES["tiny"], normal=Size(64, 4, 1))
    seconds, repetitions = scale.pick(quick=(0.5, 1), normal=(10.0, 5))
    with place.folder() as folder, at_a_glance(scale):
        model, given = load(size, folder), _given(size, seconds)
        for name, work in (("encode", given.encode), ("decode", given.decode)):
            yield _speed(name, work, model, seconds, repetitions)
        for name in ("encode", "decode"):
            ours, whole = (by(scale)(peak, name, seconds, folder, size, divided) for divided in (True, False))
            yield figure(
                f"codec-{name}-memory", f"memory that {name} takes beside the weights, {seconds:g} s", BASELINE,
                [ours / whole], None, {"ours_mb": ours, "whole_mb": whole},
            )  # fmt: skip


def peak(name: str, seconds: float, folder: Path, size: Size, divided: bool) -> float:
    """MB that the codec takes beside what was there before."""
    model, given = load(size, folder), _given(size, seconds)
    before = own_peak_mb()
    with nullcontext() if divided else undivided():
        getattr(given, name)(model)
    # At a glance the process has seen larger ones.
    return max(1.0, own_peak_mb() - before)


def _given(size: Size, seconds: float) -> Given:
    codec, drawn = size.parsed().audio_codec, torch.Generator().manual_seed(0)
    samples = round(seconds * codec.sample_rate)
    wave = 0.1 * torch.randn(1, 1, samples, generator=drawn)
    return Given(wave, torch.randn(1, codec.codebook_dim, -(-samples // codec.hop), generator=drawn))


def _speed(name: str, work: Callable[[SamAudio], None], model: SamAudio, seconds: float, repetitions: int) -> Figure:
    def side(divided: bool) -> float:
        began = busy()
        with nullcontext() if divided else undivided():
            work(model)
        return busy() - began

    side(True), side(False)
    pairs = in_turns(lambda: side(True), lambda: side(False), repetitions)
    return figure(
        f"codec-{name}", f"speed of {name}, {seconds:g} s", BASELINE, [whole / ours for ours, whole in pairs], None,
        {"ours_s": min(ours for ours, _ in pairs), "whole_s": min(whole for _, whole in pairs)},
    )  # fmt: skip
