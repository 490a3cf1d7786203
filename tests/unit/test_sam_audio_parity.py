"""The golden outputs of the official code; and the command that checks any other case."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.sam_audio import GOLDEN, torch
from worker.separation.sam_audio import parity
from worker.separation.sam_audio.parity import TOLERANCE, Case, compare, main

OUTPUTS = [
    "codec.latent",
    "codec.decode_wav",
    "text.mask",
    "text.features",
    "nfe.velocity",
    "separate.anchors",
    "separate.target",
    "separate.residual",
]


@pytest.fixture(scope="module")
def errors() -> dict[str, parity.Error]:
    return {error.name: error for error in Case(GOLDEN / "tiny").errors()}


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_equals_the_official_one(errors: dict[str, parity.Error], output: str) -> None:
    assert errors[output].within, errors[output]
    assert errors[output].worst <= TOLERANCE


def test_no_output_of_the_case_goes_unchecked(errors: dict[str, parity.Error]) -> None:
    assert list(errors) == OUTPUTS


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """The case without its expensive outputs: text and codec.latent alone."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "case"
    shutil.copytree(GOLDEN / "tiny", folder)
    tensors = load_file(folder / "case.safetensors")
    kept = {name: tensors[name] for name in ("codec.wav", "codec.latent", "text.features", "text.mask")}
    save_file(kept, folder / "case.safetensors")
    return folder


def change(folder: Path, name: str, index: int, by: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "case.safetensors")
    tensors[name].view(-1)[index] += by
    save_file(tensors, folder / "case.safetensors")


def test_the_command_says_each_error_and_passes(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(part)]) == 0
    said = capsys.readouterr().out
    assert "codec.latent" in said and "text.features" in said and "every output within 0.0001" in said


def test_one_wrong_value_fails(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(part, "codec.latent", 1000, 2e-4 * 0.0434)
    assert main([str(part)]) == 1
    assert "over 0.0001: codec.latent" in capsys.readouterr().out


def test_shorter_weights_are_stated_not_failed(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(part, "codec.latent", 0, 1.0)
    assert main([str(part), "--dtype", "bf16"]) == 0
    assert "none is a failure" in capsys.readouterr().out


def test_the_text_encoder_may_lie_elsewhere(part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(part / "t5", tmp_path / "elsewhere")
    assert main([str(part), "--t5", str(tmp_path / "elsewhere")]) == 0
    capsys.readouterr()


def test_weights_that_do_not_fit_are_named(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [row for row in json.loads((part / "state_dict.json").read_text()) if row[0] != "proj.bias"]
    (part / "state_dict.json").write_text(json.dumps(listed))
    assert main([str(part)]) == 2
    assert "proj.bias is missing" in capsys.readouterr().out


@pytest.mark.parametrize("absent", ["case.json", "case.safetensors", "state_dict.json", "config.json"])
def test_a_folder_that_is_no_case_is_said_so(part: Path, absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    (part / absent).unlink()
    assert main([str(part)]) == 2
    assert capsys.readouterr().out


def test_errors_are_shares_of_the_official_rms() -> None:
    official = torch.tensor([3.0, -3.0, 3.0, -3.0])
    error = compare("x", official + torch.tensor([0.0, 0.0, 0.0, 0.3]), official)
    assert error.worst == pytest.approx(0.1) and error.rms == pytest.approx(0.05)
    assert not error.within


@pytest.mark.parametrize("ours", [[1.0, 2.0, 3.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_another_shape_or_no_number_is_never_within(ours: list[float]) -> None:
    assert not compare("x", torch.tensor(ours), torch.tensor([1.0, 1.0])).within
