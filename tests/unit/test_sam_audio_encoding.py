"""Latents of blocks: those of the whole recording, each second of a channel computed once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from tests.sam_audio import Fixed, relative, tiny, tiny_folder, torch
from worker.separation.plan import Grid
from worker.separation.resample import convert
from worker.separation.sam_audio.encoding import Encoder, Reach
from worker.separation.sam_audio.fitting import Fitting
from worker.separation.sam_audio.longform import LongForm
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.separator import SamAudioSeparator
from worker.separation.sam_audio.windows import plan
from worker.separation.separator import BlockAudio
from worker.separation.stream import cut

__all__ = ["tiny", "tiny_folder"]

REACH = Reach(before=2, after=1, overlap=1.0)
BLOCK = 6.0


def encoder(model: SamAudio) -> Encoder:
    return Encoder(model, Fitting("tiny", model.device), REACH)


def sound(seconds: float, rate: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))).astype(np.float32)


def blocks(samples: np.ndarray, rate: int, seconds: float = BLOCK) -> list[BlockAudio]:
    grid = Grid.of_seconds(rate, seconds, *REACH.context, REACH.overlap)
    return [
        BlockAudio(block.window.index, block.samples, rate, block.window.start, block.window.keep)
        for block in cut([samples], grid)
        if block.samples is not None
    ]


def encoded(one: Encoder, given: Iterable[BlockAudio]) -> dict[int, tuple[int, torch.Tensor]]:
    """Of each block the absolute frame at which its latents begin, and them."""
    made = {}
    for block in given:
        first = round((block.start / block.rate + REACH.sampled(block)[0]) * 25)
        made[block.index] = first, one.encode(block, range(block.samples.shape[0]), lambda: None)
    return made


@pytest.mark.parametrize(
    ("rate", "seconds"), [(48_000, 19.03), (44_100, 14.5), (8_000, 14.01), (48_000, 6.99), (48_000, 0.7)]
)
def test_each_block_gets_what_the_whole_would_give_and_no_second_is_encoded_twice(
    tiny: SamAudio, rate: int, seconds: float
) -> None:
    samples = sound(seconds, rate)
    whole = tiny.encode(torch.from_numpy(np.stack([convert(row, rate, 48_000) for row in samples]))[:, None])
    one = encoder(tiny)
    given = blocks(samples, rate)
    made = encoded(one, given)
    reached = 0
    for block in given:
        first, latents = made[block.index]
        stop = first + latents.shape[-1]
        # From two seconds before what it gives to one after it.
        assert first == max(0, block.index * 150 - 50)
        assert stop == min((block.index + 1) * 150 + 50, whole.shape[-1])
        # A converted rate hears the block's border from two seconds away, at the level of rounding.
        assert relative(latents, whole[..., first:stop]) < (1e-5 if rate == 48_000 else 1e-3)
        reached = stop
    assert reached == whole.shape[-1]
    assert one.seconds == pytest.approx(2 * whole.shape[-1] / 25)


def test_a_block_that_begins_anew_gets_the_same_bits(tiny: SamAudio) -> None:
    given = blocks(sound(22.0, 48_000), 48_000)
    assert len(given) == 4
    on = encoded(encoder(tiny), given)
    anew = encoder(tiny)
    resumed = encoded(anew, given[2:])
    for index in (2, 3):
        assert torch.equal(resumed[index][1], on[index][1])
    # From second 10 on; what was before it belongs to blocks that are finished.
    assert anew.seconds == pytest.approx(2 * 12)


def test_channels_that_come_and_go_take_over_what_is_theirs(tiny: SamAudio) -> None:
    """Two equal channels count as one; where they part, both take over what they shared."""
    samples = sound(17.0, 48_000)
    samples[1, : 48_000 * 9] = samples[0, : 48_000 * 9]
    first, second, _ = blocks(samples, 48_000)
    one = encoder(tiny)
    alone = BlockAudio(0, first.samples[:1], 48_000, first.start, first.keep)
    one.encode(alone, [0], lambda: None)
    latents = one.encode(second, [0, 1], lambda: None)
    assert one.seconds == pytest.approx(8 + 2 * 6)
    assert relative(latents, encoder(tiny).encode(second, [0, 1], lambda: None)) < 1e-5


@pytest.mark.parametrize("change", ["sound", "order", "start", "rate"])
def test_nothing_is_taken_over_from_another_sound_or_place(tiny: SamAudio, change: str) -> None:
    first, second, *_ = blocks(sound(22.0, 48_000), 48_000)
    one = encoder(tiny)
    one.encode(first, [0, 1], lambda: None)
    samples = second.samples.copy()
    start, rate = second.start, 48_000
    if change == "sound":
        samples[:, 100] += 1e-4
    elif change == "order":
        samples = sound(22.0, 48_000, seed=1)[:, : samples.shape[1]]
    elif change == "start":
        start += 48_000 * 2
    else:
        rate = 24_000
    other = BlockAudio(1, samples, rate, start, slice(second.keep.start * rate // 48_000, 150_000))
    before = one.seconds
    latents = one.encode(other, [0, 1], lambda: None)
    assert one.seconds - before == pytest.approx(2 * latents.shape[-1] / 25)
    assert torch.equal(latents, encoder(tiny).encode(other, [0, 1], lambda: None))


def test_an_end_that_is_none_in_the_next_file_is_not_taken_over(tiny: SamAudio) -> None:
    """A file that ends in the middle of what two blocks share, and another one that goes on after the same sound."""
    samples = sound(30.0, 48_000)
    one = encoder(tiny)
    shorter = blocks(samples[:, : 48_000 * 7 + 30_000], 48_000)[0]
    longer = blocks(samples, 48_000)[1]
    one.encode(shorter, [0, 1], lambda: None)
    before = one.seconds
    latents = one.encode(longer, [0, 1], lambda: None)
    assert relative(latents, encoder(tiny).encode(longer, [0, 1], lambda: None)) < 1e-5
    # Up to second 6, one before the end that the first file had.
    assert one.seconds - before == pytest.approx(2 * (14 - 6))


def test_the_count_is_of_what_was_asked_for_even_where_memory_runs_out(
    tiny: SamAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = tiny.encode

    def limited(wave: torch.Tensor) -> torch.Tensor:
        if wave.shape[-1] > 1920 * 60:
            raise torch.OutOfMemoryError("out of memory")
        return encode(wave)

    (block,) = blocks(sound(6.0, 48_000), 48_000)
    expected = encoder(tiny).encode(block, [0, 1], lambda: None)
    monkeypatch.setattr(tiny, "encode", limited)
    one = encoder(tiny)
    assert relative(one.encode(block, [0, 1], lambda: None), expected) < 1e-5
    assert one.seconds == pytest.approx(2 * 6)


def test_what_a_block_of_the_engine_samples_is_five_whole_windows(tiny: SamAudio) -> None:
    """Nothing is evaluated twice but what neighbouring windows have in common."""
    one = SamAudioSeparator("tiny", "1", LongForm(tiny, Fixed(1)))
    grid = Grid.of_seconds(100, one.block_seconds, *one.context_seconds, one.overlap_seconds)
    window = grid.window(1)
    block = BlockAudio(1, np.zeros((1, window.stop - window.start), np.float32), 100, window.start, window.keep)
    first, last = Reach(5, 4, one.overlap_seconds).sampled(block)
    assert (window.start / 100 + first, window.start / 100 + last) == (115, 245)
    assert plan(25 * (last - first), 750, 125).starts == (0, 625, 1250, 1875, 2500)
