"""The baseline of the measurements is the published procedure: another way to the same numbers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sam_audio import relative, torch  # isort: skip  (without torch, it skips what follows)
from torch.nn.utils import parametrize

from bench.sam_audio import errors, sides
from bench.sam_audio.cpu import recording
from bench.sam_audio.models import SIZES, load
from bench.sam_audio.plain import Plain, scatter_heads
from worker.separation.sam_audio.codec import NormedConv1d, NormedConvTranspose1d
from worker.separation.sam_audio.sampler import TIERS, Schedule
from worker.separation.sam_audio.separator import SamAudioSeparator
from worker.separation.sam_audio.transformer import Attention

TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench-sam-audio")


def test_the_published_procedure_gives_what_ours_gives(folder: Path) -> None:
    model = load(TINY, folder)
    wave = 0.1 * torch.randn(1, 2 * 48_000 + 100, generator=torch.Generator().manual_seed(1))
    given = {"spans": [("+", 0.5, 1.0)], "seed": 3, "schedule": Schedule("midpoint", 3)}
    ours = torch.cat(model.separate(wave, "dog", **given))
    plain = Plain(model)
    assert relative(plain.separate(wave, "dog", **given), ours) < 1e-4
    assert min(plain.took.encode, plain.took.sample, plain.took.decode) > 0


def test_the_published_procedure_has_every_lever_off(folder: Path) -> None:
    plain = Plain(load(TINY, folder))
    assert not any(module.gathered for module in plain.network.modules() if isinstance(module, Attention))
    normed = [m for m in plain.network.modules() if isinstance(m, NormedConv1d | NormedConvTranspose1d)]
    assert normed and all(parametrize.is_parametrized(module, "weight") for module in normed)
    # What a lever would keep from one evaluation to the next is computed in each.
    seen: list[Any] = []
    plain.network.align_masked_video.conv.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    plain.sample(torch.randn(1, 128, 40), "dog", schedule=Schedule("midpoint", 2))
    assert seen == [40] * 4
    # And every layer of the codec takes the whole.
    unit = plain.network.audio_codec.encoder.block[1].block[0]
    unit.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    plain.separate(torch.zeros(1, 19_200), "dog", schedule=Schedule("euler", 1))
    assert seen[4:] == [19_200, 10]


def test_scattered_heads_are_gathered_again_to_the_same(folder: Path) -> None:
    network = load(TINY, folder).network
    before = {name: value.clone() for name, value in network.named_parameters()}
    scatter_heads(network)
    moved = [name for name, value in network.named_parameters() if not torch.equal(value, before[name])]
    assert moved and all(name.rpartition(".")[0].endswith((".wq", ".wk", ".wv")) for name in moved)
    network.transformer.gather_heads()
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_the_sizes_are_the_published_ones(name: str) -> None:
    config = SIZES[name].parsed()
    assert config.audio_codec == type(config.audio_codec)()
    expected = {"small": (1536, 12, 12), "base": (2048, 16, 16), "large": (2816, 22, 22)}[name]
    assert (config.transformer.dim, config.transformer.n_heads, config.transformer.n_layers) == expected


def test_jobs_that_are_compared_share_no_encoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If they did, the second job on a file would be cheaper by that."""
    jobs = []
    for_job = SamAudioSeparator.for_job

    def noting(one: SamAudioSeparator) -> SamAudioSeparator:
        jobs.append(for_job(one))
        return jobs[-1]

    monkeypatch.setattr(SamAudioSeparator, "for_job", noting)
    path = recording(folder / "one.flac", 1.0)
    kept = dict(TIERS)
    times = sides.times([path, path], [["dog"], ["dog", "rain"]], folder, TINY, Schedule("midpoint", 1))
    assert len(times) == 2 and all(np.isfinite(times)) and kept == TIERS
    done = [job.figures() for job in jobs]
    assert [figures["encoded_seconds"] for figures in done] == [1.0, 1.0, 1.0]
    # One step of two evaluations, a window for each prompt.
    assert [figures["windows_evaluated"] for figures in done] == [2, 2, 4]


def test_errors_are_shares_of_the_reference(folder: Path) -> None:
    reference = torch.randn(3, 50)
    assert errors.relative(1.1 * reference, reference) == pytest.approx(0.1, rel=1e-5)
    tiers = errors.of_tiers(TINY, folder, 10)
    assert 0 < tiers["standard"] < tiers["draft"] < 0.1
    formats = errors.of_formats(TINY, folder, 10)
    assert 0 < formats["fp16"] < formats["bf16"] < 0.05


def test_processor_time_is_told_finer_than_the_ticks_of_the_system() -> None:
    began, left = sides.busy(), time.process_time() + 0.003
    while time.process_time() < left:
        pass
    assert sides.busy() - began + 1e-4 >= 0.003
