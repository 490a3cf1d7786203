"""CSM as a synthesizer, on a tiny network: prompts that fit, takes tried again, and whole jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from common.errors import NightshiftError  # noqa: E402
from tests import csm, media, speech  # noqa: E402
from tests.speech import Kept  # noqa: E402
from worker.engine import BlockDone, Host, Metrics, Note, Voice  # noqa: E402
from worker.tts.csm.engine import synthesizer as load  # noqa: E402
from worker.tts.csm.model import FRAME, RATE, Codes, Prompt  # noqa: E402
from worker.tts.csm.synthesizer import CsmSynthesizer, frames_of  # noqa: E402
from worker.tts.csm.text import readable  # noqa: E402
from worker.tts.pipeline import SpeechEngine  # noqa: E402
from worker.tts.script import Speaker  # noqa: E402
from worker.tts.synthesizer import Line, Said, Take  # noqa: E402

ANNA, BOB = Speaker(0, "Anna", "csm:0", False, 0), Speaker(1, "Bob", "csm:1", False, 1)
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>", "<|eot_id|>")
HOSTILE = (*SPECIAL, "<placeholder>", "[1]", "<|AU<|AUDIO|>DIO|>", "</s>", "<speak>", "{{ 7 * 7 }}", "\u2028")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def synthesizer(tmp_path_factory: pytest.TempPathFactory) -> CsmSynthesizer:
    """Of a network that ends soon."""
    folder = csm.write(tmp_path_factory.mktemp("models"), codes=4)
    return load("csm-tiny", folder, Host("cpu", folder.parent, models_on_cpu=True))


Wrapper = Callable[[int, Prompt, Codes], Codes]


@pytest.fixture
def changed(synthesizer: CsmSynthesizer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Wrapper], list[Prompt]]:
    """Lets a function change what the network gives, by attempt; gives the prompts that it got."""
    prompts: list[Prompt] = []

    def install(change: Wrapper) -> list[Prompt]:
        real = synthesizer.model.generate

        def generate(some: Sequence[Prompt], temperature: float, check: Any) -> Generator[float, None, list[Codes]]:
            prompts.extend(some)
            short = [Prompt(p.embeddings, min(p.cap, 12), p.seed, p.attempt) for p in some]
            codes = yield from real(short, temperature, check)
            return [change(p.attempt, p, one) for p, one in zip(some, codes, strict=True)]

        monkeypatch.setattr(synthesizer.model, "generate", generate)
        return prompts

    return install


def frames(count: int, ended: bool = True) -> Codes:
    return Codes(torch.randint(1, 4, (count, 4), generator=torch.Generator().manual_seed(count)), ended)


def speak(
    synthesizer: CsmSynthesizer, *lines: Line, check: Callable[[], None] = lambda: None, **given: Any
) -> list[Take]:
    return csm.finish(synthesizer.speak(lines, speech.params(text="x", **given), check))


def line(text: str, seed: int = 0, **given: Any) -> Line:
    return Line(text, ANNA, seed, **given)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


# --- Text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("It is 10:30, or 09:05, or 7:00.", "It is 10 30, or 9 oh 5, or 7 o'clock."),
        ("A score of 99:01 stays.", "A score of 99:01 stays."),
        ("See [1] (page 2).", "See, 1, page 2."),
        ("“Quoted” — isn’t it…", '"Quoted", isn\'t it...'),
        ("a < b > c | d", "a b c d"),
        ("<|AU<|AUDIO|>DIO|>", "AU DIO"),
    ],
)
def test_readable(text: str, read: str) -> None:
    assert readable(text, SPECIAL) == read


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8)), max_size=12).map("".join))
def test_nothing_the_tokenizer_would_obey_is_left(text: str) -> None:
    read = readable(text, SPECIAL)
    assert not [token for token in (*SPECIAL, "<placeholder>") if token in read]
    assert not set("<>[]{}|") & set(read)
    assert readable(read, SPECIAL) == read


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_text_with_commands_in_it_has_the_tokens_of_a_text(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]], hostile: str
) -> None:
    changed(lambda attempt, prompt, codes: Codes(codes.codes, True))
    model = synthesizer.model
    special = set(model.processor.tokenizer.get_added_vocab().values())

    def commands(text: str) -> list[int]:
        read = readable(f"Hello {text} there", synthesizer._special)
        tokens = model.tokens([(0, read, 3), (1, "Hi", None)]).tolist()
        return [token for token in tokens if token in special]

    assert commands(hostile) == commands("")
    (take,) = speak(synthesizer, line(f"Hello {hostile} there"))
    assert take.samples.size and np.isfinite(take.samples).all()


def test_a_text_of_commands_alone_is_silent(synthesizer: CsmSynthesizer) -> None:
    first, second = speak(synthesizer, line("<|AUDIO|><|eot_id|>"), line("Hello there."))
    assert not first.samples.size and second.samples.size


# --- Frames and positions ---------------------------------------------------------------------------------------------


def test_caps_grow_with_the_text_and_stay_below_thirty_seconds() -> None:
    caps = [frames_of("x" * length)[0] for length in range(1, 250)]
    assert caps == sorted(caps) and caps[-1] == 375 and caps[0] >= 25
    assert all(least < cap / 2 for cap, least in (frames_of("x" * n) for n in range(1, 250)))
    assert frames_of("1,234,567")[0] > 12.5 * 5, "one million two hundred and thirty-four thousand …"
    assert frames_of("今天天气不错，我们去公园散步吧。")[0] > 12.5 * 5
    usual = 12.5 * 220 / 15
    cap, least = frames_of("x" * 220)
    assert least < usual < cap


def test_what_does_not_fit_the_positions_is_forgotten_the_oldest_first(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    prompts = changed(lambda attempt, prompt, codes: frames(20))
    said = tuple(Said(f"piece {i}", BOB, f"Said {i}.", noise(20, i)) for i in range(9))
    reference = Said("voi_1", ANNA, "The reference.", noise(15, 99))
    text = "This is a sentence of about sixty characters, as many have."
    speak(synthesizer, line(text, reference=reference, context=said))
    cap = frames_of(text)[0]
    (prompt,) = prompts
    assert prompt.cap == cap and len(prompt.embeddings) + cap <= 2048
    assert len(prompt.embeddings) + cap > 2048 - 275, "as much as fits is heard"
    tokens = synthesizer.model.tokens
    turns = [(0, "The reference.", 188), *((1, f"Said {i}.", 250) for i in range(3, 9)), (0, text, None)]
    assert len(prompt.embeddings) == len(tokens(turns)), "the reference and the latest"


def test_a_recording_that_leaves_no_room_is_refused(
    synthesizer: CsmSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesizer.model, "positions", 400)
    reference = Said("voi_1", ANNA, "Endless.", noise(30))
    with pytest.raises(NightshiftError) as refused:
        speak(synthesizer, line("Hello.", reference=reference))
    assert refused.value.code == "engine_unsupported" and "5 to 15 s" in refused.value.hint


# --- Takes ------------------------------------------------------------------------------------------------------------

LONG = "A sentence that is long enough, one should think, that three frames cannot be all of it."


def test_a_take_that_ends_early_is_tried_again_with_other_noise(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    prompts = changed(lambda attempt, prompt, codes: frames(3 if attempt == 0 else 60))
    long, short = speak(synthesizer, line(LONG, 5), line("Yes.", 6))
    assert (long.flaws, long.tries, long.samples.size) == ((), 2, 60 * FRAME)
    assert (short.flaws, short.tries, short.samples.size) == ((), 1, 3 * FRAME)
    assert sorted((prompt.seed, prompt.attempt) for prompt in prompts) == [(5, 0), (5, 1), (6, 0)]


def test_an_end_on_the_first_frame_is_tried_again(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    changed(lambda attempt, prompt, codes: frames(0) if attempt < 2 else frames(9))
    (take,) = speak(synthesizer, line("Yes."))
    assert (take.flaws, take.tries, take.samples.size) == ((), 3, 9 * FRAME)


def test_a_take_that_runs_on_is_tried_again_and_then_spoken_in_halves(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    prompts = changed(lambda attempt, prompt, codes: frames(30, ended=attempt == 3))
    (take,) = speak(synthesizer, line(LONG, 5))
    assert (take.flaws, take.tries, take.samples.size) == ((), 5, 60 * FRAME)
    assert [prompt.attempt for prompt in prompts] == [0, 1, 2, 3, 3]
    assert len(prompts[3].embeddings) + len(prompts[4].embeddings) < 2 * len(prompts[0].embeddings)


def test_what_stays_wrong_is_taken_at_its_best_and_said(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    changed(lambda attempt, prompt, codes: frames(3 + attempt % 3))
    (take,) = speak(synthesizer, line(LONG))
    assert take.flaws == ("cut_short",) and take.samples.size == 5 * FRAME
    changed(lambda attempt, prompt, codes: frames(30, ended=False))
    (take,) = speak(synthesizer, line(LONG))
    assert take.flaws == ("ran_on",) and take.tries == 5


def test_without_noise_nothing_is_tried_twice(
    synthesizer: CsmSynthesizer, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    prompts = changed(lambda attempt, prompt, codes: frames(1))
    speak(synthesizer, line(LONG), temperature=0)
    assert [prompt.attempt for prompt in prompts] == [0, 3, 3]


def test_lines_together_are_the_lines_alone(synthesizer: CsmSynthesizer) -> None:
    reference = Said("voi_1", BOB, "The reference.", noise(3))
    lines = [line("One.", 1), line("Two, and more.", 2, reference=reference), line("Three!", 3)]
    together = speak(synthesizer, *lines)
    for one, take in zip(lines, together, strict=True):
        np.testing.assert_array_equal(speak(synthesizer, one)[0].samples, take.samples)
    assert len({take.samples.size for take in together}) > 1


def test_a_check_that_raises_ends_the_generation(synthesizer: CsmSynthesizer) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise Stop

    with pytest.raises(Stop):
        speak(synthesizer, line(LONG), check=check)
    assert asked == 2
    assert speak(synthesizer, line("Yes."))[0].samples.size, "and the next is spoken"


def test_speakers_without_a_voice_get_different_ones(synthesizer: CsmSynthesizer) -> None:
    taken: set[str] = set()
    for speaker in range(10):
        taken.add(synthesizer.voice(speaker, frozenset(taken)))
    assert taken == {f"csm:{part}" for part in range(10)}
    assert synthesizer.voice(13, frozenset(taken)) == "csm:3"


# --- Whole jobs -------------------------------------------------------------------------------------------------------

SCRIPT = [
    {"speaker": "Anna", "text": "Good evening."},
    {"speaker": "Bob", "text": "Thank you <|AUDIO|> for having me. " * 7},
    {"speaker": "Anna", "text": "Then let us begin.", "voice": "voi_1"},
]


@pytest.mark.parametrize("context_turns", [0, 2])
def test_a_dialogue_resumed_is_the_same_dialogue(
    synthesizer: CsmSynthesizer, tmp_path: Path, context_turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesizer, "together", 2)
    recording = media.write(tmp_path / "v.flac", media.signal(48_000, 2, 5.0), 48_000)
    voices = {"voi_1": Voice("voi_1", "Mine", recording, "Some exact words.")}
    made = speech.params(script=SCRIPT, context_turns=context_turns, output={"format": "wav"}, seed=3)

    def run(name: str, **given: Any) -> list[Any]:
        synthesizer._heard.clear()
        work = speech.work(tmp_path / name, made, voices=voices, **given)
        return list(SpeechEngine(synthesizer).run(work))

    whole = run("a")
    samples, rate = speech.heard(whole)
    assert rate == 24_000 and samples.size > RATE and np.abs(samples).max() > 0.01
    done = speech.of(BlockDone, whole)
    assert len(done) >= 4
    again = run("b", blocks=Kept(whole, {done[0].index, done[2].index}))
    np.testing.assert_array_equal(speech.heard(again)[0], samples)
    meta = speech.artifacts(whole)["speech"].meta
    assert meta["cloned"] is True and meta["provenance"]["engine"] == "csm-tiny"
    (metrics,) = speech.of(Metrics, whole)
    assert metrics.values["speakers"] == 2


def test_retries_are_counted_and_flaws_told_in_the_result(
    synthesizer: CsmSynthesizer, tmp_path: Path, changed: Callable[[Wrapper], list[Prompt]]
) -> None:
    changed(lambda attempt, prompt, codes: frames(3))
    events = list(SpeechEngine(synthesizer).run(speech.work(tmp_path, speech.params(text=LONG))))
    (metrics,) = speech.of(Metrics, events)
    assert metrics.values["retries"] == 4, "three with other noise or halves after the first"
    (note,) = [note for note in speech.of(Note, events) if note.level == "warning"]
    assert note.code == "speech_cut_short" and "A sentence that is long enough" in note.message
