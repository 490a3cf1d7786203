"""RNNoise as a separator: what it takes out, what it leaves, and that both add up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from common.engines import lookup
from common.params import SeparationParams
from tests import media
from worker.engine import Artifact, BlockDone, Host, NoBlocks, Work
from worker.media.measure import si_sdr
from worker.media.speech import available, speech
from worker.media.synthesis import music, pink_noise
from worker.separation import rnnoise
from worker.separation.rnnoise import DELAY, FRAME, Denoiser, RNNoise, RNNoiseEngine
from worker.separation.separator import BlockAudio

HOST = Host("cpu", Path("/nowhere"))
PARAMS = SeparationParams.model_validate({"prompts": ["speech"]})

spoken = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")


def separate(mix: np.ndarray, rate: int = 48_000, keep: slice | None = None, check: Any = lambda: None) -> Any:
    block = BlockAudio(0, mix, rate, 0, keep or slice(0, mix.shape[1]))
    steps = RNNoise().separate(block, PARAMS, check)
    fractions = []
    while True:
        try:
            fractions.append(next(steps))
        except StopIteration as finished:
            assert fractions == sorted(fractions)
            assert 0 < fractions[0] <= fractions[-1] == 1.0
            return finished.value


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """float32 [1, 8 s] at 48 kHz."""
    samples, rate = speech(
        "The night shift begins when everyone has gone home. A queue of recordings waits in the dark, and one after "
        "another they are taken up, cleaned and put back."
    )
    return soxr.resample(samples, rate, 48_000).astype(np.float32)[None, : 8 * 48_000] * 0.4


def over(voice: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The voice over something else of the same energy."""
    rest = rest[:, : voice.shape[1]]
    return (voice + rest * (voice.std() / rest.std())).astype(np.float32)


@spoken
@pytest.mark.parametrize(("rest", "gain"), [("noise", 6.0), ("music", 1.5)])
def test_the_voice_comes_out_cleaner(voice: np.ndarray, rest: str, gain: float) -> None:
    """At 0 dB; here 9 and 2.4 dB were measured, over twenty seconds of music 3.9: the network needs to settle."""
    mix = over(voice, pink_noise(voice.shape[1], 1, 1) if rest == "noise" else music(8.0)[:1])
    assert si_sdr(voice, separate(mix)["speech"]) - si_sdr(voice, mix) > gain


@spoken
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 96_000])
def test_the_voice_comes_out_cleaner_at_any_rate(voice: np.ndarray, rate: int) -> None:
    mix = over(voice, pink_noise(voice.shape[1], 1, 1))
    clean = soxr.resample(voice[0], 48_000, rate)[None]
    mixed = soxr.resample(mix[0], 48_000, rate)[None]
    made = separate(mixed, rate)
    assert made["speech"].shape == mixed.shape
    assert si_sdr(clean, made["speech"]) - si_sdr(clean, mixed) > 6.0
    assert np.abs(made["speech"] + made["residual"] - mixed).max() < 1e-6


@spoken
def test_the_network_is_late_by_twenty_milliseconds(voice: np.ndarray) -> None:
    late = np.zeros(voice.shape[1] // FRAME * FRAME, np.float32)
    late[:] = voice[0, : late.size] * 32768
    with Denoiser() as denoiser:
        denoiser.run(late)
    spectrum = np.fft.rfft(late, 2 * late.size) * np.fft.rfft(voice[0, : late.size], 2 * late.size).conj()
    assert int(np.fft.irfft(spectrum).argmax()) == DELAY


@spoken
def test_clean_speech_passes(voice: np.ndarray) -> None:
    made = separate(voice)
    assert si_sdr(voice, made["speech"]) > 9
    assert made["residual"].std() < 0.4 * voice.std()


@spoken
def test_channels_do_not_hear_each_other(voice: np.ndarray) -> None:
    pair = np.concatenate([over(voice, pink_noise(voice.shape[1], 1, 1)), voice])[:, : 2 * 48_000]
    both = separate(pair)
    for channel in range(2):
        assert np.array_equal(both["speech"][channel], separate(pair[channel : channel + 1])["speech"][0])


@pytest.mark.parametrize("length", [1, 2, 479, 480, 481, 961, 10_001])
@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_lengths_are_exact(length: int, rate: int) -> None:
    mix = np.random.default_rng(length).uniform(-0.5, 0.5, (2, length)).astype(np.float32)
    keep = slice(length // 3, length)
    made = separate(mix, rate, keep)
    for stem in made.values():
        assert stem.shape == (2, length - length // 3)
        assert stem.dtype == np.float32
    assert np.abs(made["speech"] + made["residual"] - mix[:, keep]).max() < 1e-6


@pytest.mark.parametrize("level", [0.0, 1.0, 1e-20, 1e-40])
def test_what_says_nothing_stays_finite(level: float) -> None:
    """Silence, a constant, and numbers so small that their squares vanish."""
    mix = np.full((1, 48_000), level, np.float32)
    made = separate(mix)
    assert np.isfinite(made["speech"]).all()
    assert np.abs(made["speech"]).max() <= 2 * level
    if level == 0:
        assert not made["speech"].any()
        assert not made["residual"].any()


@pytest.mark.parametrize("level", [1.0, 50.0, 1e6, 1e30])
def test_samples_beyond_full_scale_stay_finite_and_add_up(level: float) -> None:
    mix = np.random.default_rng(0).uniform(-level, level, (1, 48_000)).astype(np.float32)
    made = separate(mix)
    assert np.isfinite(made["speech"]).all()
    assert np.abs(made["speech"] + made["residual"] - mix).max() <= 1e-6 * level
    assert made["speech"].std(dtype=np.float64) < mix.std(dtype=np.float64)


def test_it_asks_to_go_on_before_every_step() -> None:
    """Four seconds of audio a step, a tenth of a second of computing."""
    asked = 0

    class Cancelled(Exception):
        pass

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Cancelled

    mix = np.zeros((1, 60 * 48_000), np.float32)
    steps = RNNoise().separate(BlockAudio(0, mix, 48_000, 0, slice(0, mix.shape[1])), PARAMS, check)
    done = []
    with pytest.raises(Cancelled):
        done.extend(steps)
    assert not done or done[-1] < 0.2


class Kept(NoBlocks):
    def __init__(self, blocks: list[BlockDone]) -> None:
        self.files = {block.index: block.files for block in blocks}
        self.finished = frozenset(self.files)

    def fetch(self, index: int) -> Any:
        return self.files[index]


@pytest.mark.parametrize("finished", [1, 2])
def test_a_resumed_job_gives_the_same_bytes(tmp_path: Path, finished: int) -> None:
    mix = 0.2 * (pink_noise(3 * 22_050 + 777, 1, 5) * np.linspace(0.1, 1, 3 * 22_050 + 777))
    soundfile.write(tmp_path / "in.wav", mix.T, 22_050)
    whole = list(
        RNNoiseEngine(HOST).run(Work("a", PARAMS, media.sources(tmp_path / "in.wav"), tmp_path / "a", block_seconds=1))
    )
    run = RNNoiseEngine(HOST).run(
        Work("a", PARAMS, media.sources(tmp_path / "in.wav"), tmp_path / "b", block_seconds=1)
    )
    kept: list[BlockDone] = []
    while len(kept) < finished:
        if isinstance(event := next(run), BlockDone):
            kept.append(event)
    run.close()
    again = list(
        RNNoiseEngine(HOST).run(
            Work("a", PARAMS, media.sources(tmp_path / "in.wav"), tmp_path / "c", blocks=Kept(kept), block_seconds=1)
        )
    )
    first, second = ([e for e in events if isinstance(e, Artifact)] for events in (whole, again))
    assert [a.name for a in first] == ["speech", "residual", "waveform.json", "waveform.png"]
    for one, other in zip(first, second, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_several_prompts_that_mean_speech_share_one_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 0
    masked = rnnoise.wiener

    def counted(mix: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        nonlocal runs
        runs += 1
        return masked(mix, estimate)

    monkeypatch.setattr(rnnoise, "wiener", counted)
    row = 0.2 * pink_noise(24_000, 1, 0)[0]
    soundfile.write(tmp_path / "in.wav", np.stack([row, row], axis=1), 48_000)
    given = SeparationParams.model_validate({"prompts": ["speech", {"description": "voice", "name": "him"}]})
    events = list(RNNoiseEngine(HOST).run(Work("a", given, media.sources(tmp_path / "in.wav"), tmp_path / "s")))
    files = {a.name: a.path.read_bytes() for a in events if isinstance(a, Artifact) and a.role == "stem"}
    assert list(files) == ["speech", "residual-speech", "him", "residual-him"]
    assert files["speech"] == files["him"]
    assert files["residual-speech"] == files["residual-him"]
    assert runs == 1, "one block whose two channels are equal"


def test_the_registry_names_this_engine() -> None:
    engine = RNNoiseEngine(HOST)
    assert lookup("rnnoise").target == f"{RNNoiseEngine.__module__}:{RNNoiseEngine.__qualname__}"
    assert engine.name == "rnnoise"
    assert engine.memory_bytes() > 1_000_000
    engine.close()


def test_loading_it_brings_no_model_or_plotting_library() -> None:
    code = (
        "import sys; from worker.separation.rnnoise import RNNoise; RNNoise();"
        "print([m for m in ('torch', 'matplotlib', 'audiolab', 'pyrnnoise', 'tqdm') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
