"""The codec's layers computed a stretch at a time: the same as over the whole, at every sample."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sam_audio import tiny, tiny_folder, torch
from worker.separation.sam_audio import tiles
from worker.separation.sam_audio.codec import DecoderBlock, EncoderBlock
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.watermark import message_of

__all__ = ["tiny", "tiny_folder"]

RATES = st.sampled_from([2, 8, 10, 12])
MARK_RATES = st.sampled_from([2, 4, 5, 8])
Layers = Callable[[torch.Tensor], torch.Tensor]


def in_tiles(size: int) -> mock._patch[int]:
    """Inside, stretches are of so many samples; 0: of any number, so that there is one."""
    return mock.patch.object(tiles, "TILE", size or 10**9)


def differs(layers: Layers, x: torch.Tensor, size: int) -> float:
    """The largest difference at any sample, as a share of the whole's root mean square."""
    with torch.inference_mode():
        with in_tiles(0):
            whole = layers(x)
        with in_tiles(size):
            cut = layers(x)
    assert cut.shape == whole.shape
    return float((cut - whole).abs().max() / whole.square().mean().sqrt())


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@settings(deadline=None, max_examples=40)
@given(rate=RATES, frames=st.integers(1, 60), size=st.integers(1, 300), rows=st.integers(1, 2))
def test_a_block_of_the_encoder(rate: int, frames: int, size: int, rows: int) -> None:
    assert differs(EncoderBlock(4, rate), drawn(rows, 4, frames * rate), size) < 1e-4


@settings(deadline=None, max_examples=40)
@given(rate=RATES, frames=st.integers(1, 60), size=st.integers(1, 300), rows=st.integers(1, 2))
def test_a_block_of_the_decoder(rate: int, frames: int, size: int, rows: int) -> None:
    assert differs(DecoderBlock(12, rate, 2), drawn(rows, 12, frames), size) < 1e-4


@settings(deadline=None, max_examples=40)
@given(rate=MARK_RATES, steps=st.integers(1, 60), size=st.integers(1, 100))
def test_the_watermark_s_layers(rate: int, steps: int, size: int) -> None:
    block = DecoderBlock(24, 2, rate)
    assert differs(block.slower, drawn(1, 4, steps * rate), size) < 1e-4
    assert differs(block.faster, drawn(1, 8, steps), size) < 1e-4


@pytest.mark.parametrize("size", [100, 1920, 5000])
def test_the_whole_codec(tiny: SamAudio, size: int) -> None:
    message = message_of("tiles")
    assert differs(tiny.encode, 0.1 * drawn(2, 1, 15_001), size) < 1e-4
    assert differs(lambda latent: tiny.decode(latent, message), drawn(2, 128, 9), size) < 1e-4


def test_memory_holds_a_stretch_at_a_time(tiny: SamAudio) -> None:
    """No layer is given more than its stretch with the neighbourhood: 10 s at the wave's rate are 180 MB a tensor."""
    longest = 0

    def note(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal longest
        longest = max(longest, given[0].shape[-1])

    fine = tiny.network.audio_codec.decoder.model[-1].block[4]
    with fine.register_forward_pre_hook(note):
        tiny.decode(drawn(1, 128, 9), message_of("tiles"))
    assert 4096 <= longest < 4500
