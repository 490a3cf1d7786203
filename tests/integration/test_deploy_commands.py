"""Every command of docker-compose.yml, run as a process: installed from the wheel that the image installs, with the
environment and the secrets that the file gives it, on a real PostgreSQL, a real S3 server, and the Redis of the file.

Only what an engine would provide is put in place of it: the names of the other services, and the paths inside.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.restarts import EX_CONFIG
from tests.deployment import (
    COMPOSE_GPU,
    DEPLOY,
    ROOT,
    compose,
    copied,
    image_environment,
    interpolated,
    ours,
    stages,
)
from tests.servers.availability import unavailable
from tests.servers.postgres import Databases
from tests.servers.processes import free_port
from tests.servers.swift import S3Server

SERVICES = compose()["services"]
LASTING = ("api", "scheduler", "deliverer", "worker", "flower")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel in it, built from the very files that the image's build sees.

    Its dependencies are those of the tests' environment; what that environment knows of the checkout it does not.
    """
    folder = tmp_path_factory.mktemp("image")
    source = folder / "build"
    for sources, _, origin in copied(stages()["wheel"]):
        assert origin is None
        for name in sources:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels", source]
    subprocess.run(build, check=True)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    # Its path alone: a .pth file does not read those of the folder it names, the checkout's among them.
    (inside / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = (folder / "wheels").glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--ignore-installed", wheel], check=True)
    where = subprocess.check_output([python, "-c", "import api; print(api.__file__)"], cwd=folder, text=True)
    assert Path(where.strip()).is_relative_to(inside)
    return python.parent


@dataclass
class Host:
    """This machine in the place of an engine. words: what services say, and what is meant by it here."""

    folder: Path
    programs: Path
    secrets: Path
    words: Mapping[str, str]

    def local(self, text: str) -> str:
        for word, here in self.words.items():
            text = text.replace(word, here)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """What the image and the file give a service, and nothing of ours but the way to its programs."""
        service = SERVICES[name]
        image = image_environment(service["build"]["target"]) if name in ours(SERVICES) else {}
        given = {**image, **service.get("environment", {})}
        translated = {variable: self.local(interpolated(value)) for variable, value in given.items()}
        return {
            **translated,
            "PATH": f"{self.programs}:/usr/local/bin:/usr/bin:/bin",
            **self._secrets_of(name, translated),
        }

    def _secrets_of(self, name: str, environment: Mapping[str, str]) -> dict[str, str]:
        folder = self.folder / f"secrets-{name}"
        folder.mkdir(exist_ok=True)
        for secret in SERVICES[name].get("secrets", ()):
            source = compose()["secrets"][secret]["file"].replace("deploy/secrets", str(self.secrets))
            shutil.copyfile(source, folder / secret)
        return {variable: str(folder) for variable, value in environment.items() if value == "/run/secrets"}

    def command(self, name: str, words: list[str]) -> list[str]:
        service = [self.local(interpolated(word)) for word in words]
        return [word.replace("/run/secrets", str(self.folder / f"secrets-{name}")) for word in service]

    def once(self, name: str, words: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a service's command, or another one in its place, to its end."""
        return subprocess.run(
            self.command(name, words or SERVICES[name]["command"]),
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def fault(self, name: str) -> str | None:
        """What the service's own health check says against it."""
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        done = self.once(name, words if kind == "CMD" else ["/bin/sh", "-c", *words])
        return (done.stderr or done.stdout or "no word") if done.returncode else None

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """A service that is well by its own health check; ended afterwards, whatever happened."""
        service = SERVICES[name]
        log = self.folder / f"{name}.log"
        with log.open("wb") as lines:
            process = subprocess.Popen(
                self.command(name, [*service.get("entrypoint", ()), *service["command"]]),
                env=self.environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._until_well(name, process, log)
            yield process
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _until_well(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + 90
        while why := self.fault(name):
            assert process.poll() is None, f"{name} ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{name} is not well: {why}\n{log.read_text()[-3000:]}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def host(
    programs: Path,
    postgres_databases: Databases,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Host]:
    """A host whose database has no schema yet and whose storage no bucket, with the Redis of the file running."""
    if not (shutil.which("redis-server") and shutil.which("redis-cli")):
        unavailable("Redis", "redis-server or redis-cli is not installed")
    folder = tmp_path_factory.mktemp("host")
    secrets = folder / "secrets"
    secrets.mkdir()
    redis = free_port()
    database = postgres_databases.create()
    # The operator's own values; make-secrets keeps them and makes the others.
    for name, value in {
        "nightshift_database_url": database,
        "redis_password": "pass-word",
        "nightshift_broker_url": f"redis://:pass-word@127.0.0.1:{redis}/0",
        "nightshift_s3_access_key": s3_server.access_key,
        "nightshift_s3_secret_key": s3_server.secret_key,
    }.items():
        (secrets / f"{name}.txt").write_text(value)
    subprocess.run([DEPLOY / "make-secrets", secrets], check=True, capture_output=True)
    words = {
        "http://s3:7070": s3_server.endpoint,
        "http://127.0.0.1:7070": s3_server.endpoint,
        "/var/lib/nightshift": str(folder / "home"),
        "/models": str(folder / "models"),
        "/tmp/redis.conf": str(folder / "redis.conf"),
        "exec redis-server": f"exec {shlex.quote(str(shutil.which('redis-server')))}",
        "--dir /tmp": f"--bind 127.0.0.1 --port {redis} --dir {shlex.quote(str(folder))}",
        "redis-cli ping": f"redis-cli -p {redis} ping",
        "8484": str(free_port()),
        "5555": str(free_port()),
        "0.0.0.0": "127.0.0.1",
    }
    here = Host(folder, programs, secrets, words)
    with here.running("redis"):
        yield here
    postgres_databases.drop(database)


@pytest.fixture(scope="module")
def prepared(host: Host) -> Host:
    """The host after the services that run once: the schema and the bucket are there."""
    for name in ("migrate", "bucket"):
        done = host.once(name)
        assert done.returncode == 0, done.stdout + done.stderr
    return host


def test_redis_wants_the_password(host: Host) -> None:
    port = host.words["redis-cli ping"].split()[2]
    asked = subprocess.run(["redis-cli", "-p", port, "ping"], capture_output=True, text=True, check=False)
    assert "NOAUTH" in asked.stdout + asked.stderr


@pytest.mark.parametrize("name", ["migrate", "bucket"])
def test_what_runs_once_may_run_again(prepared: Host, name: str) -> None:
    done = prepared.once(name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", LASTING)
def test_service_starts_is_well_and_stops_when_told(prepared: Host, name: str) -> None:
    assert prepared.fault(name) is not None, "the health check is content with nothing"
    with prepared.running(name) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (prepared.folder / f"{name}.log").read_text()[-3000:]
    assert prepared.fault(name) is not None


def test_first_key_is_made_inside_the_api_and_opens_it(prepared: Host) -> None:
    with prepared.running("api"):
        made = prepared.once("api", ["nightshift", "key", "create", "--local", "me", "--scope", "read"])
        assert made.returncode == 0, made.stderr
        url = f"http://127.0.0.1:{prepared.words['8484']}"
        request = urllib.request.Request(
            f"{url}/v1/keys/me", headers={"Authorization": f"Bearer {made.stdout.strip()}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        # Files that are no Python come with the wheel too.
        with urllib.request.urlopen(f"{url}/", timeout=10) as page:
            assert b"<html" in page.read().lower()


def test_worker_with_cards_says_that_there_is_none(prepared: Host) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a card")
    done = prepared.once("worker", compose(COMPOSE_GPU)["services"]["worker"]["command"])
    assert done.returncode == EX_CONFIG
    assert "No card" in done.stderr


def test_flower_without_a_password_does_not_start(prepared: Host) -> None:
    environment = prepared.environment("flower")
    (Path(environment["NIGHTSHIFT_SECRETS_DIR"]) / "nightshift_flower_basic_auth").write_text("")
    done = subprocess.run(
        prepared.command("flower", SERVICES["flower"]["command"]),
        env=environment,
        cwd=prepared.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EX_CONFIG
    assert "NIGHTSHIFT_FLOWER_BASIC_AUTH" in done.stderr
