"""A SAM-Audio small enough for tests, with generated weights, and the golden case of the official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# Two threads that wait for each other on a busy machine are thirty times slower than one.
torch.set_num_threads(1)

from worker.batches import Batches  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "sam_audio"


def tiny_config(**transformer: Any) -> dict[str, Any]:
    """The golden case's configuration with a decoder of a sixteenth of the width, which is what takes the time."""
    config = json.loads((GOLDEN / "tiny" / "config.json").read_text())
    config["audio_codec"]["decoder_dim"] = 96
    config["transformer"].update(transformer)
    return config


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder as the official one, generated."""
    from worker.separation.sam_audio.generated import write_checkpoint

    folder = tmp_path_factory.mktemp("sam-audio-tiny")
    write_checkpoint(folder, tiny_config(), seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """The model of that folder."""
    from worker.separation.sam_audio.model import SamAudio

    return SamAudio.load(tiny_folder)


class Fixed(Batches):
    """Batches of a given size, on a CPU too."""

    def __init__(self, size: int, model: str = "tests") -> None:
        super().__init__(f"{model}-{size}", torch.device("cpu"), 1)
        self._fixed = size

    @property
    def size(self) -> int:
        return self._fixed

    def _halved(self, size: int) -> int:
        self._fixed = super()._halved(size)
        return self._fixed


def relative(ours: Any, reference: Any) -> float:
    """The largest error as a share of the reference's root mean square."""
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.square().mean().sqrt())
