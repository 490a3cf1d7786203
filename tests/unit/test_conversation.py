"""What a language model is told, how its server is spoken to, and what of its answer is read aloud."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.params import parse_request
from tests import chat, media, speech
from worker.conversation import history
from worker.conversation.history import Turn
from worker.conversation.language import Answer, Message
from worker.conversation.served import ServedModel
from worker.engine import Earlier, LanguageServer
from worker.tts.pipeline import SpeechEngine

ASKED = [Message("system", "Be brief."), Message("user", "Does it rain?")]
KEY = "sk-very-secret-0123456789"


def turn(number: int) -> Turn:
    return Turn(f"Question {number}?", f"**Answer** {number}.", f"Answer {number}.", None, "tiny-1", f"job_{number}")


def ask(url: str, seconds: float = 10.0, check: object = None) -> Answer:
    model = ServedModel(LanguageServer(url, "tiny", KEY, seconds))
    return model.answer(ASKED, max_tokens=99, temperature=0.5, check=check or (lambda: None))  # type: ignore[arg-type]


def test_a_model_is_told_of_the_latest_turns() -> None:
    told = history.messages("Be brief.", [turn(1), turn(2), turn(3)], "And now?", 2)
    assert [(message.role, message.content) for message in told] == [
        ("system", "Be brief."),
        ("user", "Question 2?"), ("assistant", "**Answer** 2."),
        ("user", "Question 3?"), ("assistant", "**Answer** 3."),
        ("user", "And now?"),
    ]  # fmt: skip
    assert [message.role for message in history.messages(" ", [turn(1)], "And now?", 0)] == ["user"]


def test_a_document_gives_its_turns_back() -> None:
    document = json.loads(json.dumps(history.document([turn(1), turn(2)], {"generated": True})))
    assert [Turn.of(value) for value in document["turns"]] == [turn(1), turn(2)]
    assert document["provenance"] == {"generated": True}


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("It rains.", "It rains."),
        ("# Weather\n\n- **Rain** in the *morning*\n- `sun` later", "Weather\n\nRain in the morning\nsun later"),
        ("See [the chart](https://example.org/a_b) or ![a map](m.png).", "See the chart or a map."),
        ("```python\nprint(1)\n```", "print(1)"),
        ("2 * 3 * 4 is 24, and a_b_c stays.", "2 * 3 * 4 is 24, and a_b_c stays."),
        ("> ***Truly*** so", "Truly so"),
    ],
)
def test_signs_of_markdown_are_not_read(answer: str, read: str) -> None:
    assert history.spoken(answer) == read


@given(st.text(alphabet="ab *_#>-\n~", max_size=60))
def test_no_letter_is_lost(text: str) -> None:
    assert [c for c in history.spoken(text) if c in "ab"] == [c for c in text if c in "ab"]


def test_thoughts_are_no_answer() -> None:
    assert history.answered("<think>Rain?\nYes.</think>\n\nIt rains.") == "It rains."
    assert history.answered("<think>Rain? Let me") == ""
    assert history.answered("I think it rains.") == "I think it rains."


def test_a_server_is_asked_in_its_format() -> None:
    with chat.served("It rains.") as server:
        answer = ask(server.url)
    assert answer == Answer("It rains.", "tiny-1", False, 11, 7)
    assert server.keys == [f"Bearer {KEY}"]
    assert server.asked == [
        {
            "model": "tiny", "max_tokens": 99, "stream": False, "temperature": 0.5,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Does it rain?"}],
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable", "hint"),
    [
        (401, f'{{"error": "{KEY} is no key"}}', "llm_refused", False, "NIGHTSHIFT_LLM_API_KEY"),
        (404, '{"error": {"message": "model not found"}}', "llm_refused", False, "NIGHTSHIFT_LLM_MODEL"),
        (400, '{"error": "context length exceeded"}', "llm_refused", False, "history_turns"),
        (429, "slow down", "llm_failed", True, "log"),
        (500, "<html>no</html>", "llm_failed", True, "log"),
        (200, "<html>a web page</html>", "llm_failed", False, "NIGHTSHIFT_LLM_URL"),
        (200, '{"choices": []}', "llm_failed", False, "NIGHTSHIFT_LLM_URL"),
        (200, "x" * (5 << 20), "llm_failed", False, ""),
    ],
)
def test_what_a_server_refuses_is_told(status: int, body: str, code: str, retryable: bool, hint: str) -> None:
    with chat.served((status, body)) as server, pytest.raises(NightshiftError) as caught:
        ask(server.url)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert hint in caught.value.hint
    assert KEY not in caught.value.detail and len(caught.value.detail) < 500


def test_a_server_that_is_not_there_or_slow_is_told() -> None:
    with chat.served("Never.", pause=30) as server:
        with pytest.raises(NightshiftError) as caught:
            ask(server.url, seconds=0.5)
        assert (caught.value.code, caught.value.retryable) == ("llm_too_slow", True)
        assert server.left.wait(10), "the server was not told that nobody waits"
    with pytest.raises(NightshiftError) as caught:
        ask(server.url)
    assert (caught.value.code, caught.value.retryable) == ("llm_unreachable", True)


def test_a_cancel_ends_the_question_at_once() -> None:
    class Stop(Exception):
        pass

    asked = time.monotonic()

    def check() -> None:
        if time.monotonic() > asked + 0.5:
            raise Stop

    with chat.served("Never.", pause=60) as server:
        with pytest.raises(Stop):
            ask(server.url, seconds=60, check=check)
        assert server.left.wait(10)


def test_a_synthesizer_hears_what_was_said_before(tmp_path: Path) -> None:
    said = media.write(tmp_path / "before.mp3", media.signal(44_100, 1, 3.0), 44_100)
    for context_turns, heard in ((2, ["Answer 1."]), (0, [])):
        synthesizer = speech.Tones(context_turns=context_turns)
        work = speech.work(tmp_path / str(context_turns), speech.params(text="And it rains on."))
        list(SpeechEngine(synthesizer).run(replace(work, earlier=(Earlier(said, "Answer 1."),))))
        (line,) = [line for group in synthesizer.groups for line in group]
        assert [earlier.text for earlier in line.context] == heard
        for earlier in line.context:
            assert earlier.speaker == line.speaker
            assert earlier.samples.size == pytest.approx(3 * speech.RATE, abs=0.1 * speech.RATE)


def conversation(**members: object) -> dict[str, object]:
    return {"kind": "conversation", "params": {"text": "Does it rain?"}, **members}


def test_requests() -> None:
    request = parse_request(conversation(previous={"job": "job_1"}))
    assert [(pointer, source.job, source.output) for pointer, source in request.sources().items()] == [
        ("/previous", "job_1", "conversation"), ("/previous/speech", "job_1", "speech")
    ]  # fmt: skip
    assert (request.engine, request.lane(), request.voices()) == ("llm", "cpu", {})
    spoken = {"engine": "csm-1b", "voice": "voi_1"}
    request = parse_request(conversation(params={"text": "Rain?", "speech": spoken}))
    assert (request.lane(), request.voices()) == ("gpu", {"/params/speech/voice": "voi_1"})
    heard = {"transcription": {"engine": "whisper-large"}}
    assert parse_request(conversation(input={"upload": "upl_1"}, params=heard)).lane() == "gpu"
    assert parse_request(conversation(params={"text": "Rain?", **heard})).lane() == "cpu", "nothing is to be heard"
    for params, pointer in (
        ({"speech": {"voice": "voi_1"}}, "/params/speech/voice"),
        ({"speech": {"engine": "rnnoise"}}, "/params/speech/engine"),
    ):
        with pytest.raises(NightshiftError) as caught:
            parse_request(conversation(params={"text": "Rain?", **params})).spec()
        assert caught.value.pointer == pointer
    for wrong in (conversation(input={"upload": "upl_1"}), conversation(params={})):
        with pytest.raises(ValueError, match=r"either as params\.text or as input"):
            parse_request(wrong)
