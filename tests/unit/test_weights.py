"""Weights from an address: whole or not at all, and a sentence where they cannot be had. A real server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.engines import REGISTRY, Weights
from common.errors import NightshiftError
from tests.servers.raw_http import RawServer
from worker.outcome import Cancel
from worker.weights import locate


@pytest.fixture
def server() -> Iterator[RawServer]:
    made = RawServer()
    yield made
    made.stop()


def weights(url: str) -> Weights:
    return Weights(folder="net", files=("net.pt",), url=url)


def test_a_file_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "net.pt").write_bytes(b"own")
    found = locate(weights("http://127.0.0.1:9/never"), tmp_path)
    assert found.read_bytes() == b"own"


def test_what_is_not_there_is_fetched_once(server: RawServer, tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000
    server.on("/net.pt", lambda request, line: line.answer(body))
    server.on("/", lambda request, line: line.answer(b"", 302, Location="/net.pt", Connection="close"))
    for _ in range(2):
        assert locate(weights(server.url("/")), tmp_path).read_bytes() == body
    assert server.paths() == ["/", "/net.pt"]
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["net.pt"]


def test_what_is_not_the_published_file_is_not_kept(server: RawServer, tmp_path: Path) -> None:
    url = server.on("/net.pt", lambda request, line: line.answer(b"another net"))
    published = replace(weights(url), sha256=sha256(b"the net").hexdigest())
    with pytest.raises(NightshiftError) as raised:
        locate(published, tmp_path)
    assert (raised.value.code, raised.value.retryable) == ("weights_invalid", False)
    assert sha256(b"another net").hexdigest() in raised.value.detail
    assert not list((tmp_path / "net").iterdir())
    server.on("/net.pt", lambda request, line: line.answer(b"the net"))
    assert locate(published, tmp_path).read_bytes() == b"the net"


def test_fetching_tells_how_far_it_is_and_can_be_stopped(server: RawServer, tmp_path: Path) -> None:
    body = bytes(5_000_000)
    url = server.on("/", lambda request, line: line.answer(body))
    told: list[tuple[int, int | None]] = []

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))
        if len(told) == 3:
            raise Cancel

    with pytest.raises(Cancel):
        locate(weights(url), tmp_path, tell)
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {len(body)}
    assert not list((tmp_path / "net").iterdir())


@pytest.mark.parametrize("trouble", ["absent", "cut", "refused"])
def test_what_cannot_be_fetched_is_said_with_where_to_put_it(server: RawServer, tmp_path: Path, trouble: str) -> None:
    if trouble == "absent":
        url = server.on("/", lambda request, line: line.answer(b"no", 404))
    elif trouble == "cut":
        url = server.on("/", lambda request, line: (line.head(Content_Length=100), line.send(b"half"))[1])
    else:
        url = server.url("/")
        server.stop()
    with pytest.raises(NightshiftError) as raised:
        locate(weights(url), tmp_path)
    assert (raised.value.code, raised.value.retryable) == ("weights_missing", True)
    assert url in raised.value.detail
    assert str(tmp_path / "net" / "net.pt") in raised.value.hint
    assert not list((tmp_path / "net").iterdir()), "half a file would be taken for a whole one"


def test_a_models_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(b"a file where the folder should be")
    with pytest.raises(NightshiftError) as raised:
        locate(weights("http://127.0.0.1:9/"), tmp_path)
    assert raised.value.code == "weights_missing"


def test_an_engine_whose_weights_lie_at_an_address_is_ready_without_them(tmp_path: Path) -> None:
    spec = REGISTRY["hdemucs"]
    assert spec.weights is not None
    assert spec.weights.url.startswith("https://")
    assert spec.weights.url.endswith("/" + spec.weights.files[0])
    if all(find_spec(package) for package in spec.packages):
        assert spec.missing(tmp_path) is None
    else:
        assert spec.missing(tmp_path) == (f"the package {spec.packages[0]} is not installed", spec.install)
