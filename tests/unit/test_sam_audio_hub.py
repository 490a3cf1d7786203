"""Weights from a folder or a hub: a real HTTP server on loopback plays the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.engines import REGISTRY, Weights
from common.errors import NightshiftError
from tests.servers.hub import Hub, hub

pytest.importorskip("huggingface_hub")

from worker.card import load
from worker.engine import Host
from worker.hub import locate

__all__ = ["hub"]

FILES = ("config.json", "checkpoint.pt")
WEIGHTS = Weights(
    "sam-audio-base", FILES, "facebook/sam-audio-base", gated=True, licence_url="https://licence.example/page"
)


def test_a_folder_that_is_there_asks_nobody(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "sam-audio-base"
    folder.mkdir()
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    assert locate(WEIGHTS, tmp_path, None, hub.url) == folder
    assert not hub.asked


def test_what_is_missing_is_fetched_once(tmp_path: Path, hub: Hub) -> None:
    folder = locate(WEIGHTS, tmp_path, "good", hub.url)
    assert folder == tmp_path / "sam-audio-base"
    assert {name: (folder / name).read_bytes() for name in FILES} == hub.files
    hub.asked.clear()
    locate(WEIGHTS, tmp_path, "good", hub.url)
    assert not hub.asked


def test_fetching_tells_its_bytes_and_can_be_stopped(tmp_path: Path, hub: Hub) -> None:
    told: list[tuple[int, int | None]] = []
    locate(WEIGHTS, tmp_path, "good", hub.url, lambda done, total: told.append((done, total)))
    assert told[-1] == (7000, 7000)

    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        raise Stop

    with pytest.raises(Stop):
        locate(WEIGHTS, tmp_path / "other", "good", hub.url, stop)
    assert not (tmp_path / "other" / "sam-audio-base" / "config.json").exists()


@pytest.mark.parametrize(
    ("token", "says"), [(None, "A token is needed"), ("stranger", "may not read"), ("wrong", "may not")]
)
def test_a_gated_refusal_names_the_licence_page(tmp_path: Path, hub: Hub, token: str | None, says: str) -> None:
    with pytest.raises(NightshiftError) as refused:
        locate(WEIGHTS, tmp_path, token, hub.url)
    assert refused.value.code == "weights_refused"
    assert says in refused.value.detail
    assert "https://licence.example/page" in refused.value.hint and "NIGHTSHIFT_HF_TOKEN" in refused.value.hint
    assert token is None or token not in f"{refused.value.detail}{refused.value.hint}"


def test_without_a_token_nobody_is_asked_and_the_way_to_one_is_told(tmp_path: Path, hub: Hub) -> None:
    spec = REGISTRY["sam-audio-base"]
    with pytest.raises(NightshiftError) as missing:
        load(spec, Host("cpu", tmp_path, models_on_cpu=True))
    assert missing.value.code == "engine_not_ready" and not missing.value.retryable
    assert "gated" in missing.value.detail and str(tmp_path / "sam-audio-base") in missing.value.detail
    assert "https://huggingface.co/facebook/sam-audio-base" in missing.value.hint
    assert "NIGHTSHIFT_HF_TOKEN" in missing.value.hint
    assert spec.missing(tmp_path, token=True) is None and not hub.asked


def test_a_repository_that_does_not_exist_is_missing(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(NightshiftError, match="no repository") as refused:
        locate(Weights("x", ("config.json",), "facebook/none"), tmp_path, "good", hub.url)
    assert refused.value.code == "weights_missing"


def test_a_repository_without_the_files_is_said_so(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(NightshiftError, match=r"lacks other\.pt") as refused:
        locate(Weights("y", ("config.json", "other.pt"), WEIGHTS.repository), tmp_path, "good", hub.url)
    assert refused.value.code == "weights_missing"


def test_a_hub_out_of_reach_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # The hub's library waits between its own tries.
    with pytest.raises(NightshiftError) as refused:
        locate(WEIGHTS, tmp_path, "good", "http://127.0.0.1:9")
    assert refused.value.code == "weights_missing" and refused.value.retryable
    assert str(tmp_path / "sam-audio-base") in refused.value.hint


def test_a_folder_without_a_repository_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match=r"lacks config\.json, checkpoint\.pt") as refused:
        locate(Weights("z", FILES, licence_url="https://licence.example/page"), tmp_path)
    assert refused.value.code == "weights_missing" and "licence.example" in refused.value.hint
