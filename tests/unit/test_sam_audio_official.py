"""The official package as backend: held to the stored outputs, and to this project's network, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import NightshiftError
from tests.sam_audio import GOLDEN, Fixed, relative, tiny_config, torch
from worker.engine import alone
from worker.separation.sam_audio import official, parity
from worker.separation.sam_audio.anchors import anchors
from worker.separation.sam_audio.generated import write_checkpoint
from worker.separation.sam_audio.longform import LongForm, Task
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import Schedule
from worker.separation.sam_audio.watermark import message_of

FEW = Schedule("midpoint", 2)


def installed() -> None:
    pytest.importorskip("sam_audio.model.model", reason="the official package is not installed")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[SamAudio, SamAudio]:
    """One checkpoint in this project's network and in the official one, which knows but one width of the decoder."""
    installed()
    folder = tmp_path_factory.mktemp("both")
    config = tiny_config(n_layers=3)
    config["audio_codec"]["decoder_dim"] = 1536
    write_checkpoint(folder, config, seed=8)
    return SamAudio.load(folder), official.load(folder)


def test_the_official_code_gives_the_stored_outputs() -> None:
    installed()
    errors = list(parity.Case(GOLDEN / "tiny", backend="official").errors())
    assert len(errors) == 8
    assert all(error.within for error in errors), errors


@pytest.mark.parametrize("samples", [700, 1920, 30_001])
def test_codecs_agree_at_any_length(both: tuple[SamAudio, SamAudio], samples: int) -> None:
    ours, theirs = both
    wave = 0.1 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(samples))
    latent = theirs.encode(wave)
    assert relative(ours.encode(wave), latent) < 1e-4
    message = torch.cat((message_of("a"), message_of("b")))
    assert relative(ours.decode(latent, message), theirs.decode(latent, message)) < 1e-4
    assert torch.equal(theirs.decode(latent, message), theirs.decode(latent, message))


def test_fields_agree_on_rows_that_have_nothing_in_common(both: tuple[SamAudio, SamAudio]) -> None:
    drawn = torch.Generator().manual_seed(1)
    state, features = (torch.randn(3, 90, 256, generator=drawn) for _ in range(2))
    marked = torch.randint(0, 3, (3, 90), generator=drawn)
    times = torch.tensor([0.0, 0.41, 0.97])
    told = ["man speaking", "a", "rain on the roof of a house"]
    ours, theirs = (model.velocity(state, times, features, model.text(told), marked) for model in both)
    assert relative(ours, theirs) < 1e-4


def test_long_recordings_agree(both: tuple[SamAudio, SamAudio]) -> None:
    latents = torch.randn(1, 128, 110, generator=torch.Generator().manual_seed(2))
    tasks = [Task(0, "dog", anchors([("+", 1.0, 3.0)])), Task(0, "rain on a roof")]

    def separated(model: SamAudio) -> Any:
        form = LongForm(model, Fixed(4), window=60, overlap=20)
        steps = alone(form.separate(latents, tasks, 25, 3, Schedule("midpoint", 2)))
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                return finished.value

    assert relative(separated(both[0]), separated(both[1])) < 1e-4


def test_a_checkpoint_that_does_not_fit_is_refused_by_the_official_code_too(tmp_path: Path) -> None:
    installed()
    config = tiny_config()
    config["audio_codec"]["decoder_dim"] = 1536
    write_checkpoint(tmp_path, config)
    tensors = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del tensors["memory_proj.bias"]
    torch.save(tensors, tmp_path / "checkpoint.pt")
    with pytest.raises(NightshiftError, match=r"memory_proj\.bias") as refused:
        official.load(tmp_path)
    assert refused.value.code == "weights_invalid"


@pytest.mark.parametrize("placeholder", [False, True])
def test_without_the_package_it_is_said_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placeholder: bool
) -> None:
    """Nothing installed, or the empty package that has its name on PyPI."""
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "sam_audio"]:
        monkeypatch.delitem(sys.modules, name)
    if placeholder:
        (tmp_path / "sam_audio").mkdir()
        (tmp_path / "sam_audio" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "sam_audio", None)
    with pytest.raises(NightshiftError) as missing:
        official.load(tmp_path)
    assert missing.value.code == "engine_not_ready" and not missing.value.retryable
    assert official.SOURCE in missing.value.hint and "NIGHTSHIFT_SAM_AUDIO_BACKEND" in missing.value.hint
