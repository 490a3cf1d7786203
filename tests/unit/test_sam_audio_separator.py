"""Blocks in, stems out; and a whole recording through the pipeline, in blocks and after a resume."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile

from common.engines import REGISTRY, EngineSpec, Kind, Lane, Weights
from common.errors import NightshiftError
from common.params import SeparationParams
from tests import media
from tests.sam_audio import Fixed, relative, tiny, tiny_folder, torch
from worker import device as devices
from worker.engine import Artifact, BlockDone, Host, Metrics, Work, alone
from worker.separation.pipeline import SeparationEngine
from worker.separation.sam_audio import engine as engines
from worker.separation.sam_audio.compiled import Compiled
from worker.separation.sam_audio.longform import LongForm, window_bytes
from worker.separation.sam_audio.model import SamAudio
from worker.separation.sam_audio.separator import SamAudioSeparator
from worker.separation.separator import BlockAudio

__all__ = ["tiny", "tiny_folder"]


def sound(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def params(*prompts: Any, **more: Any) -> SeparationParams:
    return SeparationParams.model_validate({"prompts": prompts or ("man speaking",), "quality": "draft", **more})


def separator(model: SamAudio, **form: Any) -> SamAudioSeparator:
    """Windows of three seconds."""
    return SamAudioSeparator("tiny", "1", LongForm(model, Fixed(4), **{"window": 75, "overlap": 25, **form}))


def stems(one: SamAudioSeparator, block: BlockAudio, wanted: SeparationParams) -> dict[str, np.ndarray]:
    steps = alone(one.separate(block, wanted, lambda: None))
    fractions = []
    while True:
        try:
            fractions.append(next(steps))
        except StopIteration as finished:
            assert fractions == sorted(fractions) and all(0 < fraction <= 1 for fraction in fractions)
            return finished.value


def test_a_block_of_one_window_is_the_plain_separation(tiny: SamAudio) -> None:
    samples = sound(1, 3 * 48_000)
    wanted = params({"description": "dog", "spans": [["+", 1.0, 2.0]]}, seed=4)
    one = separator(tiny)
    given = stems(one, BlockAudio(0, samples, 48_000, 0, slice(0, samples.shape[1])), wanted)
    from worker.separation.sam_audio.sampler import TIERS
    from worker.separation.sam_audio.watermark import message_of

    message = message_of(wanted.model_dump_json()).expand(2, -1)
    target, residual = tiny.separate(
        torch.from_numpy(samples), "dog", [("+", 1.0, 2.0)], seed=4, message=message, schedule=TIERS["draft"]
    )
    assert relative(torch.from_numpy(given["dog"]), target) < 1e-4
    assert relative(torch.from_numpy(given["residual"]), residual) < 1e-4


@pytest.mark.parametrize("rate", [48_000, 44_100, 44_056, 8_000])
def test_stems_are_in_place_at_any_rate(tiny: SamAudio, rate: int) -> None:
    """What a block keeps is the same stretch of sound whatever is kept around it."""
    samples = sound(1, 5 * rate)
    one = separator(tiny, window=200)
    wide = stems(one, BlockAudio(0, samples, rate, 0, slice(0, 5 * rate)), params())
    keep = slice(int(2.5 * rate) + 7, 4 * rate + 11)
    narrow = stems(one, BlockAudio(0, samples, rate, 0, keep), params())
    for name, whole in wide.items():
        assert narrow[name].shape == (1, keep.stop - keep.start) and narrow[name].dtype == np.float32
        assert relative(torch.from_numpy(narrow[name]), torch.from_numpy(whole[:, keep])) < 1e-3


def test_a_job_says_how_its_windows_are_joined(tiny: SamAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways give nearly the same sound, and not the very same."""
    from worker.separation.sam_audio import separator as module
    from worker.separation.sam_audio.watermark import message_of

    # Of all that a job asks for; here only the windows are to differ.
    monkeypatch.setattr(module, "message_of", lambda _: message_of(""))
    block = BlockAudio(0, sound(1, 6 * 48_000), 48_000, 0, slice(0, 6 * 48_000))
    one = separator(tiny, window=60, overlap=20)
    asked = [{}, {"windows": "shared"}, {"windows": "independent"}]
    ways = [params("dog", outputs=["target"], **more) for more in asked]
    unsaid, shared, independent = (torch.from_numpy(stems(one, block, way)["dog"]) for way in ways)
    assert torch.equal(unsaid, shared)
    assert 1e-6 < relative(independent, shared) < 0.1


def test_channels_and_prompts_are_separated_from_one_encode(tiny: SamAudio) -> None:
    samples = np.concatenate((sound(1, 96_000), np.zeros((1, 96_000), np.float32), sound(1, 96_000, seed=1)))
    block = BlockAudio(0, samples, 48_000, 0, slice(0, 96_000))
    one = separator(tiny)
    given = stems(one, block, params("dog", "rain", outputs=["target"]))
    assert one.figures()["encoded_seconds"] == 2 * 2.0 and set(given) == {"dog", "rain"}
    assert not given["dog"][1].any()
    for row in (0, 2):
        alone = dataclasses.replace(block, samples=samples[row : row + 1])
        single = stems(one, alone, params("dog", "rain", outputs=["target"]))
        assert relative(torch.from_numpy(given["rain"][row]), torch.from_numpy(single["rain"][0])) < 1e-4


def test_a_second_prompt_costs_no_encode_and_shares_the_batches_of_the_first(tiny: SamAudio) -> None:
    """Windows of both are evaluated together; only how many there are doubles."""
    samples = sound(1, 8 * 48_000)
    block = BlockAudio(0, samples, 48_000, 0, slice(0, samples.shape[1]))
    cost = []
    for prompts in (["dog"], ["dog", "rain"]):
        one = SamAudioSeparator("tiny", "1", LongForm(tiny, Fixed(8), window=75, overlap=25))
        stems(one, block, params(*prompts, outputs=["target"]))
        cost.append(one.figures())
    # Four windows, eight evaluations of the draft.
    assert cost[0] == {"encoded_seconds": 8.0, "evaluations": 8, "windows_evaluated": 32}
    assert cost[1] == {"encoded_seconds": 8.0, "evaluations": 8, "windows_evaluated": 64}


def test_silence_costs_nothing(tiny: SamAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "evaluate", None)
    silent = BlockAudio(0, np.zeros((2, 48_000), np.float32), 48_000, 0, slice(100, 48_000))
    given = stems(separator(tiny), silent, params())
    assert all(stem.shape == (2, 47_900) and not stem.any() for stem in given.values())


def test_noise_follows_the_file_not_the_block(tiny: SamAudio) -> None:
    samples = sound(1, 96_000)
    first = stems(separator(tiny), BlockAudio(0, samples, 48_000, 0, slice(0, 96_000)), params())
    later = stems(separator(tiny), BlockAudio(1, samples, 48_000, 480_000, slice(0, 96_000)), params())
    assert relative(torch.from_numpy(later["residual"]), torch.from_numpy(first["residual"])) > 1e-2


def test_the_codec_takes_smaller_pieces_where_memory_runs_out(tiny: SamAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    block = BlockAudio(0, sound(1, 6 * 48_000), 48_000, 0, slice(0, 6 * 48_000))
    before = stems(separator(tiny), block, params(outputs=["target"]))
    decode = tiny.decode

    def limited(latent: torch.Tensor, message: torch.Tensor) -> torch.Tensor:
        if latent.shape[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")
        return decode(latent, message)

    monkeypatch.setattr(tiny, "decode", limited)
    after = stems(separator(tiny), block, params(outputs=["target"]))
    assert relative(torch.from_numpy(after["man-speaking"]), torch.from_numpy(before["man-speaking"])) < 1e-4
    monkeypatch.setattr(tiny, "decode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(NightshiftError, match="gpu_oom"):
        stems(separator(tiny), block, params())


class Finished:
    """Blocks of an earlier attempt."""

    def __init__(self, files: Mapping[int, Mapping[str, Path]]) -> None:
        self._files = files

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self._files)

    def fetch(self, index: int) -> Mapping[str, Path]:
        return self._files[index]


@pytest.fixture
def dtype() -> Literal["float32", "bfloat16"]:
    """What the engine computes in. Only float32 gives the same to 1e-4 where sums are taken in another order."""
    return "float32"


@pytest.fixture
def engine(
    tiny_folder: Path, dtype: Literal["float32", "bfloat16"], monkeypatch: pytest.MonkeyPatch
) -> SeparationEngine:
    """As the registry would load it, from a models folder."""
    spec = EngineSpec(
        name="sam-audio-tiny", kind=Kind.SEPARATION, target="", lane=Lane.CPU, summary="", licence="",
        weights=Weights(tiny_folder.name, ("config.json", "checkpoint.pt")), spans=True,
    )  # fmt: skip
    monkeypatch.setitem(REGISTRY, spec.name, spec)

    class Tiny(engines.SamAudioEngine):
        registered = spec.name

    loaded = Tiny(Host("cpu", tiny_folder.parent, models_on_cpu=True, sam_audio_dtype=dtype))
    form = loaded.separator.form
    form.window, form.overlap = 75, 25
    return SeparationEngine(SamAudioSeparator(loaded.name, loaded.separator.version, form, reach=(1, 1)))


@pytest.mark.parametrize(("dtype", "differs"), [("float32", 1e-4), ("bfloat16", 0.02)])
def test_a_recording_goes_through_the_pipeline_and_resumes_to_the_same(
    engine: SeparationEngine, differs: float, tmp_path: Path
) -> None:
    samples = np.concatenate((sound(1, 44_100 * 11 + 137), sound(1, 44_100 * 11 + 137, seed=1)))
    soundfile.write(tmp_path / "in.wav", samples.T, 44_100, subtype="FLOAT")
    wanted = params({"description": "dog", "spans": [["+", 3.0, 9.0]]}, output={"format": "wav"})
    blocks: dict[int, dict[str, Path]] = {}

    def run(scratch: str, kept: Mapping[int, Mapping[str, Path]]) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
        work = Work(
            "j", wanted, media.sources(tmp_path / "in.wav"), tmp_path / scratch, Finished(kept), block_seconds=4.0
        )
        tracks, metrics = {}, {}
        for event in engine.run(work):
            match event:
                case BlockDone(index=index, files=files):
                    blocks[index] = dict(files)
                case Artifact(role="stem", name=name, path=path):
                    tracks[name] = soundfile.read(path, dtype="float32", always_2d=True)[0].T
                case Metrics(values=values):
                    metrics = dict(values)
        return tracks, metrics

    whole, metrics = run("first", {})
    # Every second of both channels once, the last frame as a whole.
    assert metrics["blocks"] == 3 and metrics["encoded_seconds"] == 2 * 11.04
    assert {name: track.shape for name, track in whole.items()} == {
        "dog": samples.shape, "residual": samples.shape,
    }  # fmt: skip
    assert all(np.isfinite(track).all() and track.std() > 1e-3 for track in whole.values())
    resumed, metrics = run("second", {0: blocks[0], 1: blocks[1]})
    # What block 2 samples, which begins a second before it.
    assert metrics["blocks_resumed"] == 2 and metrics["encoded_seconds"] == pytest.approx(2 * (11.04 - 7))
    for name, track in whole.items():
        assert relative(torch.from_numpy(resumed[name]), torch.from_numpy(track)) < differs


def test_equal_channels_cost_one(engine: SeparationEngine, tmp_path: Path) -> None:
    samples = sound(1, 9 * 24_000)
    figures, tracks = [], []
    for channels in (1, 2, 3):
        path = tmp_path / f"{channels}.wav"
        soundfile.write(path, np.repeat(samples, channels, axis=0).T, 24_000, subtype="FLOAT")
        work = Work("j", params("dog", output={"format": "wav"}), media.sources(path), tmp_path / path.stem)
        events = list(engine.run(dataclasses.replace(work, block_seconds=4.0)))
        figures.append(
            next(
                {name: event.values[name] for name in ("encoded_seconds", "windows_evaluated", "channels_computed")}
                for event in events
                if isinstance(event, Metrics)
            )
        )
        made = next(event.path for event in events if isinstance(event, Artifact) and event.name == "dog")
        tracks.append(soundfile.read(made, dtype="float32", always_2d=True)[0].T)
    assert figures[0] == figures[1] == figures[2]
    assert figures[0]["encoded_seconds"] == 9.0 and figures[0]["channels_computed"] == 2
    assert tracks[2].shape == (3, 9 * 24_000)
    assert all(np.array_equal(channel, tracks[0][0]) for track in tracks for channel in track)


def test_the_version_tells_checkpoints_and_windows_apart(
    engine: SeparationEngine, tiny_folder: Path, tmp_path: Path
) -> None:
    from tests.sam_audio import tiny_config
    from worker.separation.sam_audio.generated import write_checkpoint

    host = Host("cpu", tmp_path, models_on_cpu=True, sam_audio_dtype="float32")
    write_checkpoint(tmp_path / "other", tiny_config(), seed=4)
    versions = [
        engines.separator("x", tiny_folder, host).version,
        engines.separator("x", tiny_folder, host, torch.bfloat16).version,
        engines.separator("x", tiny_folder, host, window=250).version,
        engines.separator("x", tmp_path / "other", host).version,
    ]
    assert len(set(versions)) == 4
    assert engines.separator("x", tiny_folder, host).version == versions[0]
    short = dataclasses.replace(host, sam_audio_dtype="bfloat16")
    assert engines.separator("x", tiny_folder, short).version == versions[1]
    assert versions[0] in engine.version


def test_memory_and_batches_are_told_in_bytes_and_windows(engine: SeparationEngine, tiny_folder: Path) -> None:
    from worker.separation.sam_audio import config
    from worker.separation.sam_audio.loading import weight_bytes

    read = config.read(tiny_folder)
    assert weight_bytes(read, torch.bfloat16) < weight_bytes(read, torch.float32) < engine.memory_bytes()
    base = config.parse({})
    assert weight_bytes(base, torch.bfloat16) == pytest.approx(2.74e9, rel=0.05)
    assert window_bytes(base, 750) == 2 * window_bytes(base, 375) == pytest.approx(110e6, rel=0.05)


def test_an_engine_without_its_card_says_so(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match="device_missing") as refused:
        engines.SamAudioBase(Host("cpu", tmp_path))
    assert "NIGHTSHIFT_MODELS_ON_CPU" in refused.value.hint
    if not torch.cuda.is_available():
        with pytest.raises(NightshiftError, match="device_missing"):
            engines.SamAudioBase(Host("cuda:0", tmp_path))


@pytest.mark.parametrize(
    ("free", "says"),
    [(5.0, "would do for sam-audio-base."), (2.0, "would do for sam-audio-small."), (1.0, "No smaller")],
)
def test_a_card_that_is_too_small_is_told_what_would_fit(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, free: float, says: str
) -> None:
    """As on a card with so many GiB free, for a checkpoint of the size of large."""
    monkeypatch.setattr(devices, "memory", lambda _: devices.Memory(int(free * 2**30), 8 * 2**30))
    monkeypatch.setattr(engines.configuration, "read", lambda _: engines.SIZES["sam-audio-large"])
    with pytest.raises(NightshiftError) as small:
        engines.separator("sam-audio-large", tiny_folder, Host("cpu", tiny_folder, models_on_cpu=True), torch.bfloat16)
    error = small.value
    assert error.code == "gpu_oom" and f"{free:.1f} GiB free of 8.0 GiB" in error.detail
    assert "About 6.4 GiB free would do" in error.hint and says in error.hint
    assert error.extra["bytes_free"] < error.extra["bytes_needed"] < 8 * 2**30


def test_the_host_says_whose_network_computes_and_whether_it_is_compiled(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host("cpu", tiny_folder, models_on_cpu=True)
    compiled = engines.separator("x", tiny_folder, dataclasses.replace(host, compile_models=True))
    assert isinstance(compiled.model._velocity, Compiled) and compiled.version == (
        engines.separator("x", tiny_folder, host).version
    )
    monkeypatch.setitem(sys.modules, "sam_audio", None)
    with pytest.raises(NightshiftError, match="engine_not_ready"):
        engines.separator("x", tiny_folder, dataclasses.replace(host, sam_audio_backend="official"))


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_registry_names_the_engines(size: str, tmp_path: Path) -> None:
    spec = REGISTRY[f"sam-audio-{size}"]
    target = getattr(engines, spec.target.partition(":")[2])
    assert spec.target.startswith(f"{engines.__name__}:") and target.registered == spec.name
    with pytest.raises(NightshiftError, match="device_missing"):
        target(Host("cpu", tmp_path))


def test_work_on_a_cpu_stops_within_an_evaluation(tiny: SamAudio) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 10:
            raise InterruptedError

    block = BlockAudio(0, sound(1, 48_000), 48_000, 0, slice(0, 48_000))
    with pytest.raises(InterruptedError):
        list(alone(separator(tiny).separate(block, params(), check)))
    assert len(calls) == 10
    assert not any(module._forward_pre_hooks for module in tiny.network.modules())
