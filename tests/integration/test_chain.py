"""Jobs that feed each other, submitted at once: separate, write down, speak."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("transformers")

from common import engines
from common.errors import NightshiftError
from common.params import TtsParams, parse_request
from common.states import State
from tests import media, whisper
from tests.house import House
from worker.engine import Work
from worker.media.speech import available
from worker.runner import Runner
from worker.tts.text import written

pytestmark = pytest.mark.skipif(not available(), reason="espeakng-loader is not installed")


@pytest.fixture
def house(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    whisper.write_weights(tmp_path / "models")
    made = House(
        tmp_path / "home", sqlite_url, models_dir=tmp_path / "models", extra_engines=("tests.whisper:TINY",)
    )  # fmt: skip
    monkeypatch.setitem(engines.REGISTRY, "whisper-tiny", engines.REGISTRY["whisper-tiny"])
    return made


def chain(house: House, upload: str) -> list[str]:
    """Ids of the three jobs, none of which has begun."""
    separate = house.submit("rnnoise", input={"upload": upload})
    said = {"job": separate.id, "output": "residual"}
    write = house.submit("whisper-tiny", kind="transcription", input=said, params={})
    speak = house.submit("espeak", kind="tts", input={"job": write.id, "output": "text"}, params={"speed": 1.5})
    assert [house.job(job.id).upstream for job in (separate, write, speak)] == [None, separate.id, write.id]
    return [separate.id, write.id, speak.id]


def test_a_recording_is_separated_written_down_and_spoken(house: House, runner: Runner, tmp_path: Path) -> None:
    ids = chain(house, house.upload(media.make(tmp_path / "talk.wav", 48_000, 1, 5.0, "noise")))
    while runner.run():
        pass
    ended = [house.job(job_id) for job_id in ids]
    assert [job.state for job in ended] == [State.SUCCEEDED] * 3, [job.error for job in ended]
    outputs = {output["name"]: output for output in ended[2].result["outputs"]}
    with house.store.open(outputs["captions.vtt"]["key"]) as stream:
        assert "Good evening." in stream.read().decode()
    with house.store.open(outputs["speech"]["key"]) as stream:
        samples, rate = soundfile.read(io.BytesIO(stream.read()))
    assert 1.0 < samples.size / rate < 5.0 and abs(samples).max() > 0.1


def test_a_failure_upstream_fails_all_that_follow_with_its_reason(house: House, runner: Runner, tmp_path: Path) -> None:
    broken = tmp_path / "talk.wav"
    broken.write_bytes(b"no recording at all")
    ids = chain(house, house.upload(broken))
    while runner.run():
        pass
    first, second, third = (house.job(job_id) for job_id in ids)
    assert first.state is State.FAILED and first.error["code"] == "unsupported_media"
    for job, cause in ((second, first), (third, second)):
        assert (job.state, job.error["code"]) == (State.FAILED, "upstream_failed")
        assert job.error["upstream"]["job"] == cause.id
    assert third.error["upstream"]["error"]["upstream"]["error"]["code"] == "unsupported_media"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\xfe\x00binary", "unsupported_media"),
        (b" \n...\n", "empty_input"),
        (b"word " * 50_000, "too_large"),
        (b"\xff" * 900_000, "too_large"),
    ],
)
def test_a_file_that_is_no_text_to_speak(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(NightshiftError) as caught:
        written(Work("job", TtsParams(), media.sources(path), tmp_path))
    assert (caught.value.code, caught.value.pointer) == (code, "/input")


def test_a_text_with_a_mark_of_its_order_is_spoken_without_it(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("Good\0evening, Élise.".encode("utf-8-sig"))
    params = written(Work("job", TtsParams(seed=7), media.sources(path), tmp_path))
    assert (params.text, params.seed) == ("Good evening, Élise.", 7)


def test_a_request_has_one_text() -> None:
    given = {"input": {"upload": "upl_1"}, "params": {"text": "Hello."}}
    for members in (given, {"params": {}}, {}):
        with pytest.raises(ValueError, match=r"params\.text or params\.script or input"):
            parse_request({"kind": "tts", **members})
