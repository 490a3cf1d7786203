"""A real S3 server that enforces signatures, expiry and signed lengths: OpenStack Swift with its s3api middleware.

It runs from an environment of its own, `.venv-swift` (`make .venv-swift`), since it needs old packages. Four
processes: the proxy, which speaks S3, and one server each for accounts, containers and objects. Presigned POST does not
work on it.
"""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.availability import unavailable
from tests.servers.processes import ServerFailed, ServerProcess, free_port, listens

_VENV = Path(__file__).resolve().parents[2] / ".venv-swift"
_STORAGE = ("account", "container", "object")


@dataclass(frozen=True)
class S3Server:
    """Where a running S3 server is and how to sign for it; path-style addresses."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


def swift_programs() -> Path | None:
    """The folder of Swift's programs, None where it is not installed."""
    folder = Path(os.environ.get("TEST_SWIFT_VENV", _VENV)) / "bin"
    return folder if (folder / "swift-proxy-server").exists() else None


class Swift:
    """Swift in a folder on free ports: `start`, `stop`, `start` again with the same objects and address."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs = folder, programs
        self._ports = {name: free_port() for name in (*_STORAGE, "proxy")}
        self.server = S3Server(f"http://127.0.0.1:{self._ports['proxy']}", "test:tester", "testing")
        self._configure()
        self._processes = {
            name: ServerProcess([programs / f"swift-{name}-server", folder / f"{name}.conf"], folder / f"{name}.log")
            for name in self._ports
        }

    def start(self) -> None:
        """Starts the four servers and waits for them. Raises ServerFailed, with none left running."""
        with ExitStack() as undo:
            for name, process in self._processes.items():
                undo.callback(process.kill)
                process.start(lambda port=self._ports[name]: listens(port))
            undo.pop_all()

    def stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.stop(seconds=5)

    def _configure(self) -> None:
        for name in ("disks/d1", "cache"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._write(
            "swift.conf",
            {
                "swift-hash": {"swift_hash_path_prefix": "tests", "swift_hash_path_suffix": "tests"},
                "storage-policy:0": {"name": "default", "default": "yes"},
            },
        )
        for name in _STORAGE:
            self._write(f"{name}.conf", self._storage_server(name))
            self._make_ring(name)
        self._write("proxy.conf", self._proxy_server())

    def _common(self, name: str) -> dict[str, object]:
        return {
            "bind_ip": "127.0.0.1",
            "bind_port": self._ports[name],
            "workers": 0,
            "user": getpass.getuser(),
            "swift_dir": self._folder,
            "log_level": "WARNING",
        }

    def _storage_server(self, name: str) -> dict[str, dict[str, object]]:
        default = {
            "devices": self._folder / "disks",
            "mount_check": "false",
            "fallocate_reserve": 0,
            "recon_cache_path": self._folder / "cache",
        }
        # The server answers a PUT before the listing has the object where updating the listing takes longer than this;
        # then a busy machine would make tests of listings fail.
        patience = {"container_update_timeout": 30, "node_timeout": 30, "conn_timeout": 5}
        return {
            "DEFAULT": self._common(name) | default,
            "pipeline:main": {"pipeline": f"{name}-server"},
            f"app:{name}-server": {"use": f"egg:swift#{name}"} | patience,
        }

    def _proxy_server(self) -> dict[str, dict[str, object]]:
        pipeline = "catch_errors cache s3api tempauth slo dlo proxy-server"
        return {
            "DEFAULT": self._common("proxy"),
            "pipeline:main": {"pipeline": pipeline},
            "app:proxy-server": {
                "use": "egg:swift#proxy",
                "account_autocreate": "true",
                "allow_account_management": "true",
                "node_timeout": 30,
                "conn_timeout": 5,
            },
            "filter:catch_errors": {"use": "egg:swift#catch_errors"},
            # No memcached: an address where nothing listens.
            "filter:cache": {"use": "egg:swift#memcache", "memcache_servers": "127.0.0.1:1"},
            "filter:s3api": {
                "use": "egg:swift#s3api",
                "location": self.server.region,
                "s3_acl": "false",
                "dns_compliant_bucket_names": "true",
                "auth_pipeline_check": "true",
            },
            "filter:tempauth": {
                "use": "egg:swift#tempauth",
                f"user_{self.server.access_key.replace(':', '_')}": f"{self.server.secret_key} .admin",
            },
            "filter:slo": {"use": "egg:swift#slo"},
            "filter:dlo": {"use": "egg:swift#dlo"},
        }

    def _write(self, name: str, sections: dict[str, dict[str, object]]) -> None:
        lines = []
        for section, options in sections.items():
            lines += [f"[{section}]", *(f"{option} = {value}" for option, value in options.items()), ""]
        (self._folder / name).write_text("\n".join(lines))

    def _make_ring(self, name: str) -> None:
        builder = self._folder / f"{name}.builder"
        device = f"r1z1-127.0.0.1:{self._ports[name]}/d1"
        for arguments in (("create", "4", "1", "1"), ("add", device, "1"), ("rebalance",)):
            done = subprocess.run(
                [self._programs / "swift-ring-builder", builder, *arguments], capture_output=True, text=True
            )
            if done.returncode:
                raise ServerFailed(f"swift-ring-builder {arguments[0]}:\n{done.stdout}{done.stderr}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for the whole session; tests keep apart by buckets of their own."""
    programs = swift_programs()
    if programs is None:
        unavailable("Swift, the S3 server of the tests,", "it is not installed", "make .venv-swift")
    swift = Swift(tmp_path_factory.mktemp("swift"), programs)
    try:
        swift.start()
    except ServerFailed as error:
        unavailable("Swift, the S3 server of the tests,", str(error))
    try:
        yield swift.server
    finally:
        swift.stop()
