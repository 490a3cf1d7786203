"""The deployment files, as far as they can be judged without an engine: their schemas, and that they fit the code."""

from __future__ import annotations

import fnmatch
import importlib.resources
import json
import os
import runpy
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from sqlalchemy import make_url

from common.settings import Settings
from tests.deployment import (
    COMPOSE,
    COMPOSE_GPU,
    DEPLOY,
    ROOT,
    SECRETS,
    VARIABLES,
    compose,
    containers,
    copied,
    exec_form,
    image_environment,
    lineage,
    manifests,
    ours,
    pod,
    seconds,
    stages,
)
from worker.launcher import DRAIN_MARGIN_SECONDS

SERVICES = compose()["services"]
ONCE = {"migrate", "bucket", "s3-folder"}
LASTING = sorted(set(SERVICES) - ONCE)
DRAINING_SECONDS = Settings.model_fields["drain_seconds"].default + DRAIN_MARGIN_SECONDS
MANIFESTS = list(manifests())
PODS = [(manifest["metadata"]["name"], spec) for _, manifest in MANIFESTS if (spec := pod(manifest))]
WITH_POD = pytest.mark.parametrize(("name", "spec"), PODS, ids=[name for name, _ in PODS])


# --- Compose ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [COMPOSE, COMPOSE_GPU], ids=lambda path: path.name)
def test_compose_files_fit_the_specification(path: Path) -> None:
    vendored = importlib.resources.files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    jsonschema.Draft7Validator(json.loads(vendored.read_text())).validate(compose(path))


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "pid", "ipc", "devices"} & set(service)
    if name == "s3-folder":  # it gives a folder away, which root alone can do, and it reaches nobody
        assert service["network_mode"] == "none" and service["cap_add"] == ["CHOWN"]
        return
    assert "cap_add" not in service
    user = service.get("user") or (lineage(service["build"]["target"])[-1].all("USER") or ["root"])[-1]
    assert user.partition(":")[0] not in ("root", "0")


def test_no_port_is_open_to_other_machines() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_database_and_broker_have_no_way_out() -> None:
    networks = compose()["networks"]
    for name in ("postgres", "redis"):
        assert [networks[network] for network in SERVICES[name]["networks"]] == [{"internal": True}]


@pytest.mark.parametrize("name", LASTING)
def test_services_that_last_have_a_health_check_and_come_back(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert seconds(check["timeout"]) < seconds(check["interval"])
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            ends = how["condition"] == "service_completed_successfully"
            assert ends == (needed in ONCE), f"{name} waits for {needed}"
            assert ends or "test" in SERVICES[needed]["healthcheck"]
    assert set(SERVICES["api"]["depends_on"]) >= {"migrate", "bucket"}


@pytest.mark.parametrize("path", [COMPOSE, COMPOSE_GPU], ids=lambda path: path.name)
def test_environment_of_compose_names_settings_and_no_secret(path: Path) -> None:
    named = [
        name
        for service, content in compose(path)["services"].items()
        if SERVICES[service].get("image", "").startswith("nightshift")
        for name in content.get("environment", ())
    ]
    assert named
    assert set(named) <= VARIABLES
    assert not set(named) & SECRETS


def test_secrets_of_compose_are_settings_and_come_from_files() -> None:
    declared = {**compose()["secrets"], **compose(COMPOSE_GPU)["secrets"]}
    for name, source in declared.items():
        assert source == {"file": f"deploy/secrets/{name}.txt"}
    used: set[str] = set()
    for services in (SERVICES, compose(COMPOSE_GPU)["services"]):
        for name, service in services.items():
            used |= set(service.get("secrets", ()))
            if name in ours(SERVICES):
                assert {secret.upper() for secret in service.get("secrets", ())} <= SECRETS, name
    assert used == set(declared)


def test_each_service_gets_the_secrets_it_needs_and_no_other() -> None:
    assert SERVICES["flower"]["secrets"] == ["nightshift_broker_url", "nightshift_flower_basic_auth"]
    assert SERVICES["postgres"]["secrets"] == ["postgres_password"]
    assert SERVICES["redis"]["secrets"] == ["redis_password"]
    assert not any(secret.startswith("nightshift_flower") for secret in SERVICES["worker"]["secrets"])


def test_workers_have_the_time_to_give_their_jobs_back() -> None:
    worker = SERVICES["worker"]
    drain = float(worker["environment"]["NIGHTSHIFT_DRAIN_SECONDS"])
    assert seconds(worker["stop_grace_period"]) > drain + DRAIN_MARGIN_SECONDS
    assert (
        seconds(SERVICES["deliverer"]["stop_grace_period"]) > Settings.model_fields["callback_timeout_seconds"].default
    )


def test_overlay_changes_what_is_there_and_asks_for_every_card() -> None:
    overlay = compose(COMPOSE_GPU)
    assert set(overlay["services"]) <= set(SERVICES)
    worker = overlay["services"]["worker"]
    assert worker["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert worker["volumes"] == [f"models:{worker['environment']['NIGHTSHIFT_MODELS_DIR']}"]


# --- Secrets ---------------------------------------------------------------------------------------------------------


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    return {path.stem: path.read_text() for path in folder.glob("*.txt")}


def test_made_secrets_are_those_of_compose(tmp_path: Path) -> None:
    made = make_secrets(tmp_path / "secrets")
    assert set(made) == {*compose()["secrets"], *compose(COMPOSE_GPU)["secrets"]}
    others = make_secrets(tmp_path / "others")
    assert all(others[name] != value for name, value in made.items() if value)
    database, broker = make_url(made["nightshift_database_url"]), make_url(made["nightshift_broker_url"])
    assert (database.host, database.password) == ("postgres", made["postgres_password"])
    assert database.username == SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    assert database.database == SERVICES["postgres"]["environment"]["POSTGRES_DB"]
    assert (broker.host, broker.password) == ("redis", made["redis_password"])
    assert len(bytes.fromhex(made["nightshift_secret_key"])) == 48


def test_made_secrets_are_for_their_owner_and_for_containers_of_any_user(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o444}


def test_secrets_that_are_there_are_kept_and_used(tmp_path: Path) -> None:
    (tmp_path / "postgres_password.txt").write_text("my-own\n")
    first = make_secrets(tmp_path)
    assert first["postgres_password"] == "my-own\n"
    assert make_url(first["nightshift_database_url"]).password == "my-own"
    assert make_secrets(tmp_path) == first


def test_secrets_never_get_into_the_repository() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "deploy/secrets/nightshift_secret_key.txt"], cwd=ROOT, check=False
    )
    assert ignored.returncode == 0


# --- Images ----------------------------------------------------------------------------------------------------------


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file of the repository into the build; the last line that matches decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!").rstrip("/")
        parts = path.split("/")
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        tails = [path, *("/".join(parts[n:]) for n in range(1, len(parts)))]
        if pattern.startswith("**/"):
            hit = any(fnmatch.fnmatchcase(part, pattern[3:]) for tail in tails for part in (tail, tail.split("/")[0]))
        else:
            hit = any(head.count("/") == pattern.count("/") and fnmatch.fnmatchcase(head, pattern) for head in heads)
        if hit:
            verdict = line.startswith("!")
    return verdict


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("api/static/page.js", True),
        ("worker/media/decode.py", True),
        ("pyproject.toml", True),
        ("deploy/requirements.py", True),
        ("deploy/secrets/nightshift_secret_key.txt", False),
        ("docker-compose.yml", False),
        (".git/config", False),
        (".env", False),
        ("tests/conftest.py", False),
        ("api/__pycache__/x.cpython-311.pyc", False),
        ("nightshift.egg-info/PKG-INFO", False),
    ],
)
def test_build_sees_only_what_it_is_built_from(path: str, inside: bool) -> None:
    assert in_context(path) is inside


def test_copied_files_exist_and_are_let_in() -> None:
    known = stages()
    seen = 0
    for stage in known.values():
        for sources, _, origin in copied(stage):
            if origin is not None:
                assert origin in known, f"{stage.name} copies from {origin}"
                continue
            for source in sources:
                assert (ROOT / source).exists(), f"{stage.name} copies {source}"
                assert in_context(f"{source}/__init__.py" if (ROOT / source).is_dir() else source)
                seen += 1
    assert seen > 5


def test_dockerfile_has_nothing_that_hadolint_minds(tmp_path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "Dockerfile").write_text("FROM debian\nCMD python -m api\n")
    assert subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, check=False).returncode != 0


def test_wheel_is_built_from_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    sources = {source for copy in copied(stages()["wheel"]) for source in copy[0]}
    assert sources >= packages | {project["project"]["readme"], *project["project"]["license-files"]}


@pytest.mark.parametrize("target", ["base", "gpu"])
def test_images_run_as_somebody_and_hand_signals_to_python(target: str) -> None:
    instructions = [instruction for stage in lineage(target) for instruction in stage.instructions]
    words = [word for word, _ in instructions]
    users = [rest for word, rest in instructions if word == "USER"]
    assert users == ["10001:10001"]
    assert "RUN" not in words[words.index("USER") :]
    assert exec_form([rest for word, rest in instructions if word == "ENTRYPOINT"][-1]) == ["/usr/bin/tini", "--"]
    assert exec_form([rest for word, rest in instructions if word == "CMD"][-1])[:2] == ["python", "-m"]
    check = [rest for word, rest in instructions if word == "HEALTHCHECK"][-1]
    assert exec_form(check.partition(" CMD ")[2])[:3] == ["python", "-m", "common.health"]


def test_image_environment_names_settings_and_no_secret() -> None:
    for target in ("base", "gpu"):
        ours_ = {name for name in image_environment(target) if name.startswith("NIGHTSHIFT_")}
        assert "NIGHTSHIFT_HOME" in ours_
        assert ours_ <= VARIABLES - SECRETS


def test_only_the_image_for_cards_has_models() -> None:
    listed = runpy.run_path(str(DEPLOY / "requirements.py"))["requirements"]
    pyproject = ROOT / "pyproject.toml"
    base, models = listed(pyproject, ["flower"]), listed(pyproject, ["flower", "models"])
    assert not any(line.startswith(("torch", "transformers")) for line in base)
    assert any(line.startswith("torch>") for line in models) and set(models) > set(base)
    assert any(line.startswith("flower") for line in base)
    with pytest.raises(KeyError):
        listed(pyproject, ["no-such-extra"])
    commands = {name: " ".join(stage.all("RUN")) for name, stage in stages().items()}
    assert "requirements.py pyproject.toml flower > " in commands["dependencies"]
    assert "requirements.py pyproject.toml flower models > " in commands["models-dependencies"]


def test_images_of_compose_and_kubernetes_are_stages() -> None:
    built = {service["image"]: service["build"] for service in ours(SERVICES).values()}
    overlay = compose(COMPOSE_GPU)["services"]["worker"]
    built[overlay["image"]] = overlay["build"]
    for image, build in built.items():
        assert image == f"nightshift:{build['target']}" and build["target"] in stages()
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/base/kustomization.yaml").read_text())
    renamed = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in kustomization["images"]}
    assert set(renamed.values()) == set(built)
    assert {container["image"] for _, spec in PODS for container in containers(spec)} == set(renamed)


# --- Kubernetes ------------------------------------------------------------------------------------------------------

BUILT_IN = [(path, manifest) for path, manifest in MANIFESTS if "keda.sh" not in manifest["apiVersion"]]


@pytest.mark.parametrize(
    "manifest", [m for _, m in BUILT_IN], ids=[f"{m['kind']}-{m['metadata']['name']}" for _, m in BUILT_IN]
)
def test_manifests_fit_their_schemas(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_schema_of_manifests_can_be_missed() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"}, "spec": {"portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_kustomizations_name_every_file() -> None:
    for path in (DEPLOY / "kubernetes").glob("*/kustomization.yaml"):
        named = {(path.parent / name).resolve() for name in yaml.safe_load(path.read_text())["resources"]}
        assert all(name.exists() for name in named)
        files = {file.resolve() for file in path.parent.glob("*.yaml")}
        unnamed = {file.name for file in files - named}
        assert unnamed <= {"kustomization.yaml", "secret.example.yaml"}


@WITH_POD
def test_pods_are_confined(name: str, spec: dict[str, Any]) -> None:
    # A service called nightshift would otherwise set NIGHTSHIFT_PORT to tcp://…, which is no port.
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    for container in containers(spec):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"] and "cpu" in container["resources"]["requests"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts <= {volume["name"] for volume in spec["volumes"]} and {"secrets", "tmp"} <= mounts
        assert "command" not in container  # which would put tini out of its place


def test_pods_run_the_commands_of_compose() -> None:
    known = {tuple(service["command"]) for service in ours(SERVICES).values()}
    known.add(tuple(exec_form(stages()["gpu"].all("CMD")[-1])))
    assert {tuple(container["args"]) for _, spec in PODS for container in containers(spec)} <= known


def test_health_of_pods_is_asked_as_in_compose() -> None:
    checks = {tuple(s["healthcheck"]["test"][1:]) for s in ours(SERVICES).values() if "test" in s["healthcheck"]}
    probed = {
        tuple(probe["exec"]["command"])
        for _, spec in PODS
        for container in containers(spec)
        if "exec" in (probe := container.get("readinessProbe", {}))
    }
    assert len(probed) == 3 and probed <= checks


def test_settings_and_secrets_of_kubernetes_are_settings() -> None:
    settings = next(m for _, m in MANIFESTS if m["kind"] == "ConfigMap")
    secret = next(m for _, m in MANIFESTS if m["kind"] == "Secret")
    assert set(settings["data"]) <= VARIABLES - SECRETS
    assert {key.upper() for key in secret["stringData"]} <= SECRETS
    for _, spec in PODS:
        (mounted,) = (volume["secret"] for volume in spec["volumes"] if volume["name"] == "secrets")
        assert mounted["secretName"] == secret["metadata"]["name"]
        for container in containers(spec):
            assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
            (at,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "secrets")
            assert at == settings["data"]["NIGHTSHIFT_SECRETS_DIR"]


def test_worker_pods_have_the_time_to_give_their_jobs_back() -> None:
    settings = next(m for _, m in MANIFESTS if m["kind"] == "ConfigMap")
    drain = float(settings["data"]["NIGHTSHIFT_DRAIN_SECONDS"])
    workers = [spec for name, spec in PODS if name.startswith("worker")]
    assert len(workers) == 2
    for spec in workers:
        assert spec["terminationGracePeriodSeconds"] > drain + DRAIN_MARGIN_SECONDS
    assert {spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for spec in workers} == {None, 1}


def test_selectors_meet_their_pods() -> None:
    labels = {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["metadata"]["labels"].items()
        for _, manifest in MANIFESTS
        if pod(manifest)
    }
    for _, manifest in MANIFESTS:
        spec = manifest.get("spec", {})
        if manifest["kind"] in ("Deployment", "PodDisruptionBudget"):
            wanted = spec["selector"]["matchLabels"]
        elif manifest["kind"] == "Service":
            wanted = spec["selector"]
            ports = {p["name"] for _, s in PODS for c in containers(s) for p in c.get("ports", ())}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        else:
            continue
        assert wanted.items() <= labels[manifest["metadata"]["name"]]


def test_what_scales_is_there_and_reads_the_database() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for _, manifest in MANIFESTS:
        by_kind.setdefault(manifest["kind"], []).append(manifest)
    deployments = {manifest["metadata"]["name"] for manifest in by_kind["Deployment"]}
    secret = by_kind["Secret"][0]
    (reading,) = by_kind["TriggerAuthentication"]
    (reference,) = reading["spec"]["secretTargetRef"]
    assert reference["name"] == secret["metadata"]["name"] and reference["key"] in secret["stringData"]
    # KEDA knows nothing of SQLAlchemy's drivers.
    assert secret["stringData"][reference["key"]].startswith("postgresql://")
    assert len(by_kind["ScaledObject"]) == 2
    for scaled in by_kind["ScaledObject"]:
        assert scaled["spec"]["scaleTargetRef"]["name"] in deployments
        (trigger,) = scaled["spec"]["triggers"]
        assert trigger["authenticationRef"]["name"] == reading["metadata"]["name"]
        assert float(trigger["metadata"]["targetQueryValue"]) > 0


def test_make_secrets_can_be_run() -> None:
    assert os.access(DEPLOY / "make-secrets", os.X_OK)
