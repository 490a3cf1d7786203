"""Which seconds of a recording models are to hear, and the words said in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.params import VoiceParams
from tests import media
from tests.voices import RATE, SENTENCES, Passage, passage
from worker.engine import Artifact, Event, Host, Note, Work
from worker.media.decode import AudioReader
from worker.media.speech import available
from worker.voices.activity import Activity, measure
from worker.voices.engine import ExcerptEngine
from worker.voices.excerpt import LONGEST, SHORTEST, between_pauses, between_utterances
from worker.voices.words import Words

spoken = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")


@pytest.fixture(scope="module")
def told() -> Passage:
    return passage()


@spoken
def test_phrases_are_where_the_sentences_are(told: Passage) -> None:
    phrases = measure(told.samples, RATE).phrases()
    for start, end, _ in told.spoken:
        inside = [phrase for phrase in phrases if phrase[0] < end and phrase[1] > start]
        assert abs(inside[0][0] - start) < 0.1 and abs(inside[-1][1] - end) < 0.1
    # Between two sentences nothing was taken for speech.
    for (_, end, _), (start, _, _) in zip(told.spoken, told.spoken[1:], strict=False):
        assert not any(phrase[0] < start - 0.1 and phrase[1] > end + 0.1 for phrase in phrases)


@spoken
def test_times_do_not_drift_at_a_rate_that_frames_do_not_divide(told: Passage) -> None:
    many = np.tile(told.samples, 7)
    activity = measure(many, RATE)
    assert activity.seconds == pytest.approx(many.size / RATE, abs=0.02)
    last = 6 * told.samples.size / RATE + told.spoken[-1][1]
    assert activity.phrases()[-1][1] == pytest.approx(last, abs=0.1)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros(10 * RATE, np.float32), "silent"),
        (np.full(RATE // 200, 0.5, np.float32), "empty"),
        (np.sin(np.arange(10 * RATE) * 0.1).astype(np.float32), "tone"),
        (np.random.default_rng(1).normal(0, 0.1, 10 * RATE).astype(np.float32), "noise"),
    ],
)
def test_what_is_no_speech_is_refused(samples: np.ndarray, says: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        measure(samples, RATE)
    assert caught.value.code == "no_speech" and says in caught.value.detail


@spoken
def test_a_clipped_and_a_noisy_part_are_passed_over(told: Passage) -> None:
    spoiled = told.samples.copy()
    half = spoiled.size // 2
    spoiled[:half] = np.clip(spoiled[:half] * 20, -1, 1)
    best = between_pauses(measure(spoiled, RATE))[0]
    assert best.clipped == 0 and best.start > half / RATE - 1
    spoiled = told.samples.copy()
    spoiled[half:] += np.random.default_rng(2).normal(0, 0.03, spoiled.size - half).astype(np.float32)
    best = between_pauses(measure(spoiled, RATE))[0]
    assert best.end < half / RATE + 1


levels = st.lists(st.tuples(st.floats(0.2, 4.0), st.floats(0.05, 2.0)), min_size=2, max_size=30)


@settings(max_examples=60, deadline=None)
@given(levels)
def test_every_excerpt_is_of_the_right_length_and_cuts_no_phrase(shape: list[tuple[float, float]]) -> None:
    """shape: seconds of speech and of the pause after it."""
    level, speech = [], []
    for talk, pause in shape:
        for seconds, db in ((talk, -20.0), (pause, -70.0)):
            level += [db] * max(1, round(seconds / 0.01))
            speech += [db > -50] * max(1, round(seconds / 0.01))
    activity = Activity(np.array(level), np.array(speech), np.zeros(len(level), np.int64), -70.0)
    for excerpt in between_pauses(activity):
        assert SHORTEST <= excerpt.seconds <= LONGEST
        assert 0 <= excerpt.start < excerpt.end <= activity.seconds + 1e-6
    phrases = activity.phrases()
    fits = any(SHORTEST <= b[1] - a[0] <= LONGEST - 0.3 for a in phrases for b in phrases)
    if fits:
        best = between_pauses(activity)[0]
        assert not any(start < cut < end for cut in (best.start, best.end) for start, end in phrases)


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
words = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=6)


@given(st.lists(words, min_size=1, max_size=8), st.data())
def test_words_heard_as_written_are_known_for_every_part(heard: list[list[str]], data: st.DataObject) -> None:
    texts = [" ".join(part) for part in heard]
    written = ". ".join(text.capitalize() for text in texts) + "."
    first = data.draw(st.integers(0, len(heard) - 1))
    last = data.draw(st.integers(first, len(heard) - 1))
    found = Words(texts, written).between(first, last)
    assert found is not None
    assert found.lower().replace(".", "").split() == [word for part in heard[first : last + 1] for word in part]
    assert found in written


def test_words_are_not_known_where_an_end_was_heard_otherwise() -> None:
    written = "We met in Leith on a Friday. The boat was late, as ever."
    heard = ["we met in leaf", "on a friday", "the boat was late as ever"]
    known = Words(heard, written)
    assert known.between(0, 0) is None
    assert known.between(1, 1) is None, "its first word follows one that was heard otherwise"
    assert known.between(2, 2) == "The boat was late, as ever."
    assert known.between(0, 2) == written, "inside, the caller knows better"
    # A word that was not written down lies at the end of the first part: which part has it is not known.
    assert Words(["we met in leith um", "on a friday"], written[:28]).between(1, 1) is None
    assert Words(["altogether different", "words"], written).between(0, 1) is None
    assert Words([""], written).between(0, 0) is None


def test_quotes_and_apostrophes_stay_with_their_words() -> None:
    written = 'She said: "I don’t know." “Nor do I,” said he.'
    known = Words(["she said i don't know", "nor do i said he"], written)
    assert known.between(0, 0) == 'She said: "I don’t know."'
    assert known.between(1, 1) == "Nor do I,” said he."


def ran(tmp_path: Path, samples: np.ndarray, written: str | None, heard: list[dict[str, object]] | None) -> list[Event]:
    paths = [media.write(tmp_path / "me.flac", samples[None], RATE)]
    if heard is not None:
        paths.append(tmp_path / "transcript.json")
        paths[1].write_text(json.dumps({"segments": heard}))
    work = Work("job", VoiceParams(voice="voi_1", transcript=written), media.sources(*paths), tmp_path)
    return list(ExcerptEngine(Host("cpu", tmp_path)).run(work))


def outputs(events: list[Event]) -> dict[str, Artifact]:
    return {event.name: event for event in events if isinstance(event, Artifact)}


def heard_in(told: Passage) -> list[dict[str, object]]:
    return [{"start": start, "end": end, "text": f" {text.lower()}"} for start, end, text in told.spoken]


@spoken
def test_a_short_recording_is_heard_whole(tmp_path: Path, told: Passage) -> None:
    short = passage(SENTENCES[:3])
    made = outputs(ran(tmp_path, short.samples, short.text, None))
    meta = made["excerpt"].meta
    assert (meta["transcript"], meta["exact"]) == (short.text, True)
    assert meta["start"] == pytest.approx(short.spoken[0][0], abs=0.3)
    assert meta["end"] == pytest.approx(short.spoken[-1][1], abs=0.3)
    with AudioReader(made["excerpt"].path, Work("j", VoiceParams(voice="v"), (), tmp_path).limits) as reader:
        samples = np.concatenate(list(reader), axis=1)
        assert (reader.info.sample_rate, reader.info.channels) == (RATE, 1)
    first = round(meta["start"] * RATE)
    assert np.abs(samples[0] - short.samples[first : first + samples.shape[1]]).max() < 2e-5


@spoken
def test_a_long_recording_with_times_gives_the_exact_words(tmp_path: Path, told: Passage) -> None:
    meta = outputs(ran(tmp_path, told.samples, told.text, heard_in(told)))["excerpt"].meta
    assert meta["exact"] and SHORTEST <= meta["duration"] <= LONGEST
    inside = [text for start, end, text in told.spoken if start >= meta["start"] - 0.2 and end <= meta["end"] + 0.2]
    assert meta["transcript"] == " ".join(inside)
    # It is cut in the pauses, not in a word.
    assert not any(
        start + 0.1 < cut < end - 0.1 for cut in (meta["start"], meta["end"]) for start, end, _ in told.spoken
    )


@spoken
def test_words_nobody_can_know_are_left_to_the_caller(tmp_path: Path, told: Passage) -> None:
    for name, written, heard, draft, remark in (
        ("untimed", told.text, None, None, "write down the words"),
        ("differing", "Quite another text altogether.", heard_in(told), "lower", "differs"),
        ("drafted", None, heard_in(told), "lower", None),
    ):
        folder = tmp_path / name
        folder.mkdir()
        events = ran(folder, told.samples, written, heard)
        meta = outputs(events)["excerpt"].meta
        assert meta["exact"] is False, name
        assert SHORTEST <= meta["duration"] <= LONGEST
        assert (meta["transcript"] is None) == (draft is None), name
        if draft:
            assert meta["transcript"] in told.text.lower(), name
        remarks = [event.message for event in events if isinstance(event, Note)]
        assert any(remark in message for message in remarks) if remark else not remarks, name


@spoken
@pytest.mark.parametrize(("seconds", "code"), [(3.0, "too_short"), (190.0, "too_long")])
def test_recordings_of_other_lengths_are_refused(tmp_path: Path, told: Passage, seconds: float, code: str) -> None:
    samples = np.resize(told.samples, round(seconds * RATE))
    with pytest.raises(NightshiftError) as caught:
        ran(tmp_path, samples, "Words.", None)
    assert caught.value.code == code and "voice" in caught.value.detail


def test_an_utterance_out_of_place_breaks_nothing() -> None:
    """A transcription's times may overlap, or lie behind the end."""
    level = np.where(np.arange(3000) % 300 < 250, -20.0, -70.0)
    activity = Activity(level, level > -50, np.zeros(3000, np.int64), -70.0)
    for utterances in ([(0.0, 6.0), (5.5, 12.0), (11.0, 40.0)], [(31.0, 40.0)], [(7.0, 2.0), (0.0, 0.0)]):
        for excerpt in between_utterances(activity, utterances):
            assert SHORTEST <= excerpt.seconds <= LONGEST
