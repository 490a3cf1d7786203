"""The pipeline around a synthesizer: whole files, resumed to the same sample, and told as they are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from common.errors import NightshiftError
from tests import media, speech
from tests.speech import RATE, Kept, Tones
from worker.engine import BlockDone, Limits, Metrics, Note, Progress, Voice
from worker.media.loudness import Loudness
from worker.tts.pipeline import SpeechEngine
from worker.tts.synthesizer import Take
from worker.tts.takes import Takes, trimmed

TEXT = "The first sentence is this one. " * 7 + "\n\nA paragraph. " + "And something more, which is longer. " * 3
SCRIPT = [
    {"speaker": "Anna", "text": "Good evening, and welcome to the show tonight. How are you?"},
    {"speaker": "Bob", "text": "Very well, thank you. It is a pleasure to be here with all of you."},
    {"speaker": "Anna", "text": "Then let us begin."},
    {"speaker": "Bob", "text": "Yes."},
]


def run(folder: Path, synthesizer: Tones, blocks: Kept | None = None, **given: Any) -> list[Any]:
    more = {"blocks": blocks} if blocks else {}
    return list(SpeechEngine(synthesizer).run(speech.work(folder, speech.params(**given), **more)))


def test_the_speech_is_its_pieces_and_their_pauses(tmp_path: Path) -> None:
    events = run(
        tmp_path, Tones(), text=TEXT, sample_rate=RATE, loudness_lufs=None, output={"format": "wav"},
        pauses={"sentence": 0.2, "paragraph": 0.7},
    )  # fmt: skip
    samples, rate = speech.heard(events)
    timing = json.loads(speech.artifacts(events)["timing.json"].path.read_text())
    (turn,) = timing["turns"]
    pieces = turn["pieces"]
    assert rate == RATE and samples.size / rate == pytest.approx(timing["duration"], abs=1e-3)
    assert [round(b["start"] - a["end"], 3) for a, b in itertools.pairwise(pieces)].count(0.7) == 1
    for before, after in itertools.pairwise(pieces):
        pause = samples[round(before["end"] * rate) + 20 : round(after["start"] * rate) - 20]
        assert pause.size > 0.15 * rate and not pause.any()
    for piece in pieces:
        spoken = samples[round(piece["start"] * rate) : round(piece["end"] * rate)]
        assert spoken.size == pytest.approx(len(piece["text"]) * rate / 100, abs=20)
        assert np.abs(spoken).max() == pytest.approx(0.3, abs=0.01)
    assert " ".join(turn["text"].split()) == " ".join(TEXT.split())


@pytest.mark.parametrize("finished", [{0}, {1, 4}, set(range(99))])
@pytest.mark.parametrize(("together", "context_turns", "anchors"), [(1, 0, False), (3, 0, True), (3, 2, True)])
def test_a_resumed_job_gives_the_same_samples(
    tmp_path: Path, finished: set[int], together: int, context_turns: int, anchors: bool
) -> None:
    given: dict[str, Any] = {"script": SCRIPT, "output": {"format": "wav"}, "seed": 5}
    whole = run(tmp_path / "a", Tones(together, context_turns, anchors), **given)
    kept = Kept(whole, finished)
    assert kept.files
    again = run(tmp_path / "b", Tones(together, context_turns, anchors), kept, **given)
    np.testing.assert_array_equal(speech.heard(again)[0], speech.heard(whole)[0])
    for name in ("captions.vtt", "timing.json", "waveform.json"):
        assert speech.artifacts(again)[name].path.read_bytes() == speech.artifacts(whole)[name].path.read_bytes()
    announced = {event.index for event in speech.of(BlockDone, again)}
    assert announced == {event.index for event in speech.of(BlockDone, whole)} - set(kept.files)
    (metrics,) = speech.of(Metrics, again)
    assert metrics.values["blocks_resumed"] == len(kept.files)


def test_another_seed_gives_other_takes_and_the_same_one_the_same(tmp_path: Path) -> None:
    first, same, other = (
        speech.heard(run(tmp_path / str(i), Tones(), text=TEXT, seed=seed, output={"format": "wav"}))[0]
        for i, seed in enumerate((1, 1, 2))
    )
    np.testing.assert_array_equal(first, same)
    assert first.shape == other.shape and not np.array_equal(first, other)


def test_who_hears_what(tmp_path: Path) -> None:
    anchored = Tones(together=2, anchors=True)
    run(tmp_path / "a", anchored, script=SCRIPT)
    assert next(len(group) for group in anchored.groups) == 2, "the first words of both, together"
    for line in [line for group in anchored.groups[1:] for line in group]:
        assert line.reference is not None and line.reference.speaker == line.speaker
        assert line.reference.text in SCRIPT[line.speaker.number]["text"]
    assert all(line.reference is None for line in anchored.groups[0])

    hearing = Tones(together=8, context_turns=1)
    run(tmp_path / "b", hearing, script=SCRIPT)
    lines = [line for group in hearing.groups for line in group]
    assert all(len(group) == 1 for group in hearing.groups)
    said = {line.text: [other.text for other in line.context] for line in lines}
    assert said["Then let us begin."] == ["Very well, thank you.", "It is a pleasure to be here with all of", "you."]
    assert said["Yes."] == ["Then let us begin."]

    asked = Tones(context_turns=4)
    run(tmp_path / "c", asked, script=SCRIPT, context_turns=0)
    assert all(not line.context for group in asked.groups for line in group)
    assert max(len(group) for group in asked.groups) == 3


def test_a_recorded_voice_is_heard_at_the_synthesizer_s_rate_with_its_words(tmp_path: Path) -> None:
    recording = media.write(tmp_path / "voice.flac", media.signal(48_000, 2, 6.0), 48_000)
    voice = Voice("voi_1", "Mine", recording, "My exact words.")
    synthesizer = Tones(anchors=True)
    made = speech.params(text=TEXT, voice="voi_1")
    events = list(
        SpeechEngine(synthesizer).run(speech.work(tmp_path / "s", made, voices={"voi_1": voice}))
    )  # fmt: skip
    for line in [line for group in synthesizer.groups for line in group]:
        assert line.reference is not None
        assert (line.reference.text, line.reference.samples.shape) == ("My exact words.", (6 * RATE,))
    meta = speech.artifacts(events)["speech"].meta
    assert meta["cloned"] is True and meta["provenance"]["voices"] == ["voi_1"]


@pytest.mark.parametrize(
    ("format", "rate", "file_rate"),
    [("wav", 24_000, 24_000), ("flac", 48_000, 48_000), ("mp3", 24_000, 24_000), ("mp3", 44_100, 44_100),
     ("opus", 24_000, 24_000), ("opus", 44_100, 48_000), ("wav", 8_000, 8_000)],
)  # fmt: skip
def test_every_format_has_the_loudness_the_length_and_the_origin(
    tmp_path: Path, format: str, rate: int, file_rate: int
) -> None:
    events = run(tmp_path, Tones(), text=TEXT, sample_rate=rate, output={"format": format})
    artifact = speech.artifacts(events)["speech"]
    samples, real = soundfile.read(artifact.path, dtype="float32", always_2d=True)
    assert (real, samples.shape[1]) == (file_rate, 1)
    assert artifact.meta["sample_rate"] == file_rate and artifact.meta["samples"] == samples.shape[0]
    seconds = json.loads(speech.artifacts(events)["timing.json"].path.read_text())["duration"]
    assert samples.shape[0] / real == pytest.approx(seconds, abs=0.002)
    measured = Loudness(real, 1)
    measured.add(samples.T)
    assert measured.integrated_lufs == pytest.approx(-19.0, abs=0.5)
    assert artifact.meta["loudness_lufs"] == pytest.approx(-19.0, abs=0.3)
    assert np.abs(samples).max() <= 0.95
    with av.open(str(artifact.path)) as container:
        tags = {**container.metadata, **container.streams[0].metadata}
    comment = {name.lower(): value for name, value in tags.items()}["comment"]
    assert comment == "Generated speech: engine tones, voice tone:0, job job_1"
    assert artifact.meta["provenance"]["generated"] is True and artifact.meta["cloned"] is False
    changes = [note.message for note in speech.of(Note, events) if note.code == "output_changed"]
    assert bool(changes) == (file_rate != rate)


def test_peaks_are_held_and_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    class Clicks(Tones):
        def tone(self, line: Any, together: int) -> np.ndarray:
            samples = super().tone(line, together) / 30
            samples[:: RATE // 20] = 0.9
            return samples

    events = run(tmp_path, Clicks(), text=TEXT, sample_rate=RATE, loudness_lufs=-9.0, output={"format": "wav"})
    samples, _ = speech.heard(events)
    assert np.abs(samples).max() <= 10 ** (-1 / 20) + 1e-4
    (note,) = [note for note in speech.of(Note, events) if note.code == "loudness_missed"]
    reached = speech.artifacts(events)["speech"].meta["loudness_lufs"]
    assert f"{reached:g} LUFS instead of -9" in note.message and reached < -9.5
    assert speech.artifacts(events)["speech"].meta["clipped"] == 0
    (metrics,) = speech.of(Metrics, events)
    assert 6 < metrics.values["limited_db"] <= 9.1


def test_progress_never_falls_and_ends_complete(tmp_path: Path) -> None:
    events = run(tmp_path, Tones(together=2), text=TEXT)
    told = speech.of(Progress, events)
    assert {event.unit for event in told} == {"characters"}
    for phase in ("speak", "assemble"):
        done = [event.done for event in told if event.phase == phase]
        assert done == sorted(done)
    assert told[-1].done == told[-1].total and told[-1].block == told[-1].blocks


def test_flaws_and_silence_are_told(tmp_path: Path) -> None:
    synthesizer = Tones()
    synthesizer.flaws = {"The first sentence is this one.": ("cut_short",)}
    synthesizer.silent = frozenset({"A paragraph."})
    kept = run(tmp_path / "a", synthesizer, text=TEXT)
    resumed = run(tmp_path / "b", synthesizer, Kept(kept), text=TEXT)
    for events in (kept, resumed):
        warnings = {note.code: note.message for note in speech.of(Note, events) if note.level == "warning"}
        assert "“The first sentence is this one.”, and 6 other pieces" in warnings["speech_cut_short"]
        assert "“A paragraph.”" in warnings["speech_silent"], "also where an earlier attempt spoke it"


def test_a_voice_without_any_sound_fails_with_what_to_do(tmp_path: Path) -> None:
    synthesizer = Tones()
    synthesizer.silent = frozenset({"A paragraph."})
    with pytest.raises(NightshiftError, match="no sound for any") as failed:
        run(tmp_path, synthesizer, text="A paragraph.")
    assert failed.value.code == "engine_failed" and "language" in failed.value.hint


def test_the_limit_of_length_holds_while_it_speaks(tmp_path: Path) -> None:
    synthesizer = Tones(together=1)
    made = speech.work(tmp_path, speech.params(text=TEXT), limits=Limits(duration_seconds=1.0))
    with pytest.raises(NightshiftError) as refused:
        list(SpeechEngine(synthesizer).run(made))
    assert refused.value.code == "too_long" and len(synthesizer.groups) < 5


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 100), np.float32),
        np.zeros(100),
        np.array([0.1, np.nan], np.float32),
        np.array([np.inf], np.float32),
    ],
)
def test_what_is_no_speech_is_the_engine_s_failure(tmp_path: Path, bad: np.ndarray) -> None:
    class Broken(Tones):
        def tone(self, line: Any, together: int) -> np.ndarray:
            return bad

    with pytest.raises(NightshiftError) as failed:
        run(tmp_path, Broken(), text="Hello.")
    assert failed.value.code == "engine_failed"


def test_a_cancel_is_raised_from_within(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Stop

    synthesizer = Tones(together=1)
    with pytest.raises(Stop):
        list(SpeechEngine(synthesizer).run(speech.work(tmp_path, speech.params(text=TEXT), check=check)))
    assert len(synthesizer.groups) <= 3


def test_an_output_that_cannot_be_is_refused_before_anything_is_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NightshiftError("unsupported_output")

    monkeypatch.setattr("worker.tts.pipeline.plan_of", refuse)
    synthesizer = Tones()
    with pytest.raises(NightshiftError):
        run(tmp_path, synthesizer, text="Hello.")
    assert not synthesizer.groups


@pytest.mark.parametrize("harm", ["missing", "short", "other rate", "no json", "strange flaw"])
def test_a_stored_piece_that_is_not_what_it_was_is_refused(tmp_path: Path, harm: str) -> None:
    takes = Takes(tmp_path, RATE)
    tone = (0.5 * np.sin(np.arange(8000) / 5)).astype(np.float32)
    files = takes.write(0, Take(tone, ("ran_on",), 3))
    kept = takes.kept(0, files)
    assert (kept.flaws, kept.tries) == (("ran_on",), 3)
    np.testing.assert_allclose(takes.read(0, kept), trimmed(tone, RATE), atol=2**-22)
    if harm == "missing":
        files["speech"].unlink()
    elif harm == "short":
        soundfile.write(files["speech"], tone[:100], RATE)
    elif harm == "other rate":
        soundfile.write(files["speech"], takes.read(0, kept), 8000)
    elif harm == "no json":
        files["take"].write_text("{")
    else:
        files["take"].write_text(files["take"].read_text().replace("ran_on", "sang"))
    with pytest.raises(NightshiftError) as broken:
        takes.kept(0, files)
    assert broken.value.code == "storage_failed"


def test_a_take_is_trimmed_to_what_is_heard() -> None:
    tone = np.concatenate([np.zeros(RATE), 0.5 * np.ones(RATE), np.full(RATE, 1e-5)]).astype(np.float32)
    cut = trimmed(tone, RATE)
    assert cut.size == RATE + 2 * round(0.025 * RATE)
    assert cut[0] == 0 and abs(float(cut[-1])) < 1e-5
    assert not trimmed(np.full(RATE, 1e-5, np.float32), RATE).size
    assert trimmed(np.array([0.5], np.float32), RATE).size == 1


def test_the_picture_and_the_peaks_show_the_speech(tmp_path: Path) -> None:
    events = run(tmp_path, Tones(), text=TEXT)
    found = speech.artifacts(events)
    assert Image.open(found["waveform.png"].path).size[0] == 1600
    document = json.loads(found["waveform.json"].path.read_text())
    (track,) = document["tracks"]
    assert track["samples"] == found["speech"].meta["samples"] and max(track["data"]) > 10
