from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from common.errors import NightshiftError
from common.secret import signing_key
from common.settings import Settings


def test_the_setting_comes_first(tmp_path: Path) -> None:
    assert signing_key(Settings(home=tmp_path, secret_key="from the settings")) == "from the settings"
    assert not (tmp_path / "secret").exists()


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")
    made = signing_key(settings)
    assert len(made) >= 43 and signing_key(settings) == made
    assert (settings.home / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.home.iterdir()] == ["secret"], "no draft is left"


def _ask(home: Path) -> str:
    return signing_key(Settings(home=home))


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert len(set(pool.map(_ask, [tmp_path] * 64))) == 1


@pytest.mark.parametrize("content", ["", "short", "\xff\xfe"])
def test_a_file_that_holds_none_is_not_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content, "latin-1")
    with pytest.raises(NightshiftError) as caught:
        signing_key(Settings(home=tmp_path))
    assert caught.value.code == "unavailable" and caught.value.hint


def test_a_home_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(NightshiftError, match="secret"):
        signing_key(Settings(home=tmp_path / "home"))
