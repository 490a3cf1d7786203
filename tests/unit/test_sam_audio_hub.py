"""Weights from a folder or a hub: a real HTTP server on loopback plays the hub."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from common.engines import Weights
from common.errors import NightshiftError

pytest.importorskip("huggingface_hub")

from worker.separation.sam_audio.hub import locate

FILES = {"config.json": b"{}", "checkpoint.pt": b"weights" * 1000}
COMMIT = "0" * 40
WEIGHTS = Weights(
    "sam-audio-base", tuple(FILES), "facebook/sam-audio-base", gated=True, licence_url="https://licence.example/page"
)


class Hub(BaseHTTPRequestHandler):
    token: ClassVar[str] = "good"
    files: ClassVar[dict[str, bytes]] = FILES
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        self.asked.append(self.path)
        given = self.headers.get("Authorization")
        if "sam-audio-base" not in self.path:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if given is None:
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"}, body)
        if given == "Bearer wrong":
            return self._send(401, b"", {}, body)
        if given != f"Bearer {self.token}":
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        content = self.files.get(self.path.rpartition("/")[2])
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        return self._send(200, content, {"ETag": '"abc"', "X-Repo-Commit": COMMIT}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_folder_that_is_there_asks_nobody(tmp_path: Path, hub: str) -> None:
    folder = tmp_path / "sam-audio-base"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    assert locate(WEIGHTS, tmp_path, None, hub) == folder
    assert not Hub.asked


def test_what_is_missing_is_fetched_once(tmp_path: Path, hub: str) -> None:
    folder = locate(WEIGHTS, tmp_path, "good", hub)
    assert folder == tmp_path / "sam-audio-base"
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    Hub.asked.clear()
    locate(WEIGHTS, tmp_path, "good", hub)
    assert not Hub.asked


@pytest.mark.parametrize(
    ("token", "says"), [(None, "A token is needed"), ("stranger", "may not read"), ("wrong", "may not")]
)
def test_a_gated_refusal_names_the_licence_page(tmp_path: Path, hub: str, token: str | None, says: str) -> None:
    with pytest.raises(NightshiftError) as refused:
        locate(WEIGHTS, tmp_path, token, hub)
    assert refused.value.code == "weights_refused"
    assert says in refused.value.detail
    assert "https://licence.example/page" in refused.value.hint and "NIGHTSHIFT_HF_TOKEN" in refused.value.hint
    assert token is None or token not in f"{refused.value.detail}{refused.value.hint}"


def test_a_repository_that_does_not_exist_is_missing(tmp_path: Path, hub: str) -> None:
    with pytest.raises(NightshiftError, match="no repository") as refused:
        locate(Weights("x", ("config.json",), "facebook/none"), tmp_path, "good", hub)
    assert refused.value.code == "weights_missing"


def test_a_repository_without_the_files_is_said_so(tmp_path: Path, hub: str) -> None:
    with pytest.raises(NightshiftError, match=r"lacks other\.pt") as refused:
        locate(Weights("y", ("config.json", "other.pt"), WEIGHTS.repository), tmp_path, "good", hub)
    assert refused.value.code == "weights_missing"


def test_a_hub_out_of_reach_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # The hub's library waits between its own tries.
    with pytest.raises(NightshiftError) as refused:
        locate(WEIGHTS, tmp_path, "good", "http://127.0.0.1:9")
    assert refused.value.code == "weights_missing" and refused.value.retryable
    assert str(tmp_path / "sam-audio-base") in refused.value.hint


def test_a_folder_without_a_repository_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match=r"lacks config\.json, checkpoint\.pt") as refused:
        locate(Weights("z", tuple(FILES), licence_url="https://licence.example/page"), tmp_path)
    assert refused.value.code == "weights_missing" and "licence.example" in refused.value.hint
