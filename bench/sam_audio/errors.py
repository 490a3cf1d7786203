"""How far SAM-Audio's shortcuts lead from the reference: fewer evaluations, shorter formats. On generated weights.

An error is the root mean square of the difference over that of the reference. Generated weights make a field that is
smoother than a trained one: these errors show that the arithmetic is right, and the order of the tiers; what a tier
costs a listener they cannot show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.sam_audio.models import Size, load
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.noise import noise
from worker.separation.sam_audio.sampler import REFERENCE, TIERS, Schedule

OTHERS = {"euler-16": Schedule("euler", 16)}
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
PROMPTS = ("man speaking", "a dog barks far away")


def of_tiers(size: Size, folder: Path, frames: int, device: str = "cpu") -> Mapping[str, float]:
    """Each tier's error, and that of sixteen steps of Euler's rule, in float32."""
    return dict(_tiers(load(size, folder, device, keep=True), frames))


def of_formats(size: Size, folder: Path, frames: int, device: str = "cpu") -> Mapping[str, float]:
    """Each format's error against float32: `NAME` of a separation at reference, `NAME-evaluation` of one evaluation."""
    exact = load(size, folder, device, keep=True)
    evaluated, separated = _evaluation(exact, frames), _separation(exact, frames, REFERENCE)
    del exact
    errors = {}
    for name, dtype in FORMATS.items():
        short = load(size, folder, device, dtype, keep=True)
        errors[f"{name}-evaluation"] = relative(_evaluation(short, frames), evaluated)
        errors[name] = relative(_separation(short, frames, REFERENCE), separated)
    return errors


def relative(ours: Tensor, reference: Tensor) -> float:
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def _tiers(model: SamAudio, frames: int) -> Iterator[tuple[str, float]]:
    reference = _separation(model, frames, REFERENCE)
    for name, schedule in {**TIERS, **OTHERS}.items():
        if schedule != REFERENCE:
            yield name, relative(_separation(model, frames, schedule), reference)


def _evaluation(model: SamAudio, frames: int) -> Tensor:
    start, features = _given(model, frames)
    return model.velocity(start, 0.3, features, model.text(PROMPTS)).cpu()


def _separation(model: SamAudio, frames: int, schedule: Schedule) -> Tensor:
    start, features = _given(model, frames)
    return model.sample(start, features, model.text(PROMPTS), schedule=schedule).cpu()


def _given(model: SamAudio, frames: int) -> tuple[Tensor, Tensor]:
    """Noise, and the features of a sound made of tones and noise, for two prompts: [2, frames, 256] each."""
    codec = model.config.audio_codec
    at = torch.arange(frames * codec.hop) / codec.sample_rate
    drawn = torch.randn(at.shape, generator=torch.Generator().manual_seed(1))
    wave = 0.2 * torch.sin(2 * torch.pi * 220 * at) + 0.1 * torch.sin(2 * torch.pi * 1330 * at) + 0.05 * drawn
    features = SamAudio.features(model.encode(wave[None, None])).expand(2, -1, -1)
    start = torch.from_numpy(noise(5, 0, frames, model.config.state_channels))[None].expand(2, -1, -1)
    return start, features
