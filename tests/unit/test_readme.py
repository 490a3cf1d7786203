"""README says what is so."""

from __future__ import annotations

from pathlib import Path

from common import engines, settings
from nightshift.cli import exits

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_setting_is_in_the_table_as_it_is() -> None:
    assert settings.table() in README


def test_every_engine_is_in_the_table() -> None:
    built_in = [name for name, spec in engines.REGISTRY.items() if spec.target.startswith("worker.")]
    assert built_in
    for name in built_in:
        assert any(f"`{name}`" in line for line in README.splitlines() if line.startswith("| `"))


def test_every_exit_status_is_in_the_table() -> None:
    statuses = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    for status in statuses:
        assert f"\n| {status} |" in README
