"""Scripts: who says what, in which groups, and how their times are told."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.params import TtsParams
from worker.tts.script import Piece, Script, Speaker, groups, write
from worker.tts.timing import Spoken, document, webvtt

SPEAKERS = (Speaker(0, "Anna", "espeak:en-us", False), Speaker(1, "Bob <b>", "voi_1", True))


def script(**given: object) -> Script:
    return write(TtsParams.model_validate(given), SPEAKERS, 40, ["en", "en"])


def test_pauses_stand_between_sentences_paragraphs_and_turns() -> None:
    made = script(
        script=[
            {"speaker": "Anna", "text": "This is the first sentence of mine. This is the second one.\n\nA paragraph."},
            {"speaker": "Bob", "text": "Yes."},
        ],
        pauses={"sentence": 0.1, "paragraph": 0.5, "turn": 1.0},
    )
    assert [(piece.turn, piece.speaker, piece.pause) for piece in made.pieces] == [
        (0, 0, 0.0), (0, 0, 0.1), (0, 0, 0.5), (1, 1, 1.0),
    ]  # fmt: skip
    assert made.pieces[3].text == "Yes."


def test_nothing_but_invisible_letters_is_refused() -> None:
    # A private letter counts as one to Python's eye, not after cleaning.
    with pytest.raises(NightshiftError) as refused:
        write(TtsParams.model_construct(text="…\ue000…", script=None), SPEAKERS[:1], 40, ["en"])
    assert (refused.value.code, refused.value.pointer) == ("invalid_request", "/params/text")


def made_of(speakers: list[int]) -> Script:
    return Script(SPEAKERS, tuple(Piece(i, i, speaker, "x", 0.0) for i, speaker in enumerate(speakers)))


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 16), st.sets(st.integers(0, 1)), st.booleans()
)
def test_every_piece_is_in_one_group_after_those_it_hears(
    speakers: list[int], together: int, anchored: set[int], in_turn: bool
) -> None:
    found = list(groups(made_of(speakers), together, frozenset(anchored), in_turn=in_turn))
    order = [index for group in found for index in group.pieces]
    assert sorted(order) == list(range(len(speakers)))
    assert all(len(group.pieces) <= (1 if in_turn else together) for group in found)
    if in_turn:
        assert order == sorted(order)
    place = {index: number for number, group in enumerate(found) for index in group.pieces}
    for index, speaker in enumerate(speakers):
        first = speakers.index(speaker)
        assert speaker not in anchored or index == first or place[first] < place[index]


def test_captions_are_read_by_ffmpeg_with_the_text_and_times(tmp_path: Path) -> None:
    pieces = (Piece(0, 0, 0, "Is 1 < 2 & 3 --> 4?", 0.0), Piece(1, 1, 1, "Yes.", 0.5))
    spoken = [Spoken(pieces[0], 0.0, 2.5004), Spoken(pieces[1], 3725.125, 3725.125)]
    text = webvtt(Script(SPEAKERS, pieces), spoken)
    assert text.count("-->") == 2 and "<v Bob &lt;b&gt;>Yes.</v>" in text
    (tmp_path / "c.vtt").write_text(text)
    with av.open(str(tmp_path / "c.vtt")) as container:
        cues = [(p.pts, p.duration, bytes(p).decode()) for p in container.demux() if p.size]
    assert [(start, length) for start, length, _ in cues] == [(0, 2500), (3_725_125, 1)]
    assert cues[0][2] == "<v Anna>Is 1 &lt; 2 &amp; 3 --&gt; 4?</v>"


def test_the_timing_lists_turns_and_their_pieces() -> None:
    pieces = (Piece(0, 0, 0, "One.", 0.0), Piece(1, 0, 0, "Two.", 0.1), Piece(2, 1, 1, "Three.", 0.5))
    spoken = [Spoken(pieces[0], 0.0, 1.0), Spoken(pieces[1], 1.1, 2.0), Spoken(pieces[2], 2.5, 3.0)]
    found = document(Script(SPEAKERS, pieces), spoken, 3.0)
    assert found["duration"] == 3.0 and found["speakers"][1] == {"name": "Bob <b>", "voice": "voi_1", "cloned": True}
    first, second = found["turns"]
    assert (first["text"], first["start"], first["end"], len(first["pieces"])) == ("One. Two.", 0.0, 2.0, 2)
    assert (second["speaker"], second["start"], second["end"]) == (1, 2.5, 3.0)
