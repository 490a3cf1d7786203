"""Bad input end to end: each is refused with its code, at the submission where that can tell, else by the job."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from nightshift import ApiError, Client, JobEnded
from tests import media
from tests.e2e.conftest import MAX_DURATION_SECONDS, MAX_UPLOAD_BYTES, Up
from tests.servers.availability import unavailable
from tests.servers.processes import free_port
from tests.servers.receiver import Answer


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with up.client() as made:
        yield made


def refusal(client: Client, source: object, prompt: str = "speech", engine: str = "rnnoise") -> dict[str, Any]:
    """How a job was refused: its code, its hint, and whether at the submission or by the job."""
    try:
        job = client.separate(source, [prompt], engine=engine)  # type: ignore[arg-type]
    except ApiError as error:
        return {"stage": "submit", "status": error.status, **error.problem}
    with pytest.raises(JobEnded) as ended:
        job.wait(60)
    assert ended.value.state == "failed" and ended.value.error is not None
    return {"stage": "job", **ended.value.error}


def text_as_mp3(path: Path) -> None:
    path.write_text("Dear diary, this is no sound at all.\n" * 200)


def playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")


def not_numbers(path: Path) -> None:
    samples = media.signal(48_000, 1, 1.0)
    samples[0, 1000:1010] = np.nan
    media.write(path, samples, depth="float")


def zero_length(path: Path) -> None:
    media.write(path, np.zeros((1, 0), np.float32))


FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("text.mp3", text_as_mp3, "unsupported_media"),
    ("playlist.mp3", playlist, "unsupported_media"),
    ("playlist.m3u8", playlist, "unsupported_media"),
    ("nan.wav", not_numbers, "non_finite_samples"),
    ("zero.wav", zero_length, "no_samples"),
    ("no-channels.wav", lambda path: path.write_bytes(media.wav_header(0)), "corrupt_media"),
    ("64-channels.wav", lambda path: path.write_bytes(media.wav_header(64)), "too_many_channels"),
    ("long.wav", lambda path: media.make(path, 8000, 1, MAX_DURATION_SECONDS + 1.0), "too_long"),
    ("silent-video.mp4", lambda path: video_without_sound(path), "no_audio"),
]


def video_without_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))


@pytest.mark.parametrize(("name", "make", "code"), FILES, ids=[name for name, _, _ in FILES])
def test_a_file_that_cannot_be_separated(
    client: Client, tmp_path: Path, name: str, make: Callable[[Path], object], code: str
) -> None:
    make(tmp_path / name)
    found = refusal(client, tmp_path / name)
    assert (found["stage"], found["code"], found["retryable"]) == ("job", code, False), found
    assert found["message"]


def test_an_empty_file_is_refused_at_the_door(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    found = refusal(client, tmp_path / "empty.wav")
    assert (found["stage"], found["status"], found["code"]) == ("submit", 422, "empty_input")
    with pytest.raises(ApiError) as refused:
        client.upload(tmp_path / "empty.wav")
    assert refused.value.detail.startswith(str(tmp_path / "empty.wav")), "of many files, the one that is meant is named"


def test_a_truncated_mp3_is_processed_and_the_shortfall_told(up: Up, client: Client, tmp_path: Path) -> None:
    path = media.truncate(media.make(tmp_path / "cut.mp3", 44_100, 2, 8.0, "noise"), 0.5)
    job = client.separate(path, ["speech"]).wait(60)
    (warning,) = job.warnings
    assert warning["code"] == "shortfall" and "truncated or damaged" in warning["message"]
    seconds = {output["name"]: output["duration"] for output in job.outputs if output["role"] == "stem"}
    assert seconds["speech"] == seconds["residual"] and 3.0 < seconds["speech"] < 5.0
    assert "shortfall" in up.command("job", job.id, "--log").out


def test_over_the_size_limit_is_refused_before_it_is_read(up: Up, client: Client, tmp_path: Path) -> None:
    (tmp_path / "big.wav").write_bytes(bytes(MAX_UPLOAD_BYTES + 1))
    found = refusal(client, tmp_path / "big.wav")
    assert (found["stage"], found["status"], found["code"]) == ("submit", 413, "too_large")
    # The head alone is sent: an answer that waited for the body would never come.
    host, port = httpx.URL(up.url).host, httpx.URL(up.url).port
    with socket.create_connection((host, port), timeout=30) as line:
        head = [
            "POST /v1/uploads HTTP/1.1",
            f"Host: {host}:{port}",
            f"Authorization: Bearer {up.token}",
            "Content-Type: audio/wav",
            f"Content-Length: {MAX_UPLOAD_BYTES + 1}",
        ]
        line.sendall("\r\n".join([*head, "", ""]).encode())
        assert line.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_an_address_with_too_large_a_body_is_left_early(up: Up, client: Client) -> None:
    up.receiver.serve("/declared.wav", Answer(body=b"RIFF", declare=MAX_UPLOAD_BYTES + 1))
    assert refusal(client, up.receiver.url("/declared.wav"))["code"] == "too_large"
    up.receiver.serve("/endless.wav", Answer(body=bytes(65536), endless=True))
    found = refusal(client, up.receiver.url("/endless.wav"))
    assert (found["stage"], found["code"]) == ("job", "too_large")


def test_an_address_that_drips_for_ever(up: Up, client: Client) -> None:
    up.receiver.serve("/drip.wav", Answer(body=bytes(100_000), drip=0.2))
    found = refusal(client, up.receiver.url("/drip.wav"))
    assert (found["stage"], found["code"]) == ("job", "input_too_slow")


def test_an_unknown_engine_and_a_prompt_it_cannot_do(client: Client, episode: Path) -> None:
    upload = client.upload(episode)
    unknown = refusal(client, upload, engine="oracle")
    assert (unknown["stage"], unknown["code"], unknown["pointer"]) == ("submit", "unknown_engine", "/engine")
    assert "rnnoise" in unknown["hint"]
    drums = refusal(client, upload, "drums")
    assert (drums["stage"], drums["code"]) == ("submit", "engine_unsupported")
    assert drums["pointer"] == "/params/prompts/0/description"
    assert "It separates: speech." in drums["detail"] and "fast" in drums["hint"]


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/a.wav", "http://169.254.169.254/latest/meta-data/", "http://[::1]/a.wav", "http://localhost/a.wav",
     "http://0x7f.1/a.wav", "http://10.0.0.1/a.wav"],
)  # fmt: skip
def test_a_private_address_is_refused_at_the_door(client: Client, address: str) -> None:
    found = refusal(client, address)
    assert (found["stage"], found["status"], found["code"]) == ("submit", 422, "url_forbidden")


def leads_inside(name: str) -> bool:
    try:
        found = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(name, 80)}
    except (OSError, ValueError):
        return False
    return name != "localhost" and all(address.is_private for address in found)


@pytest.fixture(scope="module")
def private_name() -> str:
    """A name of this machine, in its own table of names, whose addresses are all private."""
    names = list(filter(leads_inside, (socket.gethostname(), "ip6-localhost", "ip6-loopback")))
    if not names:
        unavailable("A name with a private address", "neither the host's own nor ip6-localhost is one")
    return names[0]


def test_a_name_that_resolves_to_a_private_address(client: Client, private_name: str) -> None:
    found = refusal(client, f"http://{private_name}/a.wav")
    assert (found["stage"], found["code"]) == ("job", "url_forbidden")
    assert "127." not in found["message"], "it does not map the operator's network for the caller"


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:80/", "file:///etc/passwd"]
)
def test_a_redirect_to_a_private_address(up: Up, client: Client, target: str) -> None:
    up.receiver.serve("/moved.wav", Answer.redirect(target))
    found = refusal(client, up.receiver.url("/moved.wav"))
    assert (found["stage"], found["code"]) == ("job", "url_forbidden")


def test_an_address_that_does_not_answer(up: Up, client: Client) -> None:
    nothing = refusal(client, "http://no-such-host.invalid/a.wav")
    assert (nothing["stage"], nothing["code"]) == ("job", "input_unreachable")
    assert nothing["attempts"] == 2, "tried again, as it may pass"
    up.receiver.serve("/gone.wav", Answer(404))
    assert refusal(client, up.receiver.url("/gone.wav"))["code"] in ("input_refused", "input_missing")
    closed = refusal(client, f"http://127.0.0.1:{free_port()}/a.wav")
    assert (closed["stage"], closed["code"]) == ("submit", "url_forbidden")


def test_the_service_is_none_the_worse_for_it(client: Client, episode: Path) -> None:
    job = client.separate(episode, ["speech"]).wait(60)
    frames = soundfile.info(episode).frames
    assert {output["samples"] for output in job.outputs if output["role"] == "stem"} == {frames}
