"""Streams equal the whole: any cut of the input, any size of the pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sam_audio import relative, tiny, tiny_folder, torch
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.streaming import decode_stream, encode_range, pieces
from worker.separation.sam_audio.watermark import message_of

__all__ = ["tiny", "tiny_folder"]


def cut(values: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """The tensor in pieces of these lengths, over and over, along its last axis."""
    parts, at = [], 0
    while at < values.shape[-1]:
        for length in lengths:
            parts.append(values[..., at : at + length])
            at += length
    return parts


@given(
    st.integers(0, 300),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.integers(1, 60),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_pieces_cover_a_stream_once_with_their_context(
    total: int, lengths: list[int], own: int, left: int, right: int
) -> None:
    values = torch.arange(total)
    given = list(pieces(cut(values, lengths), own, left, right))
    assert torch.equal(torch.cat([values[:0], *(piece.values[piece.keep] for piece in given)]), values)
    for index, piece in enumerate(given):
        start, stop = index * own, min((index + 1) * own, total)
        assert piece.values.tolist() == list(range(max(0, start - left), min(stop + right, total)))


def test_pieces_hold_no_more_than_a_piece() -> None:
    """What was given is free to go: no piece keeps a view of what came before it."""
    for piece in pieces((torch.zeros(10) for _ in range(200)), 50, 20, 5):
        assert piece.values.untyped_storage().nbytes() <= 4 * (20 + 50 + 5 + 10)


@pytest.fixture(scope="module")
def wave() -> torch.Tensor:
    return 0.1 * torch.randn(2, 44 * 1920 + 777, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def latent() -> torch.Tensor:
    return torch.randn(2, 128, 48, generator=torch.Generator().manual_seed(5))


@settings(max_examples=5)
@given(st.integers(0, 44), st.integers(1, 45), st.integers(7, 30))
def test_a_stretch_is_encoded_as_in_the_whole(
    tiny: SamAudio, wave: torch.Tensor, start: int, length: int, piece: int
) -> None:
    stop = min(start + length, 45)
    parts = list(encode_range(tiny, wave, start, stop, piece))
    assert [part.shape[-1] for part in parts] == [min(piece, stop - at) for at in range(start, stop, piece)]
    assert relative(torch.cat(parts, dim=-1), tiny.encode(wave[:, None])[..., start:stop]) < 1e-5


@pytest.mark.parametrize("samples", [1, 500, 1920, 13 * 1920 - 1, 13 * 1920, 13 * 1920 + 1, 19 * 1920 + 5])
def test_ends_are_encoded_as_the_whole(tiny: SamAudio, wave: torch.Tensor, samples: int) -> None:
    """Also where a last piece has but one sample of its own, which is filled by what the piece before it gave."""
    clip = wave[:, :samples]
    streamed = torch.cat(list(encode_range(tiny, clip, 0, tiny.frames(samples), 13)), dim=-1)
    assert relative(streamed, tiny.encode(clip[:, None])) < 1e-5


@settings(max_examples=4)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(9, 30))
def test_a_streamed_decode_is_the_whole(tiny: SamAudio, latent: torch.Tensor, lengths: list[int], piece: int) -> None:
    message = torch.cat((message_of("a"), message_of("b")))
    streamed = torch.cat(list(decode_stream(tiny, cut(latent, lengths), message, piece=piece)), dim=-1)
    assert relative(streamed, tiny.decode(latent, message)[:, 0]) < 1e-5


def test_less_context_would_be_heard(tiny: SamAudio, latent: torch.Tensor) -> None:
    """The margin of the tests above means something."""
    message = message_of("a")
    streamed = torch.cat(list(decode_stream(tiny, [latent], message, piece=20, left=2)), dim=-1)
    assert relative(streamed, tiny.decode(latent, message)[:, 0]) > 1e-3


@pytest.mark.parametrize("samples", [1, 1919, 20 * 1920, 20 * 1920 + 1, 21 * 1920])
def test_a_streamed_decode_ends_at_the_sample(tiny: SamAudio, latent: torch.Tensor, samples: int) -> None:
    message, frames = message_of("a"), -(-samples // 1920)
    parts = list(decode_stream(tiny, [latent[..., :frames]], message, samples, piece=10))
    assert sum(part.shape[-1] for part in parts) == samples and all(part.shape[-1] for part in parts)


def test_nothing_in_nothing_out(tiny: SamAudio) -> None:
    assert list(encode_range(tiny, torch.zeros(1, 5000), 2, 2)) == []
    assert list(decode_stream(tiny, [torch.zeros(1, 128, 0)], message_of("a"))) == []
