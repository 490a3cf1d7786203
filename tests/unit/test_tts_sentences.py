"""Long texts in pieces: nothing lost, nothing doubled, nothing too long."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tts.sentences import clean, divide, halves, paragraphs, pieces, sentences, speakable

WORDS = st.sampled_from(
    ["a", "Dr.", "Smith", "e.g.", "3.50", "1,000", "10:30", "“Go!”", "(yes)", "…", "—", "你好。", "नमस्ते", "é",
     "e\u0301", "👩\u200d👩\u200d👧", "x" * 70, "\n\n", "\n", "?!", "it's", "U.S.", "\u00a0", "\t", "لا،"]
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(WORDS, max_size=60).map(" ".join), st.lists(WORDS, max_size=40).map("".join), st.text(max_size=300)
)


def letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


def packed(text: str) -> str:
    return "".join(text.split())


@given(TEXTS, st.integers(1, 120), st.sampled_from(["en", "de", "zh", "hi", "no-such-language"]))
def test_pieces_hold_everything_once_and_none_is_too_long(text: str, longest: int, language: str) -> None:
    cleaned = clean(text)
    made = [piece for part in paragraphs(cleaned) for piece in pieces(part, longest, language)]
    assert letters("".join(made)) == letters(cleaned)
    for piece in made:
        assert speakable(piece) and len(piece) <= longest
        assert piece == piece.strip() and "\n" not in piece


@given(TEXTS, st.integers(1, 60))
def test_a_divided_sentence_is_the_sentence(text: str, longest: int) -> None:
    parts = list(divide(clean(text), longest))
    assert packed("".join(parts)) == packed(clean(text))
    assert all(0 < len(part) <= longest for part in parts)


@given(TEXTS)
def test_clean_text_stays_as_it_is(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not [c for c in cleaned if unicodedata.category(c) == "Cc" and c != "\n"]


@given(TEXTS)
def test_halves_are_shorter_and_complete(text: str) -> None:
    found = halves(clean(text))
    assert letters("".join(found)) == letters(clean(text))
    assert len(found) == 1 or all(speakable(half) and len(half) < len(clean(text)) for half in found)


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("en", "Dr. Smith paid $3.5, e.g. for apples. He left.", ["Dr. Smith paid $3.5, e.g. for apples.", "He left."]),
        ("en", "“Is it late?” she asked. “No!”", ["“Is it late?” she asked.", "“No!”"]),
        ("en", "Version 2.0.1 is out. It runs", ["Version 2.0.1 is out.", "It runs"]),
        ("de", "Das kostet z.B. 3,50 Euro. Gut.", ["Das kostet z.B. 3,50 Euro.", "Gut."]),
        ("zh", "你好。我很好！你呢？", ["你好。", "我很好！", "你呢？"]),
        ("en", "no punctuation at all", ["no punctuation at all"]),
    ],
)  # fmt: skip
def test_sentences(language: str, text: str, found: list[str]) -> None:
    assert sentences(text, language) == found


def test_short_sentences_go_together_and_long_ones_are_cut_after_a_clause() -> None:
    assert pieces("One. Two. Three. Four.", 12) == ["One. Two.", "Three. Four."]
    long = "It was 10:30, and of 1,000 guests the first arrived; nobody, however, had thought of the cat"
    first, second = pieces(long, 55)
    assert first == "It was 10:30, and of 1,000 guests the first arrived;"
    assert second == "nobody, however, had thought of the cat"


def test_a_word_without_end_is_cut_between_two_characters() -> None:
    assert pieces(clean("e\u0302x" * 10), 4) == ["\u00eax\u00eax"] * 5, "composed, a letter is one character"
    hindi = "नमस्ते" * 20
    parts = list(divide(hindi, 10))
    assert len(parts) > 10 and "".join(parts) == hindi
    assert not any(unicodedata.category(part[0])[0] == "M" for part in parts)


def test_control_characters_and_invisible_ones_are_not_spoken() -> None:
    assert clean("a\0b\x1b[31mc\u202egpj\ufeff\u200bd") == "a b [31mcgpjd"
    assert clean("می\u200cخواهم") == "می\u200cخواهم", "a letter of Persian"
    assert paragraphs(clean("One.\r\n\r\n* * *\n \t\nTwo\nlines.\u2029Three.")) == ["One.", "Two lines.", "Three."]
