"""Voices, transcriptions and conversations by the command and the client, on a `nightshift up` of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("transformers")

from nightshift import ApiError, Client, JobEnded
from nightshift.place import find
from tests import chat, media, whisper
from tests.command import Command
from tests.house import QUICK, wait_for
from tests.voices import RATE, SENTENCES, Passage, passage
from worker.media.speech import available

pytestmark = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")

KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def told() -> Passage:
    return passage(SENTENCES[:4])


@pytest.fixture(scope="module")
def server() -> Iterator[chat.Chat]:
    with chat.served("It rains in Leith.", "Until the morning.") as made:
        yield made


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, told: Passage, server: chat.Chat) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("talk")
    whisper.write_weights(folder / "models", lines=[(round(s, 1), round(e, 1), text) for s, e, text in told.spoken])
    settings = {
        **QUICK, "home": folder / "home", "models_dir": folder / "models", "extra_engines": "tests.whisper:TINY",
        "llm_url": server.url, "llm_model": "tiny", "llm_api_key": KEY,
    }  # fmt: skip
    log = folder / "up.log"
    process = Command(folder, **settings).start("up", "--port", 0, log=log)
    try:
        wait_for(lambda: "Nightshift is up." in log.read_text() or process.poll() is not None, 90)
        assert process.poll() is None, log.read_text()
        yield Command(folder, inside=True, **settings)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def client(command: Command) -> Iterator[Client]:
    place = find(home=Path(command.environment["NIGHTSHIFT_HOME"]))
    with Client(place.url, place.api_key) as made:
        yield made


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, told: Passage) -> Path:
    return media.write(tmp_path_factory.mktemp("media") / "me.wav", told.samples[None], RATE)


CONSENT = ("--given-by", "Ada L.", "--purpose", "the evening news", "--on", "2026-01-31")


def test_a_voice_is_added_confirmed_and_deleted(
    command: Command, recording: Path, told: Passage, tmp_path: Path
) -> None:
    added = command("voice", "add", "Ada", recording, *CONSENT, "--transcriber", "whisper-tiny", "--wait")
    voice_id = added.out.strip()
    assert "was heard as:" in added.err and voice_id in added.err
    assert "confirm its transcript" in command("voice", "list").out
    heard = command("voice", "confirm", voice_id, "--listen", tmp_path / "excerpt.flac", "--json").json
    samples, rate = soundfile.read(tmp_path / "excerpt.flac")
    assert 5 <= samples.size / rate <= 15 and heard["transcript"] in told.text
    assert command("voice", "confirm", voice_id).out.split() == [voice_id, "ready"]
    words = tmp_path / "words.txt"
    words.write_text("Other words.\n")
    assert command("voice", "confirm", voice_id, "--transcript", words, "--json").json["transcript"] == "Other words."
    (listed,) = command("voice", "list", "--json").json
    assert (listed["state"], listed["consent"]["purpose"]) == ("ready", "the evening news")
    command("voice", "delete", voice_id)
    assert command("voice", "list", "--json").json == []
    assert command("voice", "confirm", voice_id, "--json", status=3).error["code"] == "not_found"


def test_a_voice_with_its_words_is_ready_and_needs_no_model(client: Client, told: Passage, tmp_path: Path) -> None:
    end = round(told.spoken[1][1] * RATE)
    short = media.write(tmp_path / "short.wav", told.samples[None, :end], RATE)
    consent = {"given_by": "Ada", "date": "2026-01-31", "purpose": "tests"}
    words = " ".join(text for _, _, text in told.spoken[:2])
    voice = client.create_voice("Ada", short, consent=consent, transcript=words).wait(60)
    assert (voice.ready, voice.transcript) == (True, words)
    assert voice.rename("Countess").name == "Countess" == client.voice(voice.id).name
    assert [found.id for found in client.voices(page=1)] == [voice.id]
    voice.delete()
    silent = media.make(tmp_path / "silent.wav", 16_000, 1, 8.0, "silence")
    with pytest.raises(JobEnded, match="no_speech"):
        client.create_voice("Nobody", silent, consent=consent, transcript=words).wait(60)
    with pytest.raises(ApiError) as caught:
        client.create_voice("Nobody", silent, consent={**consent, "date": "2999-01-01"}, transcript=words)
    assert caught.value.pointer == "/consent/date"


def test_a_recording_is_transcribed(command: Command, client: Client, recording: Path, told: Passage) -> None:
    said = command("transcribe", recording, "--engine", "whisper-tiny", "--language", "en", "--wait")
    assert " ".join(said.out.split()) == told.text
    job = next(iter(client.jobs()))
    assert job.body["kind"] == "transcription" and job.text("captions").startswith("WEBVTT\n\n1\n")
    with pytest.raises(KeyError, match="no output stems"):
        job.text("stems")


def test_a_conversation_goes_on(command: Command, client: Client, server: chat.Chat, tmp_path: Path) -> None:
    answered = command("converse", "Does it rain?", "--format", "mp3", "--wait", "--download", tmp_path)
    assert answered.out.splitlines()[0] == "It rains in Leith."
    assert (tmp_path / "speech.mp3").stat().st_size > 1000
    first = next(iter(client.jobs()))
    second = client.converse("Until when?", previous=first, voice="espeak:de", instructions="Be brief.").wait(60)
    assert second.text("answer") == "Until the morning.\n"
    assert [message["content"] for message in server.asked[-1]["messages"]] == [
        "Be brief.", "Does it rain?", "It rains in Leith.", "Until when?"
    ]  # fmt: skip
    speech = next(output for output in second.outputs if output["name"] == "speech")
    assert speech["provenance"]["voices"] == ["espeak:de"]
    assert command("converse", "--json", status=2)
