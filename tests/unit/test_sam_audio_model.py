"""The model: rows of a batch, text, the sampler, clips of odd lengths, the watermark."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sam_audio import relative, tiny, tiny_folder, torch
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.sampler import Schedule, integrate
from worker.separation.sam_audio.text import TextStates
from worker.separation.sam_audio.watermark import message_of

__all__ = ["tiny", "tiny_folder"]

PROMPTS = ["a dog barking far away", "man speaking", "x"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rows_of_a_batch_are_what_they_are_alone(tiny: SamAudio) -> None:
    """Different recordings, prompts, marks and times in one batch."""
    state, features = drawn(3, 40, 256), drawn(3, 40, 256, seed=1)
    times = torch.tensor([0.0, 0.3, 0.97])
    marked = torch.tensor([[0] * 40, [0] * 10 + [1] * 30, [2] * 20 + [1] * 20])
    together = tiny.velocity(state, times, features, tiny.text(PROMPTS), marked)
    for row in range(3):
        one = slice(row, row + 1)
        alone = tiny.velocity(state[one], times[one], features[one], tiny.text(PROMPTS[one]), marked[one])
        assert relative(together[one], alone) < 1e-5


def test_samples_of_a_batch_are_what_they_are_alone(tiny: SamAudio) -> None:
    noise, features = drawn(2, 12, 256), drawn(2, 12, 256, seed=1)
    schedule = Schedule("midpoint", 4)
    together = tiny.sample(noise, features, tiny.text(PROMPTS[:2]), schedule=schedule)
    for row in range(2):
        one = slice(row, row + 1)
        alone = tiny.sample(noise[one], features[one], tiny.text(PROMPTS[one]), schedule=schedule)
        assert relative(together[one], alone) < 1e-5


def test_codec_rows_are_what_they_are_alone(tiny: SamAudio) -> None:
    waves, latents = 0.1 * drawn(2, 1, 5000), drawn(2, 128, 3)
    messages = torch.cat((message_of("a"), message_of("b")))
    encoded, decoded = tiny.encode(waves), tiny.decode(latents, messages)
    for row in range(2):
        one = slice(row, row + 1)
        assert relative(encoded[one], tiny.encode(waves[one])) < 1e-5
        assert relative(decoded[one], tiny.decode(latents[one], messages[one])) < 1e-5


def test_marks_prompts_and_the_missing_video_matter(tiny: SamAudio) -> None:
    state, features, text = drawn(1, 10, 256), drawn(1, 10, 256, seed=1), tiny.text(["man speaking"])
    plain = tiny.velocity(state, 0.5, features, text)
    assert torch.equal(plain, tiny.velocity(state, 0.5, features, text, torch.zeros(1, 10, dtype=torch.long)))
    assert relative(tiny.velocity(state, 0.5, features, text, torch.ones(1, 10, dtype=torch.long)), plain) > 1e-2
    assert relative(tiny.velocity(state, 0.5, features, tiny.text(["dog"])), plain) > 1e-3
    assert relative(tiny.velocity(state, 0.6, features, text), plain) > 1e-3
    assert float(tiny.network.align_masked_video.without_video().abs().max()) > 0.1


def test_padding_of_text_changes_nothing(tiny: SamAudio) -> None:
    alone = tiny.text(["man speaking"])
    assert alone.mask is None
    padded, mask = tiny.text_encoder.encode(["man speaking", "a much longer description of a sound"])
    length = int(mask[0].sum())
    assert length == alone.states.shape[1] < padded.shape[1]
    assert relative(padded[:1, :length], alone.states) < 1e-5
    state, features = drawn(1, 10, 256), drawn(1, 10, 256, seed=1)
    garbage = padded[:1].clone()
    garbage[:, length:] = 100.0
    spoiled = tiny.velocity(state, 0.5, features, TextStates(garbage, mask[:1]))
    assert relative(spoiled, tiny.velocity(state, 0.5, features, alone)) < 1e-5


def test_text_states_are_kept_and_do_not_depend_on_their_company(tiny: SamAudio) -> None:
    first = tiny.text(["rain", "a train passing"])
    assert first.mask is not None and first.mask.sum(dim=1).tolist() == [5, 16]
    calls = []
    encode = tiny.text_encoder.encode
    tiny.text_encoder.encode = lambda descriptions: calls.append(list(descriptions)) or encode(descriptions)
    try:
        again = tiny.text(["a train passing", "wind", "rain"])
    finally:
        tiny.text_encoder.encode = encode
    assert calls == [["wind"]]
    assert torch.equal(again.states[2], first.states[0]) and torch.equal(again.states[0], first.states[1])
    picked = again.rows(torch.tensor([2, 0]))
    assert torch.equal(picked.states, first.states) and torch.equal(picked.mask, first.mask)


def test_a_description_is_cut_at_the_longest_length(tiny: SamAudio) -> None:
    assert tiny.text(["a" * 2000]).states.shape[1] == 512


@pytest.mark.parametrize("samples", [1, 2, 959, 960, 961, 1919, 1920, 1921, 4000])
def test_clips_of_any_length_become_whole_frames(tiny: SamAudio, samples: int) -> None:
    latent = tiny.encode(0.1 * drawn(1, 1, samples))
    assert latent.shape == (1, 128, tiny.frames(samples)) and bool(torch.isfinite(latent).all())


def test_the_last_frame_is_filled_by_reflection(tiny: SamAudio) -> None:
    wave = 0.1 * drawn(1, 1, 3000)
    filled = torch.cat((wave, wave.flip(-1)[..., 1:841]), dim=-1)
    assert torch.equal(tiny.encode(wave), tiny.encode(filled))


def test_features_hold_the_latent_twice(tiny: SamAudio) -> None:
    latent = drawn(2, 128, 5)
    features = tiny.features(latent)
    assert torch.equal(features[..., :128], latent.transpose(1, 2))
    assert torch.equal(features[..., :128], features[..., 128:])


def test_a_clip_is_separated_repeatably_and_cut_to_its_length(tiny: SamAudio) -> None:
    wave, schedule = 0.1 * drawn(1, 4321), Schedule("euler", 2)
    target, residual = tiny.separate(wave, "dog", [("+", 0.0, 0.05)], seed=5, schedule=schedule)
    assert target.shape == residual.shape == (1, 4321)
    again = tiny.separate(wave, "dog", [("+", 0.0, 0.05)], seed=5, schedule=schedule)
    assert torch.equal(target, again[0]) and torch.equal(residual, again[1])
    assert relative(tiny.separate(wave, "dog", [("+", 0.0, 0.05)], seed=6, schedule=schedule)[0], target) > 1e-2
    whole, _ = tiny.separate(wave, "dog", [("+", 0.0, 0.05)], seed=5, schedule=schedule, whole_frames=True)
    assert whole.shape == (1, 3 * 1920) and torch.equal(whole[:, :4321], target)


def test_work_stops_at_the_next_evaluation(tiny: SamAudio) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tiny.sample(drawn(1, 4, 256), drawn(1, 4, 256), tiny.text(["x"]), schedule=Schedule(), check=check)
    assert len(calls) == 3


def test_more_frames_than_the_model_was_made_for_are_refused(tiny: SamAudio) -> None:
    with pytest.raises(ValueError, match="10001 frames"):
        tiny.conditions(torch.zeros(1, 10_001, 256), tiny.text(["x"]))


@pytest.mark.parametrize("wave", [torch.zeros(1, 5000), torch.zeros(1, 2, 5000), torch.zeros(1, 1, 0)])
def test_a_wave_of_another_shape_is_refused(tiny: SamAudio, wave: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[B, 1, N\]"):
        tiny.encode(wave)


@pytest.mark.parametrize("message", [torch.zeros(1, 15), torch.full((1, 16), 0.5), torch.full((1, 16), 2.0)])
def test_a_message_that_is_no_bits_is_refused(tiny: SamAudio, message: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="zeros and ones"):
        tiny.decode(torch.zeros(1, 128, 1), message)


def test_the_message_is_in_the_wave(tiny: SamAudio) -> None:
    latent = drawn(1, 128, 3)
    a, b = tiny.decode(latent, message_of("a")), tiny.decode(latent, message_of("b"))
    assert torch.equal(a, tiny.decode(latent, message_of("a")))
    assert relative(b, a) > 1e-2


@given(st.text())
def test_a_message_is_sixteen_bits_of_the_identity(identity: str) -> None:
    message = message_of(identity)
    assert message.shape == (1, 16) and set(message.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(message, message_of(identity))


def test_messages_are_evenly_spread() -> None:
    bits = torch.cat([message_of(str(index)) for index in range(2000)])
    assert bool(((bits.mean(dim=0) - 0.5).abs() < 0.05).all())
    assert len({tuple(row) for row in bits.tolist()}) > 1900


@settings(max_examples=30)
@given(st.sampled_from(["midpoint", "euler"]), st.integers(1, 40))
def test_the_sampler_follows_its_rule(method: str, steps: int) -> None:
    """On x' = x: each step multiplies by 1 + h (Euler) or 1 + h + h²/2 (midpoint)."""
    schedule = Schedule(method, steps)
    times: list[float] = []
    state = integrate(lambda t, x: times.append(t) or x, torch.ones(1, dtype=torch.float64), schedule)
    h = 1 / steps
    factor = 1 + h + (h * h / 2 if method == "midpoint" else 0)
    assert float(state) == pytest.approx(factor**steps)
    assert len(times) == schedule.evaluations and times == sorted(times) and 0 <= min(times) <= max(times) < 1


def test_midpoint_knows_the_time() -> None:
    """Exact on x' = 2t, which a rule that looked at a step's beginning alone would miss."""
    state = integrate(
        lambda t, x: torch.full_like(x, 2 * t), torch.zeros(1, dtype=torch.float64), Schedule("midpoint", 3)
    )
    assert math.isclose(float(state), 1.0)


@pytest.mark.parametrize(("method", "steps"), [("heun", 4), ("midpoint", 0)])
def test_schedules_that_do_not_exist_are_refused(method: str, steps: int) -> None:
    with pytest.raises(ValueError):
        Schedule(method, steps)
