"""The deployment files as tests read them: compose services, stages of the Dockerfile, Kubernetes manifests."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import SecretStr

from common.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
COMPOSE_GPU = DEPLOY / "compose.gpu.yaml"
PREFIX = "NIGHTSHIFT_"
OUR_IMAGES = ("nightshift:base", "nightshift:gpu")

# Read by `load` itself, before there are settings.
VARIABLES = frozenset({f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}SECRETS_DIR"})
SECRETS = frozenset(
    f"{PREFIX}{name.upper()}" for name, spec in Settings.model_fields.items() if SecretStr in get_args(spec.annotation)
)


def compose(path: Path = COMPOSE) -> dict[str, Any]:
    """A compose file, its anchors and merges resolved; variables of the shell are not."""
    read: dict[str, Any] = yaml.safe_load(path.read_text())
    return read


def ours(services: Mapping[str, Any]) -> dict[str, Any]:
    """The services that run our images."""
    return {name: service for name, service in services.items() if service.get("image") in OUR_IMAGES}


def interpolated(text: str) -> str:
    """As Compose does where the shell sets nothing: `${NAME:-default}` and `$$`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text).replace("$$", "$")


def seconds(duration: str) -> int:
    """Compose's `2m`, `1m30s`, `45s`."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found and duration, duration
    return 60 * int(found[1] or 0) + int(found[2] or 0)


@dataclass
class Stage:
    """One stage of the Dockerfile: the instructions in order, each a word and the rest of its line."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]


def stages(path: Path = DEPLOY / "Dockerfile") -> dict[str, Stage]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = found[name] = Stage(name, parent)
        elif current is not None:
            current.instructions.append((word, rest.strip()))
        else:
            assert word == "ARG", f"{word} before the first FROM"
    return found


def lineage(name: str) -> list[Stage]:
    """A stage after all those it is built on."""
    known = stages()
    stage = known[name]
    return [*(lineage(stage.parent) if stage.parent in known else []), stage]


def image_environment(target: str) -> dict[str, str]:
    return {
        key: value
        for stage in lineage(target)
        for rest in stage.all("ENV")
        for key, _, value in (word.partition("=") for word in shlex.split(rest))
    }


def copied(stage: Stage) -> list[tuple[list[str], str, str | None]]:
    """Its COPY instructions: sources, target, and the stage they come from."""
    found = []
    for rest in stage.all("COPY"):
        words = shlex.split(rest)
        origin = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
        *sources, target = [word for word in words if not word.startswith("--")]
        found.append((sources, target, origin))
    return found


def exec_form(text: str) -> list[str]:
    """A command in the form that no shell stands before. Fails on any other."""
    read = json.loads(text)
    assert isinstance(read, list) and all(isinstance(word, str) for word in read), text
    return read


def manifests(folder: str = "") -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every Kubernetes object of the files, kustomizations left out."""
    for path in sorted((DEPLOY / "kubernetes" / folder).rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for manifest in yaml.safe_load_all(path.read_text()):
                yield path, manifest


def pod(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod a Deployment or Job makes."""
    return manifest["spec"]["template"]["spec"] if manifest["kind"] in ("Deployment", "Job") else None


def containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]
