"""What is said in a recording, and when: block by block, as from one piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from common import engines
from common.errors import NightshiftError
from common.params import TranscriptionParams
from tests import media, whisper
from worker.engine import Artifact, BlockDone, Event, Host, Limits, Metrics, Note, Work
from worker.transcription import documents
from worker.transcription.engine import TranscriptionEngine
from worker.transcription.segments import MARGIN, Segment, settle, tidy
from worker.transcription.sound import RATE, Sound
from worker.transcription.whisper import Whisper

times = st.floats(-5, 60, allow_nan=False)
heard_segments = st.lists(st.builds(Segment, times, times, st.sampled_from(["a word", " two  words ", "", "  "])))


@given(heard_segments, st.floats(0, 20), st.floats(20, 50))
def test_tidy_segments_lie_apart_and_inside(heard: list[Segment], start: float, end: float) -> None:
    found = tidy(heard, start, end)
    for segment in found:
        assert start - 1e-3 <= segment.start <= segment.end <= end + 1e-3
        assert segment.text in ("a word", "two words")
    assert all(a.end <= b.start + 1e-3 for a, b in pairwise(found))


@given(heard_segments, st.floats(10, 50), st.booleans())
def test_the_next_block_begins_where_this_one_stands(heard: list[Segment], end: float, last: bool) -> None:
    segments = tidy(heard, 0.0, end)
    kept, then = settle(segments, 0.0, end, last=last)
    assert kept == segments[: len(kept)]
    assert end / 2 <= then <= end, "each block gains something"
    if last:
        assert (kept, then) == (segments, end)
    elif len(kept) < len(segments):
        # What is heard again was not kept, and begins the next block.
        assert then == segments[len(kept)].start >= max((s.end for s in kept), default=0.0)
        assert all(segment.end <= end - MARGIN for segment in kept)
    else:
        assert then == end


def test_documents() -> None:
    segments = [Segment(0.0, 1.5, "Is 3 < 4?"), Segment(1.6, 2.0, "Yes & no."), Segment(3723.0, 3724.25, "Later.")]
    assert documents.text(segments) == "Is 3 < 4? Yes & no.\n\nLater.\n"
    assert documents.text([]) == ""
    assert documents.webvtt(segments) == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.500\nIs 3 &lt; 4?\n\n"
        "2\n00:00:01.600 --> 00:00:02.000\nYes &amp; no.\n\n3\n01:02:03.000 --> 01:02:04.250\nLater.\n"
    )
    assert documents.document(segments, "en", 3725.0, {"generated": True})["text"] == "Is 3 < 4? Yes & no. Later."


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
def test_blocks_of_sound_are_parts_of_the_whole(tmp_path: Path, rate: int) -> None:
    path = media.make(tmp_path / "a.flac", rate, 2, 31.7, "sweep")
    with Sound(path, Limits(), lambda: None) as sound:
        whole, last = sound.block(0.0, 100.0)
    assert last and whole.size == round(31.7 * RATE)
    with Sound(path, Limits(), lambda: None) as sound:
        for start, seconds in ((0.0, 10.0), (7.25, 10.0), (17.25, 12.0), (29.0, 2.7)):
            samples, last = sound.block(start, seconds)
            first = round(start * RATE)
            assert np.array_equal(samples, whole[first : first + round(seconds * RATE)])
            assert last == (start == 29.0)
            assert sound._held.size <= 22 * RATE, "memory grows with the recording"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    whisper.write_weights(folder)
    return folder


@pytest.fixture
def engine(models: Path, monkeypatch: pytest.MonkeyPatch) -> TranscriptionEngine:
    monkeypatch.setitem(engines.REGISTRY, whisper.TINY.name, whisper.TINY)
    return whisper.Tiny(Host("cpu", models))


class Kept:
    """Blocks as a store keeps them."""

    def __init__(self, done: list[BlockDone]) -> None:
        self._files = {event.index: event.files for event in done}
        self.finished = frozenset(self._files)

    def fetch(self, index: int) -> Mapping[str, Path]:
        return self._files[index]


def work_on(path: Path, scratch: Path, **params: object) -> Work:
    scratch.mkdir(exist_ok=True)
    return Work("job_1", TranscriptionParams.model_validate(params), media.sources(path), scratch)


def outputs(events: list[Event]) -> dict[str, str]:
    return {event.name: event.path.read_text() for event in events if isinstance(event, Artifact)}


def test_a_recording_is_written_down(engine: TranscriptionEngine, tmp_path: Path) -> None:
    path = media.make(tmp_path / "talk.mp3", 44_100, 2, 33.0, "noise")
    events = list(engine.run(work_on(path, tmp_path / "w")))
    made = outputs(events)
    transcript = json.loads(made["transcript"])
    assert transcript["language"] == whisper.HEARD
    lines = [(start + 30 * window, end + 30 * window, text) for window in (0, 1) for start, end, text in whisper.LINES]
    expected = [(start, min(end, 33.0), text) for start, end, text in lines]
    assert [(s["start"], pytest.approx(s["end"], abs=0.06), s["text"]) for s in transcript["segments"]] == expected
    assert transcript["provenance"] == {
        "generated": True, "engine": "whisper-tiny", "version": engine.version, "job": "job_1"
    }  # fmt: skip
    assert made["text"] == "Good evening. It rains, she says.\n\nGood evening. It rains, she says.\n"
    assert made["captions"].startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:02.000\nGood evening.\n")
    (figures,) = [event.values for event in events if isinstance(event, Metrics)]
    assert (figures["segments"], figures["language"], figures["blocks"]) == (4, "de", 1)


def test_a_job_goes_on_after_any_block(engine: TranscriptionEngine, tmp_path: Path) -> None:
    path = media.make(tmp_path / "talk.flac", 16_000, 1, 100.0, "noise")
    work = replace(work_on(path, tmp_path / "w"), block_seconds=32.0)
    events = list(engine.run(work))
    done = [event for event in events if isinstance(event, BlockDone)]
    whole = outputs(events)
    starts = [segment["start"] for segment in json.loads(whole["transcript"])["segments"]]
    # The second window of each block says its lines within the margin, so the next block begins with them.
    assert starts == [0.0, 2.5, 30.0, 32.5, 60.0, 62.5, 90.0, 92.5]
    assert [event.index for event in done] == list(range(len(done))) and len(done) == 4
    for count in range(1, len(done) + 1):
        again = replace(work_on(path, tmp_path / f"again-{count}"), block_seconds=32.0, blocks=Kept(done[:count]))
        resumed = list(engine.run(again))
        assert outputs(resumed) == whole
        assert [e.index for e in resumed if isinstance(e, BlockDone)] == list(range(count, len(done)))
        (figures,) = [event.values for event in resumed if isinstance(event, Metrics)]
        assert figures["blocks_resumed"] == count


def test_silence_is_not_put_into_words(engine: TranscriptionEngine, tmp_path: Path) -> None:
    path = media.make(tmp_path / "still.wav", 48_000, 1, 10.0, "silence")
    events = list(engine.run(work_on(path, tmp_path / "w")))
    assert json.loads(outputs(events)["transcript"])["segments"] == []
    assert [event.code for event in events if isinstance(event, Note)] == ["no_speech"]


def test_the_language_may_be_said(engine: TranscriptionEngine, tmp_path: Path) -> None:
    path = media.make(tmp_path / "talk.flac", 16_000, 1, 6.0, "noise")
    made = outputs(list(engine.run(work_on(path, tmp_path / "w", language="fr", task="translate"))))
    assert json.loads(made["transcript"])["language"] == "fr"
    with pytest.raises(NightshiftError) as caught:
        list(engine.run(work_on(path, tmp_path / "w", language="tlh")))
    assert (caught.value.code, caught.value.pointer) == ("engine_unsupported", "/params/language")
    assert "de, en, fr" in caught.value.hint


def test_a_cancel_is_seen_inside_a_block(engine: TranscriptionEngine, tmp_path: Path) -> None:
    path = media.make(tmp_path / "talk.flac", 16_000, 1, 100.0, "noise")
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 200:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(engine.run(replace(work_on(path, tmp_path / "w"), check=check)))
    assert asked == 201


def test_a_folder_that_holds_something_else_is_refused(models: Path, tmp_path: Path) -> None:
    folder = whisper.write_weights(tmp_path)
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(NightshiftError) as caught:
        Whisper("whisper", folder, torch.device("cpu"))
    assert caught.value.code == "weights_invalid" and str(folder) in caught.value.detail
