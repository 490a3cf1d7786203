"""Prints what the project depends on, one requirement a line: `requirements.py pyproject.toml [EXTRA …]`.

An image that installs the dependencies before it copies the code keeps their layer while only the code changes.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The base and the named extras, in the file's order. Raises KeyError for an extra that there is not."""
    project = tomllib.loads(pyproject.read_text())["project"]
    named = [requirement for extra in extras for requirement in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *named]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])) + "\n")
