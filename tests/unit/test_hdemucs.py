"""Hybrid Demucs around a tiny network with random weights: lengths, sums, blocks, prompts, channels and rates."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("torchaudio")

from torch import nn  # noqa: E402
from torchaudio.models import hdemucs_high  # noqa: E402

from common.engines import REGISTRY, able, lookup  # noqa: E402
from common.errors import NightshiftError  # noqa: E402
from common.params import SeparationParams  # noqa: E402
from tests import media  # noqa: E402
from tests.hdemucs import SEGMENTS, TinyEngine, network, write_weights  # noqa: E402
from worker.engine import Artifact, BlockDone, Host, NoBlocks, Work  # noqa: E402
from worker.separation import hdemucs  # noqa: E402
from worker.separation.hdemucs import RATE, SOURCES, STEMS, HDemucs, HDemucsEngine, load  # noqa: E402
from worker.separation.separator import BlockAudio  # noqa: E402

CPU = torch.device("cpu")
# A segment's mean is taken away and not given back: so much of noise's.
MEAN = 1e-3
EVERYTHING = ("vocals", "drums", "bass", "other", "music")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For so small a network, threads that wait for each other cost many times more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Known(nn.Module):
    """A network whose sources are known: shares of what it hears, left and right apart. Counts what it does."""

    shares = torch.tensor([[0.1, 0.2], [0.2, 0.4], [0.3, 0.6], [0.4, 0.8]])

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.layer = nn.Identity()

    def forward(self, heard: Any) -> Any:
        self.batches.append(heard.shape[0])
        return self.layer(heard)[:, None] * self.shares[None, :, :, None]


def params(*prompts: str, **given: Any) -> SeparationParams:
    return SeparationParams.model_validate({"prompts": list(prompts), **given})


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0, 0.1, (channels, samples))
    return (drawn - drawn.mean()).astype(np.float32)


def finished(steps: Generator[float, None, Mapping[str, np.ndarray]]) -> tuple[list[float], Mapping[str, np.ndarray]]:
    fractions = []
    while True:
        try:
            fractions.append(next(steps))
        except StopIteration as stop:
            return fractions, stop.value


def separate(
    separator: HDemucs, mix: np.ndarray, asked: SeparationParams, rate: int = RATE, keep: slice | None = None
) -> Mapping[str, np.ndarray]:
    block = BlockAudio(0, mix, rate, 0, keep or slice(0, mix.shape[1]))
    fractions, stems = finished(separator.separate(block, asked, lambda: None))
    assert fractions == sorted(fractions)
    assert not fractions or fractions[-1] == 1.0
    return stems


def known() -> tuple[Known, HDemucs]:
    heard = Known()
    return heard, HDemucs(heard, CPU, "known", segments=SEGMENTS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def host(models: Path) -> Host:
    return Host("cpu", models, models_on_cpu=True)


@pytest.fixture(scope="module")
def engine(host: Host) -> TinyEngine:
    return TinyEngine(host)


@pytest.fixture(scope="module")
def real(engine: TinyEngine) -> HDemucs:
    assert isinstance(engine.separator, HDemucs)
    return engine.separator


# What becomes of sources


def test_words_become_sums_of_sources() -> None:
    heard, separator = known()
    mix = noise(2, 3 * RATE)
    stems = separate(separator, mix, params(*EVERYTHING))
    left_right = np.array([[1.0], [2.0]], np.float32)
    for name, share in {"drums": 0.1, "bass": 0.2, "other": 0.3, "vocals": 0.4, "music": 0.6}.items():
        np.testing.assert_allclose(stems[name], mix * share * left_right, atol=MEAN)
        np.testing.assert_allclose(stems[name] + stems[f"residual-{name}"], mix, atol=1e-6)
    assert sum(heard.batches) == len(SEGMENTS.needed(0, 3 * RATE)), "each segment once, for five prompts"


def test_every_word_of_the_vocabulary_means_a_stem_that_is_made() -> None:
    vocabulary = REGISTRY["hdemucs"].vocabulary
    assert vocabulary is not None
    assert set(vocabulary.values()) == set(STEMS)
    assert {source for sources in STEMS.values() for source in sources} == set(SOURCES)
    for words, stem in {
        "speech": "vocals", "singing": "vocals", "percussion": "drums", "bass guitar": "bass",
        "background music": "music", "other": "other",
    }.items():  # fmt: skip
        assert vocabulary[words] == stem
    assert all(word == word.strip().lower() for word in vocabulary)


def test_what_it_does_not_know_is_refused_with_what_it_knows() -> None:
    with pytest.raises(NightshiftError) as raised:
        params("violin").check(REGISTRY["hdemucs"])
    assert raised.value.code == "engine_unsupported"
    assert "bass, drums, music, other, vocals" in raised.value.detail
    params("Drums", "Speech").check(REGISTRY["hdemucs"])
    assert able(REGISTRY["hdemucs"].kind, "drums", spans=False)[0] == "hdemucs"


def test_descriptions_are_told_apart_by_their_words_not_their_case() -> None:
    _, separator = known()
    stems = separate(separator, noise(2, RATE), params("Drums", "Percussion"))
    assert np.array_equal(stems["drums"], stems["percussion"])


# Channels


def test_one_channel_is_heard_on_both_sides() -> None:
    _, separator = known()
    mix = noise(1, 2 * RATE)
    stems = separate(separator, mix, params("vocals"))
    np.testing.assert_allclose(stems["vocals"], mix * 0.6, atol=MEAN)


def test_more_than_two_channels_are_each_heard_alone() -> None:
    heard, separator = known()
    mix = noise(3, 2 * RATE)
    stems = separate(separator, mix, params("vocals"))
    np.testing.assert_allclose(stems["vocals"], mix * 0.6, atol=MEAN)
    assert sum(heard.batches) == 3 * len(SEGMENTS.needed(0, 2 * RATE))


def test_stereo_is_heard_together(real: HDemucs) -> None:
    """What is on the right changes what comes out on the left."""
    one, other = noise(2, RATE), noise(2, RATE, seed=1)
    other[0] = one[0]
    first, second = (separate(real, mix, params("vocals"))["vocals"] for mix in (one, other))
    assert np.abs(first[0] - second[0]).max() > 1e-4


# Levels


@pytest.mark.parametrize("level", [1e-40, 1e-12, 1.0, 1e20, 1e30])
def test_any_level_gives_the_same_shape(real: HDemucs, level: float) -> None:
    mix = noise(2, RATE)
    usual = separate(real, mix, params("vocals"))["vocals"]
    stem = separate(real, (mix * np.float64(level)).astype(np.float32), params("vocals"))["vocals"]
    assert np.isfinite(stem).all()
    if level > 1e-30:
        np.testing.assert_allclose(stem.astype(np.float64) / level, usual, atol=1e-4 * np.abs(usual).max())


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_not_computed(level: float) -> None:
    heard, separator = known()
    mix = np.full((2, 4 * RATE), level, np.float32)
    mix[:, : RATE // 2] += noise(2, RATE // 2)
    stems = separate(separator, mix, params("vocals"))
    assert len(heard.batches) == len(SEGMENTS.needed(0, RATE // 2)) == 2
    assert not stems["vocals"][:, 2 * RATE :].any()
    assert np.array_equal(stems["residual"][:, 2 * RATE :], mix[:, 2 * RATE :])
    heard.batches.clear()
    assert not separate(separator, np.full((1, RATE), level, np.float32), params("vocals"))["vocals"].any()
    assert not heard.batches


def test_one_side_may_be_the_negative_of_the_other(real: HDemucs) -> None:
    """Whose mean is silent; the published recipe divides by its deviation."""
    row = noise(1, RATE)
    stem = separate(real, np.concatenate((row, -row)), params("vocals"))["vocals"]
    assert np.isfinite(stem).all()
    assert np.abs(stem).max() < 100 * np.abs(row).max()


# Lengths, rates, segments


@pytest.mark.parametrize("samples", [1, 2, 1000, 44_099, 44_100, 50_000])
@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_lengths_are_exact(samples: int, rate: int) -> None:
    _, separator = known()
    mix = noise(2, samples, seed=samples)
    keep = slice(samples // 3, samples)
    stems = separate(separator, mix, params("music"), rate, keep)
    for stem in stems.values():
        assert (stem.shape, stem.dtype) == ((2, samples - samples // 3), np.float32)
    np.testing.assert_allclose(stems["music"] + stems["residual"], mix[:, keep], atol=1e-6)


@pytest.mark.parametrize("rate", [16_000, 48_000, 96_000])
def test_what_fits_the_networks_band_comes_through_the_rates(rate: int) -> None:
    _, separator = known()
    time_ = np.arange(3 * rate) / rate
    mix = np.stack([0.3 * np.sin(2 * np.pi * f * time_) for f in (440, 1234)]).astype(np.float32)
    stems = separate(separator, mix, params("vocals"), rate)
    inside = slice(rate // 10, -rate // 10)
    np.testing.assert_allclose(stems["vocals"][:, inside], (mix * [[0.4], [0.8]])[:, inside], atol=1e-3)


def test_the_real_network_gives_what_it_gives_alone(real: HDemucs, host: Host) -> None:
    """One segment: the network's own answer to the sound at unit level, brought back."""
    mix = noise(2, RATE * 9 // 10) * np.float32(3)
    alone = load(TinyEngine.build(), write_weights(host.models))
    pad = np.pad(mix, ((0, 0), (0, RATE - mix.shape[1])))
    level = (pad - pad.mean()) / pad.std()
    with torch.inference_mode():
        expected = alone(torch.from_numpy(level)[None])[0].numpy() * pad.std()
    stems = separate(real, mix, params(*SOURCES))
    for index, name in enumerate(SOURCES):
        np.testing.assert_allclose(stems[name], expected[index][:, : mix.shape[1]], atol=2e-5)
        assert stems[name].std() > 1e-3


def run(engine: HDemucsEngine, source: Path, scratch: Path, asked: SeparationParams, **given: Any) -> list[Any]:
    return list(engine.run(Work("job", asked, media.sources(source), scratch, **given)))


def outputs(events: list[Any]) -> dict[str, np.ndarray]:
    return {
        event.name: soundfile.read(event.path, dtype="float32", always_2d=True)[0].T
        for event in events
        if isinstance(event, Artifact) and event.role == "stem"
    }


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    samples = noise(2, 5 * RATE + 123) * np.linspace(0.3, 1, 5 * RATE + 123, dtype=np.float32)
    soundfile.write(path, samples.T, RATE, subtype="FLOAT")
    return path


@pytest.mark.parametrize("block_seconds", [3.0, 1.37])
def test_a_song_gives_the_same_however_it_is_cut_into_blocks(
    engine: TinyEngine, song: Path, tmp_path: Path, block_seconds: float
) -> None:
    asked = params("vocals", "music", output={"format": "wav"})
    whole = outputs(run(engine, song, tmp_path / "a", asked))
    cut = outputs(run(engine, song, tmp_path / "b", asked, block_seconds=block_seconds))
    assert list(whole) == ["vocals", "residual-vocals", "music", "residual-music"]
    for name, stem in whole.items():
        assert stem.shape == (2, 5 * RATE + 123)
        np.testing.assert_allclose(cut[name], stem, atol=1e-5)


class Kept(NoBlocks):
    def __init__(self, blocks: list[BlockDone]) -> None:
        self.files = {block.index: block.files for block in blocks}
        self.finished = frozenset(self.files)

    def fetch(self, index: int) -> Any:
        return self.files[index]


def test_a_resumed_job_gives_the_same_bytes(engine: TinyEngine, song: Path, tmp_path: Path) -> None:
    asked = params("drums")
    whole = run(engine, song, tmp_path / "a", asked, block_seconds=2.0)
    half = engine.run(Work("job", asked, media.sources(song), tmp_path / "b", block_seconds=2.0))
    kept: list[BlockDone] = []
    while len(kept) < 1:
        if isinstance(event := next(half), BlockDone):
            kept.append(event)
    half.close()
    again = run(engine, song, tmp_path / "c", asked, block_seconds=2.0, blocks=Kept(kept))
    first, second = ([e.path.read_bytes() for e in events if isinstance(e, Artifact)] for events in (whole, again))
    assert len(first) == 4
    assert first == second


def test_batches_change_nothing_but_the_order(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card, in batches of four, once with memory that runs out."""
    mix = soundfile.read(song, dtype="float32")[0].T
    torch.manual_seed(0)
    separator = HDemucs(network().eval(), CPU, "tiny", segments=SEGMENTS)
    singly = separate(separator, mix, params("vocals"))["vocals"]
    monkeypatch.setattr(type(separator._batches), "size", property(lambda self: 4))
    batched = separate(separator, mix, params("vocals"))["vocals"]
    np.testing.assert_allclose(batched, singly, atol=1e-5)

    forward = separator._network.forward  # type: ignore[union-attr]
    seen: list[int] = []

    def scarce(heard: Any) -> Any:
        seen.append(heard.shape[0])
        if heard.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(heard)

    monkeypatch.setattr(separator._network, "forward", scarce)
    np.testing.assert_allclose(separate(separator, mix, params("vocals"))["vocals"], singly, atol=1e-5)
    assert seen[:3] == [4, 2, 2]


def test_a_cancelled_job_stops_inside_an_evaluation(real: HDemucs) -> None:
    asked = 0

    class Cancelled(Exception):
        pass

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 20:
            raise Cancelled

    mix = noise(2, 20 * RATE)
    block = BlockAudio(0, mix, RATE, 0, slice(0, mix.shape[1]))
    began = time.monotonic()
    fractions: list[float] = []
    with pytest.raises(Cancelled):
        fractions.extend(real.separate(block, params("vocals"), check))
    assert not fractions, "within the first of 27 segments"
    assert time.monotonic() - began < 20
    assert not any(layer._forward_pre_hooks for layer in real._network.modules())  # type: ignore[union-attr]


# Weights and the host


def test_the_engine_is_the_registrys(engine: TinyEngine, models: Path) -> None:
    assert lookup("hdemucs").target == f"{HDemucsEngine.__module__}:{HDemucsEngine.__qualname__}"
    assert engine.name == "hdemucs"
    assert engine.memory_bytes() == 4 * sum(p.numel() for p in network().parameters())


def test_other_weights_are_another_version(host: Host, engine: TinyEngine, tmp_path: Path) -> None:
    assert TinyEngine(host).version == engine.version
    write_weights(tmp_path, seed=1)
    assert TinyEngine(Host("cpu", tmp_path, models_on_cpu=True)).version != engine.version


def test_without_a_card_it_needs_leave(models: Path) -> None:
    with pytest.raises(NightshiftError) as raised:
        TinyEngine(Host("cpu", models))
    assert raised.value.code == "device_missing"


@pytest.mark.parametrize("content", ["garbage", "cut", "another network", "a list", "a program"])
def test_a_file_that_is_not_the_weights_is_refused(tmp_path: Path, content: str) -> None:
    path = write_weights(tmp_path)
    if content == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:10_000])
    elif content == "another network":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    elif content == "a list":
        torch.save([1, 2], path)
    else:
        torch.save({"a": print}, path)
    with pytest.raises(NightshiftError) as raised:
        TinyEngine(Host("cpu", tmp_path, models_on_cpu=True))
    assert raised.value.code == "weights_invalid"
    assert str(path) in raised.value.detail


def test_the_published_network_is_built_without_memory_and_takes_its_own_names() -> None:
    built = HDemucsEngine.build()
    assert all(parameter.is_meta for parameter in built.parameters())
    assert sum(parameter.numel() for parameter in built.parameters()) == 83_639_368
    with torch.device("meta"):
        published = hdemucs_high(list(SOURCES))
    built.load_state_dict(published.state_dict(), strict=True, assign=True)


def test_the_sources_are_in_the_order_of_the_published_pipeline() -> None:
    from torchaudio.pipelines import HDEMUCS_HIGH_MUSDB_PLUS as published

    with torch.device("meta"):
        assert tuple(published._model_factory_func().sources) == SOURCES
    assert published.sample_rate == RATE
    weights = REGISTRY["hdemucs"].weights
    assert weights is not None
    assert weights.url.endswith(published._model_path)


def test_closing_lets_the_network_go(host: Host) -> None:
    made = TinyEngine(host)
    made.close()
    assert isinstance(made.separator, HDemucs)
    assert made.separator._network is None


def test_blocks_of_the_published_size_compute_one_segment_more_than_they_must() -> None:
    segments, separator = hdemucs.SEGMENTS, HDemucs
    for block in (0, 1, 7):
        start = round(block * separator.block_seconds * RATE)
        stop = start + round((separator.block_seconds + separator.overlap_seconds) * RATE)
        needed = segments.needed(max(0, start - RATE // 2), stop + RATE // 2)
        assert len(needed) == 16
        left, right = (round(seconds * RATE) for seconds in separator.context_seconds)
        for index in needed:
            low, high = max(0, start - left), stop + right
            assert segments.place(index, low, high) == segments.place(index, 0, 10**9)
