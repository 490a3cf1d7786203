"""What `nightshift doctor` says of the language model of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import Settings
from nightshift.doctor import Finding, language_model
from tests import chat

KEY = "sk-0123456789abcdef"


def look(folder: Path, **members: object) -> list[Finding]:
    return list(language_model(Settings(home=folder, llm_api_key=KEY, **members)))  # type: ignore[arg-type]


def test_none_is_no_finding(tmp_path: Path) -> None:
    assert look(tmp_path) == []


def test_a_server_that_has_the_model_is_well(tmp_path: Path) -> None:
    with chat.served("x", models=["other", "tiny"]) as server:
        (found,) = look(tmp_path, llm_url=server.url + "/", llm_model="tiny")
    assert (found.level, found.says) == ("ok", f"tiny at {server.url}/")
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("models", "level", "says"), [(["other"], "warning", "It has: other."), ([], "warning", "It names none.")]
)
def test_a_server_without_the_model_is_told(tmp_path: Path, models: list[str], level: str, says: str) -> None:
    with chat.served("x", models=models) as server:
        (found,) = look(tmp_path, llm_url=server.url, llm_model="tiny")
    assert found.level == level and says in found.says and "NIGHTSHIFT_LLM_MODEL" in found.mend


def test_half_a_configuration_and_a_dead_server_are_problems(tmp_path: Path) -> None:
    with chat.served("x") as server:
        pass
    for members, says in (
        ({"llm_url": server.url}, "NIGHTSHIFT_LLM_MODEL"),
        ({"llm_model": "tiny"}, "NIGHTSHIFT_LLM_URL"),
        ({"llm_url": server.url, "llm_model": "tiny"}, server.url),
    ):
        (found,) = look(tmp_path, **members)
        assert found.level == "problem" and says in found.says and found.mend
