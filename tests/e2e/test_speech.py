"""Speech end to end: text and scripts through the API, the client and the command, and what is refused."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import soundfile

from nightshift import Client, JobEnded
from nightshift.cli import exits
from tests.e2e.conftest import MAX_DURATION_SECONDS, Up
from worker.media.espeak import available

pytestmark = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")

PARAGRAPH = (
    "Good evening, and welcome to the night shift. While the city sleeps, the machines go on listening. "
    "Somewhere between the music and the rain there is a voice, and tonight we shall try to find it."
)
SCRIPT = [
    {"speaker": "Anna", "text": "Are you there?", "voice": "espeak:en-us+f3"},
    {"speaker": "Björn", "text": "Ja, ich bin da & höre <zu>.", "voice": "espeak:de"},
    {"speaker": "Anna", "text": "Good."},
]


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with up.client() as made:
        yield made


def post(up: Up, params: Any, **members: Any) -> httpx.Response:
    body = {"kind": "tts", "params": params, **members}
    return httpx.post(f"{up.url}/v1/jobs", json=body, headers={"Authorization": f"Bearer {up.token}"}, timeout=60)


def audible(samples: np.ndarray, rate: int) -> float:
    """The share of half seconds that hold sound: words are there, not a click in silence."""
    windows = samples[: samples.size // (rate // 2) * (rate // 2)].reshape(-1, rate // 2)
    return float(np.mean(np.sqrt(np.mean(windows**2, axis=1)) > 0.01))


def test_a_paragraph_gives_audible_speech(up: Up, client: Client, tmp_path: Path) -> None:
    job = client.speak(PARAGRAPH, format="wav", cache=False).wait(60)
    files = {path.name: path for path in job.download(tmp_path)}
    assert set(files) == {"speech.wav", "timing.json", "captions.vtt", "waveform.json", "waveform.png"}
    samples, rate = soundfile.read(files["speech.wav"], dtype="float32")
    words = len(PARAGRAPH.split())
    assert rate == 24_000 and samples.ndim == 1
    # People read 120 to 200 words a minute.
    assert 60 * words / 220 < samples.size / rate < 60 * words / 110
    assert audible(samples, rate) > 0.9
    (speech,) = [output for output in job.outputs if output["name"] == "speech"]
    assert speech["loudness_lufs"] == pytest.approx(-19, abs=0.5)
    assert speech["provenance"] == {
        "generated": True, "engine": "espeak", "version": speech["provenance"]["version"],
        "voices": ["espeak:en-us"], "cloned": False, "job": job.id,
    }  # fmt: skip
    with av.open(str(files["speech.wav"])) as container:
        assert job.id in container.metadata["comment"]
    timing = json.loads(files["timing.json"].read_text())
    assert timing["turns"][0]["text"] == PARAGRAPH and timing["duration"] == pytest.approx(
        samples.size / rate, abs=0.01
    )
    again = client.speak(PARAGRAPH, format="wav", cache=False).wait(60).download(tmp_path / "again", only=["speech"])
    np.testing.assert_array_equal(soundfile.read(again[0], dtype="float32")[0], samples)


def test_a_script_from_curl_has_a_caption_a_turn_in_each_voice(up: Up, client: Client, tmp_path: Path) -> None:
    answer = post(up, {"script": SCRIPT, "output": {"format": "mp3", "bitrate_kbps": 64}})
    assert answer.status_code == 202, answer.text
    assert answer.json()["params"]["script"][2] == {"text": "Good.", "speaker": "Anna", "voice": None}
    job = client.job(answer.json()["id"]).wait(60)
    files = {path.name: path for path in job.download(tmp_path)}
    info = soundfile.info(files["speech.mp3"])
    assert (info.format, info.samplerate, info.channels) == ("MP3", 24_000, 1)
    with av.open(str(files["captions.vtt"])) as container:
        cues = [
            (packet.pts, packet.pts + packet.duration, bytes(packet).decode())
            for packet in container.demux()
            if packet.size
        ]
    assert [text for _, _, text in cues] == [
        "<v Anna>Are you there?</v>", "<v Björn>Ja, ich bin da &amp; höre &lt;zu&gt;.</v>", "<v Anna>Good.</v>"
    ]  # fmt: skip
    samples, rate = soundfile.read(files["speech.mp3"], dtype="float32")
    for (_, end, _), (start, _, _) in itertools.pairwise(cues):
        assert start - end == pytest.approx(400, abs=2), "the pause between turns, in milliseconds"
        pause = samples[round((end + 50) * rate / 1000) : round((start - 50) * rate / 1000)]
        assert np.abs(pause).max() < 0.01
    assert cues[-1][1] == pytest.approx(1000 * info.duration, abs=60)


def test_the_command_speaks_a_text_a_file_and_a_script(up: Up, tmp_path: Path) -> None:
    done = up.shell("say", "Hello from the night shift.", "--download", tmp_path / "a", "--format", "opus", "--json")
    assert done.json["state"] == "succeeded" and soundfile.info(tmp_path / "a" / "speech.opus").duration > 1
    (tmp_path / "chapter.txt").write_text("\ufeffFirst paragraph.\n\nSecond one, “quoted”.", "utf-8")
    (tmp_path / "script.json").write_text(json.dumps(SCRIPT))
    spoken = up.command(
        "say", "--file", tmp_path / "chapter.txt", "--voice", "espeak:en-us+m3", "--speed", 1.5, "--wait"
    )
    told = up.command("job", spoken.out.split()[-1], "--json").json
    assert told["params"]["voice"] == "espeak:en-us+m3" and told["metrics"]["characters"] > 20
    script = up.command("say", "--script", tmp_path / "script.json", "--rate", 48_000, "--wait")
    (speech,) = [
        o for o in up.command("job", script.out.split()[-1], "--json").json["outputs"] if o["name"] == "speech"
    ]
    assert (speech["sample_rate"], speech["provenance"]["voices"]) == (48_000, ["espeak:de", "espeak:en-us+f3"])
    assert "Are you there?" in up.command("job", script.out.split()[-1]).out
    assert "speech" in up.command("jobs", "--engine", "espeak", "--limit", 1).out
    assert "only one of them" in up.command("say", "text", "--file", tmp_path / "chapter.txt", status=exits.USAGE).err
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "not UTF-8" in up.command("say", "--file", tmp_path / "latin.txt", status=exits.USAGE).err
    assert "is not JSON" in up.command("say", "--script", tmp_path / "chapter.txt", status=exits.USAGE).err
    refused = up.command("say", "Hello.", "--voice", "espeak:klingon", "--json", status=exits.REFUSED)
    assert refused.error["code"] == "voice_missing"


def test_speech_longer_than_allowed_fails_with_what_to_do(client: Client) -> None:
    job = client.speak("One hundred words a minute. " * 200, speed=0.5)
    with pytest.raises(JobEnded) as ended:
        job.wait(60)
    assert ended.value.error is not None and ended.value.error["code"] == "too_long"
    assert f"{MAX_DURATION_SECONDS} s" in ended.value.error["message"]


@pytest.mark.parametrize(
    ("params", "code", "pointer"),
    [
        ({"text": ""}, "invalid_request", "/params/text"),
        ({"text": "?!… — \n"}, "invalid_request", "/params/text"),
        ({"text": "a" * 900_000}, "invalid_request", "/params/text"),
        ({"text": "a\0b"}, "invalid_request", "/params/text"),
        ({"script": [{"text": "Hello."}, {"text": "…"}]}, "invalid_request", "/params/script/1/text"),
        ({"text": "Hello.", "voice": "espeak:klingon"}, "voice_missing", "/params/voice"),
        ({"text": "Hello.", "voice": "voi_01M7WNVGXTQCY39AZ0WQ47XNR7"}, "engine_unsupported", "/params/voice"),
        ({"script": [{"text": "Hello.", "voice": "csm:1"}]}, "engine_unsupported", "/params/script/0/voice"),
        ({"text": "Hello.", "temperature": 1}, "engine_unsupported", "/params/temperature"),
    ],
)  # fmt: skip
def test_refused_at_the_door(up: Up, params: dict[str, Any], code: str, pointer: str) -> None:
    answer = post(up, params)
    assert (answer.status_code, answer.json()["code"], answer.json()["pointer"]) == (422, code, pointer), answer.text
    assert len(answer.text) < 5000, "the text is not sent back"


def test_a_voice_that_is_not_there_is_refused_at_the_door(up: Up) -> None:
    answer = post(up, {"text": "Hello.", "voice": "voi_01M7WNVGXTQCY39AZ0WQ47XNR7"}, engine="csm-1b")
    assert (answer.status_code, answer.json()["code"]) == (422, "voice_missing")


def test_a_megabyte_is_too_much(up: Up) -> None:
    answer = post(up, {"text": "a" * 1_000_001})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "text",
    [
        "<speak>Hello <break time='60s'/> there</speak>",
        "<|begin_of_text|>[1]Hello<|AUDIO|><|eot_id|>",
        "bell \a, escape \x1b[31m, turned \u202egpj.exe, nothing \ufeff.",
        "no punctuation at all " * 30,
        "x" * 500,
        "你好，世界。",
        "%s %n {{ 7 * 7 }} $(reboot)",
    ],
)
def test_any_text_is_spoken_as_it_stands(client: Client, text: str) -> None:
    job = client.speak(text).wait(60)
    (speech,) = [output for output in job.outputs if output["name"] == "speech"]
    assert 0.2 < speech["duration"] < 59, "markup is read, not obeyed"


def test_the_engines_tell_their_voices(client: Client) -> None:
    found = {engine["name"]: engine for engine in client.engines()}
    assert found["espeak"]["default"] and found["espeak"]["ready"]
    assert {"espeak:en-us", "espeak:de"} <= set(found["espeak"]["voices"])
    assert found["csm-1b"]["voices"][0] == "csm:0" and not found["csm-1b"]["ready"]
    assert found["rnnoise"]["voices"] == []


def test_many_at_once_do_not_disturb_each_other(client: Client) -> None:
    made: dict[int, float] = {}

    def speak(number: int) -> None:
        job = client.speak(f"This is number {number}. " * (number + 1)).wait(120)
        made[number] = next(output for output in job.outputs if output["name"] == "speech")["duration"]

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [0, 1, 2, 3]
    assert sorted(made.values()) == [made[number] for number in range(4)]
