"""The pipeline around a separator whose output is known: half of the mix."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.errors import NightshiftError
from common.params import SeparationParams
from tests import media
from worker.engine import Artifact, BlockDone, Blocks, Event, Metrics, NoBlocks, Note, Progress, Work
from worker.media.child import Child
from worker.media.resample import resampled_length
from worker.separation.fixed_rate import FixedRate
from worker.separation.pipeline import SeparationEngine
from worker.separation.separator import BlockAudio, Stems
from worker.separation.stream import Block, cut

LSB16 = 2.0**-15


class Kept(Blocks):
    """Blocks that an earlier attempt announced."""

    def __init__(self, events: list[Event]) -> None:
        self.files = {event.index: event.files for event in events if isinstance(event, BlockDone)}
        self.fetched: list[int] = []

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self.files)

    def fetch(self, index: int) -> Mapping[str, Path]:
        self.fetched.append(index)
        return self.files[index]


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, no thread and no decoder outlives it."""
    children: list[Child] = []
    opened = Child.__init__

    def noted(self: Child, *args: Any) -> None:
        opened(self, *args)
        children.append(self)

    monkeypatch.setattr(Child, "__init__", noted)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert all(child._process.poll() is not None for child in children)


def recording(path: Path, samples: int, rate: int = 8000, channels: int = 1, subtype: str = "PCM_16") -> Path:
    noise = np.random.default_rng(samples).uniform(-0.9, 0.9, (samples, channels)).astype(np.float32)
    soundfile.write(path, noise, rate, subtype=subtype)
    return path


def params(**given: Any) -> SeparationParams:
    return SeparationParams.model_validate({"prompts": ["speech"], **given})


def work(source: Path, scratch: Path, **given: Any) -> Work:
    return Work("job", given.pop("params", params()), media.sources(source), scratch, **{"block_seconds": 1.0, **given})


def engine(**given: Any) -> SeparationEngine:
    return SeparationEngine(FixedRate(context_seconds=(0.3, 0.2), **given))


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def stems(events: list[Event]) -> dict[str, Artifact]:
    return {artifact.name: artifact for artifact in of(Artifact, events) if artifact.role == "stem"}


def samples(artifact: Artifact) -> np.ndarray:
    return soundfile.read(artifact.path, dtype="float64", always_2d=True)[0]


@pytest.mark.parametrize(
    ("rate", "channels", "length"),
    [
        (8000, 1, 1),
        (8000, 1, 8000),
        (8000, 2, 8801),
        (11025, 2, 2 * 11025 + 1102),
        (44100, 2, 44100 + 4411),
        (48000, 6, 100_001),
        (96000, 1, 3 * 96000 - 1),
    ],
)
def test_stems_have_exactly_the_samples_of_the_file(tmp_path: Path, rate: int, channels: int, length: int) -> None:
    source = recording(tmp_path / "in.wav", length, rate, channels, "FLOAT")
    events = list(engine().run(work(source, tmp_path / "s", params=params(output={"format": "wav"}))))
    mix = samples(Artifact("", source, "", ""))
    made = stems(events)
    assert np.array_equal(samples(made["speech"]), mix / 2)
    assert np.array_equal(samples(made["speech"]) + samples(made["residual"]), mix)
    for artifact in made.values():
        assert artifact.meta["samples"] == length
        assert (artifact.meta["sample_rate"], artifact.meta["channels"]) == (rate, channels)
        assert artifact.meta["duration"] == pytest.approx(length / rate, abs=1e-6)
        assert artifact.meta["changes"] == []
        assert soundfile.info(artifact.path).subtype == "FLOAT"


def test_integer_files_add_up_to_the_mix_within_one_step(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.flac", 30_000, channels=2)
    made = stems(list(engine(gain=0.3).run(work(source, tmp_path / "s"))))
    mix = samples(Artifact("", source, "", ""))
    assert soundfile.info(made["speech"].path).subtype == "PCM_16"
    assert np.abs(samples(made["speech"]) + samples(made["residual"]) - mix).max() <= LSB16
    assert np.abs(samples(made["speech"]) - 0.3 * mix).max() <= LSB16


class Listening(FixedRate):
    """Remembers what it was given."""

    def separate(self, block: Any, params: Any, check: Any) -> Generator[float, None, Any]:
        self.heard = [*getattr(self, "heard", []), (block, block.samples.copy())]
        return (yield from super().separate(block, params, check))


def test_a_separator_hears_the_context_and_its_place_in_the_file(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 20_000, channels=2)
    separator = Listening(context_seconds=(0.3, 0.2), overlap_seconds=0.1)
    list(SeparationEngine(separator).run(work(source, tmp_path / "s")))
    mix = samples(Artifact("", source, "", "")).T
    assert [(b.index, b.start, b.keep) for b, _ in separator.heard] == [
        (0, 0, slice(0, 8800)),
        (1, 5600, slice(2400, 11200)),
        (2, 13600, slice(2400, 6400)),
    ]
    for block, heard in separator.heard:
        stop = min(20_000, block.start + block.keep.stop + 1600)
        assert np.array_equal(heard, mix[:, block.start : stop].astype(np.float32))
        assert block.rate == 8000


def test_the_next_block_is_decoded_while_one_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = threading.Event()

    def noted(*args: Any) -> Iterator[Block]:
        for block in cut(*args):
            if block.window.index == 1:
                decoded.set()
            yield block

    class Waiting(FixedRate):
        def separate(
            self, block: BlockAudio, params: SeparationParams, check: Callable[[], None]
        ) -> Generator[float, None, Stems]:
            assert decoded.wait(20), "block 1 is not decoded before block 0 is computed"
            return (yield from super().separate(block, params, check))

    monkeypatch.setattr("worker.separation.pipeline.cut", noted)
    source = recording(tmp_path / "in.wav", 20_000)
    events = list(SeparationEngine(Waiting()).run(work(source, tmp_path / "s")))
    assert len(of(BlockDone, events)) == 3


def test_events_tell_the_blocks_in_order_and_progress_never_falls(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 44_000)
    events = list(engine(cost=0.4, step_seconds=0.02).run(work(source, tmp_path / "s")))
    blocks = of(BlockDone, events)
    assert [(block.index, block.total) for block in blocks] == [(i, 6) for i in range(6)]
    assert all(path.is_file() for block in blocks for path in block.files.values())
    progress = of(Progress, events)
    assert all(event.unit == "s" and event.total == 5.5 for event in progress)
    separate = [event.done for event in progress if event.phase == "separate"]
    assert len(separate) >= 4
    assert separate == sorted(separate)
    assert progress[-1].done == 5.5
    (metrics,) = of(Metrics, events)
    assert metrics.values["audio_seconds"] == 5.5
    assert metrics.values["blocks"] == 6
    assert metrics.values["blocks_resumed"] == 0
    assert 5.5 * 0.4 * 0.9 < metrics.values["compute_seconds"] < metrics.values["wall_seconds"]


@pytest.mark.parametrize("finished", [{0}, {0, 1, 2}, {1, 3}, {0, 1, 2, 3, 4}])
def test_a_resumed_job_gives_the_same_bytes(tmp_path: Path, finished: set[int]) -> None:
    source = recording(tmp_path / "in.wav", 36_000, channels=2)
    whole = list(engine(gain=0.7).run(work(source, tmp_path / "a")))
    kept = Kept([event for event in whole if isinstance(event, BlockDone) and event.index in finished])
    separator = FixedRate(context_seconds=(0.3, 0.2), gain=0.7)
    again = list(SeparationEngine(separator).run(work(source, tmp_path / "b", blocks=kept)))
    assert separator.computed == [i for i in range(5) if i not in finished]
    assert kept.fetched == sorted(finished)
    assert [event.index for event in of(BlockDone, again)] == separator.computed
    assert of(Metrics, again)[0].values["blocks_resumed"] == len(finished)
    first, second = of(Artifact, whole), of(Artifact, again)
    assert [a.name for a in first] == ["speech", "residual", "waveform.json", "waveform.png"]
    for one, other in zip(first, second, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.meta == other.meta


@pytest.mark.parametrize("after", range(0, 12, 2))
def test_closing_at_any_event_leaves_finished_blocks_and_nothing_half_written(tmp_path: Path, after: int) -> None:
    source = recording(tmp_path / "in.wav", 36_000)
    run = engine(cost=0.05).run(work(source, tmp_path / "a"))
    seen = [next(run) for _ in range(after)]
    run.close()
    assert not list((tmp_path / "a").rglob("*.part"))
    done = Kept(seen)
    again = list(engine().run(work(source, tmp_path / "b", blocks=done)))
    assert [event.index for event in of(BlockDone, again)] == [i for i in range(5) if i not in done.files]
    assert stems(again)["speech"].meta["samples"] == 36_000


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 2, 5, 12])
def test_a_cancel_stops_within_a_step(tmp_path: Path, calls: int) -> None:
    source = recording(tmp_path / "in.wav", 36_000)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked >= calls:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(engine(cost=1.0, step_seconds=0.01).run(work(source, tmp_path / "a", check=check)))
    assert asked == calls, "work went on after a check had raised"
    assert not list((tmp_path / "a").rglob("*.part"))


def test_a_cancel_is_seen_while_stems_are_being_assembled(tmp_path: Path) -> None:
    """Every block is there; only a slow storage holds the job up."""
    source = recording(tmp_path / "in.wav", 36_000)
    kept = Kept(list(engine().run(work(source, tmp_path / "a"))))
    asked = threading.Event()

    class Slow(Kept):
        def fetch(self, index: int) -> Mapping[str, Path]:
            asked.wait(20)
            time.sleep(0.5)  # in which the job ends and drops what has not begun
            return super().fetch(index)

    slow = Slow([])
    slow.files = kept.files
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 7:
            asked.set()
            raise Cancelled

    with pytest.raises(Cancelled):
        list(engine().run(work(source, tmp_path / "b", blocks=slow, check=check)))
    assert slow.fetched in ([], [0])


def test_only_what_was_asked_for_is_made(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 9000)
    prompts = ["speech", {"description": "voice", "name": "him"}]
    for outputs, names in (
        (["target"], ["speech", "him"]),
        (["residual"], ["residual-speech", "residual-him"]),
        (["target", "residual"], ["speech", "residual-speech", "him", "residual-him"]),
    ):
        given = params(prompts=prompts, outputs=outputs)
        events = list(engine().run(work(source, tmp_path / outputs[0] / str(len(outputs)), params=given)))
        assert list(stems(events)) == names
        assert all(list(block.files) == names for block in of(BlockDone, events))


def test_equal_channels_are_computed_once(tmp_path: Path) -> None:
    """Second 0: both channels equal; second 1: not; second 2: equal again. Contexts reach over the borders."""
    left = np.random.default_rng(0).uniform(-0.5, 0.5, 24_000)
    right = left.copy()
    right[12_000] += 0.01
    soundfile.write(tmp_path / "in.wav", np.stack([left, right], axis=1), 8000)
    separator = Listening(context_seconds=(0.3, 0.2))
    events = list(SeparationEngine(separator).run(work(tmp_path / "in.wav", tmp_path / "s")))
    assert [heard.shape[0] for _, heard in separator.heard] == [1, 2, 1]
    assert of(Metrics, events)[0].values["channels_computed"] == 4
    made = samples(stems(events)["speech"])
    assert made.shape == (24_000, 2)
    assert np.abs(made - samples(Artifact("", tmp_path / "in.wav", "", "")) / 2).max() <= LSB16


def test_mono_averages_the_channels(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 9000, channels=3)
    made = stems(list(engine().run(work(source, tmp_path / "s", params=params(channels="mono")))))
    mix = samples(Artifact("", source, "", "")).mean(axis=1, keepdims=True)
    assert made["speech"].meta["channels"] == 1
    assert np.abs(samples(made["speech"]) - mix / 2).max() <= LSB16


def test_a_truncated_file_is_processed_and_reported(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 40_000)
    source.write_bytes(source.read_bytes()[: 44 + 2 * 21_000])
    events = list(engine().run(work(source, tmp_path / "s")))
    (note,) = of(Note, events)
    assert (note.level, note.code) == ("warning", "shortfall")
    assert "5.00 s" in note.message
    assert stems(events)["speech"].meta["samples"] == 21_000
    assert of(BlockDone, events)[-1].total == 3
    assert of(Progress, events)[-1].total == 21_000 / 8000


def test_a_change_of_rate_is_told_and_the_length_is_kept(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 100_001, 44_100, 2)
    events = list(engine().run(work(source, tmp_path / "s", params=params(output={"format": "opus"}))))
    (note,) = of(Note, events)
    assert note.code == "output_changed"
    assert "48000" in note.message
    for artifact in stems(events).values():
        assert artifact.content_type == "audio/ogg"
        assert artifact.meta["sample_rate"] == 48_000
        assert artifact.meta["samples"] == resampled_length(100_001, 44_100, 48_000)
        assert soundfile.info(artifact.path).frames == artifact.meta["samples"]
        assert artifact.meta["changes"] == [note.message]


def test_clipping_is_counted_whoever_computed_the_block(tmp_path: Path) -> None:
    loud = np.zeros(20_000, np.float32)
    loud[[5, 9000, 9001, 19_999]] = [3.0, -3.0, 2.5, 1.9]
    soundfile.write(tmp_path / "in.wav", loud, 8000, subtype="FLOAT")
    events = list(engine().run(work(tmp_path / "in.wav", tmp_path / "a")))
    assert stems(events)["speech"].meta["clipped"] == 3
    again = list(engine().run(work(tmp_path / "in.wav", tmp_path / "b", blocks=Kept(events))))
    assert stems(again)["speech"].meta == stems(events)["speech"].meta
    floating = params(output={"format": "wav"})
    kept = stems(list(engine().run(work(tmp_path / "in.wav", tmp_path / "c", params=floating))))["speech"]
    assert kept.meta["clipped"] == 0
    assert samples(kept)[5, 0] == 1.5


def test_waveforms_show_the_mix_and_each_stem(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 20_000, channels=2)
    made = {a.name: a for a in of(Artifact, list(engine().run(work(source, tmp_path / "s"))))}
    document = json.loads(made["waveform.json"].path.read_text())
    tracks = document["tracks"]
    assert [(track["name"], track["role"]) for track in tracks] == [
        ("mix", "mix"),
        ("speech", "stem"),
        ("residual", "stem"),
    ]
    assert document["duration"] == 2.5
    assert all(track["samples"] == 20_000 and track["channels"] == 2 for track in tracks)
    mix, speech = (np.array(track["data"]) for track in tracks[:2])
    assert np.abs(mix / 2 - speech).max() <= 1
    assert made["waveform.png"].role == "waveform"
    with Image.open(made["waveform.png"].path) as image:
        assert image.format == "PNG"


class Mistaken(FixedRate):
    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake

    def separate(self, block: Any, params: Any, check: Any) -> Generator[float, None, Any]:
        made = dict((yield from super().separate(block, params, check)))
        if self.mistake == "short":
            made["speech"] = made["speech"][:, :-1]
        elif self.mistake == "double":
            made["speech"] = made["speech"].astype(np.float64)
        elif self.mistake == "nan":
            made["speech"][0, 7] = np.nan
        return made


@pytest.mark.parametrize("mistake", ["short", "double", "nan"])
def test_a_separators_mistake_never_reaches_a_file(tmp_path: Path, mistake: str) -> None:
    source = recording(tmp_path / "in.wav", 9000)
    with pytest.raises(NightshiftError) as caught:
        list(SeparationEngine(Mistaken(mistake)).run(work(source, tmp_path / "s")))
    assert caught.value.code == "engine_failed"
    assert not [path for path in (tmp_path / "s").rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["other length", "no stem", "not audio", "gone"])
def test_an_earlier_block_that_is_damaged_fails_the_job(tmp_path: Path, damage: str) -> None:
    source = recording(tmp_path / "in.wav", 20_000)
    kept = Kept(list(engine().run(work(source, tmp_path / "a"))))
    path = kept.files[1]["speech"]
    if damage == "other length":
        recording(path, 100)
    elif damage == "no stem":
        kept.files[1] = {"residual": path}
    elif damage == "not audio":
        path.write_bytes(b"nothing")
    else:
        path.unlink()
    with pytest.raises(NightshiftError) as caught:
        list(engine().run(work(source, tmp_path / "b", blocks=kept)))
    assert caught.value.code == "storage_failed"
    assert "block 1" in caught.value.detail
    assert not list((tmp_path / "b").rglob("*.part"))


def test_a_block_that_cannot_be_saved_fails_the_job(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 36_000)
    run = engine(cost=0.1).run(work(source, tmp_path / "a"))
    next(run)
    (tmp_path / "a" / "blocks").rename(tmp_path / "a" / "elsewhere")
    with pytest.raises(OSError):
        list(run)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.zeros(0), 8000)
    with pytest.raises(NightshiftError) as caught:
        list(engine().run(work(tmp_path / "in.wav", tmp_path / "s")))
    assert caught.value.code == "no_samples"


def test_an_output_that_cannot_hold_the_channels_is_refused_before_any_work(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.wav", 9000, channels=6)
    separator = FixedRate()
    with pytest.raises(NightshiftError) as caught:
        list(SeparationEngine(separator).run(work(source, tmp_path / "s", params=params(output={"format": "mp3"}))))
    assert caught.value.code == "unsupported_output"
    assert separator.computed == []


def test_the_version_names_separator_and_pipeline() -> None:
    assert engine().version == "1+blocks-1"
    assert NoBlocks().finished == frozenset()
