"""Everything on one machine: API with web page, scheduler, deliverer and a worker, each a process, supervised."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from common.db import keys, migrate
from common.db.engine import Database
from common.db.keys import Scope
from common.settings import Settings
from common.supervise import Program, Supervisor
from nightshift.errors import NightshiftClientError
from nightshift.place import FILE, Place, find, leave

READY_SECONDS = 60.0


@dataclass(frozen=True)
class Stack:
    """What is to run. place: where callers find it.  home: where its files lie."""

    settings: Settings
    place: Place
    programs: tuple[Program, ...]

    @property
    def page(self) -> str:
        """The web page, with the key in the part of the address that browsers do not send."""
        return f"{self.place.url}/#key={self.place.api_key}"


def prepare(settings: Settings, *, cpus: int = 1) -> Stack:
    """Brings the database up to date, sees to a key for this user, and leaves both where callers look.

    Raises NightshiftClientError where the port is taken: whoever answers there is another one.
    """
    if settings.port:
        _see_to_port(settings.host, settings.port)
    home = settings.home
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrate.upgrade(settings.database)
    port = settings.port or _free_port(settings.host)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    place = Place(settings.public_url or f"http://{host}:{port}", _own_key(settings))
    leave(home, place)
    env = {"NIGHTSHIFT_HOME": str(home), "NIGHTSHIFT_PORT": str(port)}
    python = sys.executable
    return Stack(
        settings,
        place,
        (
            Program("api", [python, "-m", "api"], env, stage=0, grace_seconds=15),
            Program("scheduler", [python, "-m", "worker.scheduler"], env, stage=0),
            Program("deliverer", [python, "-m", "worker.deliver"], env, stage=0, grace_seconds=30),
            Program(
                "worker",
                [python, "-m", "worker", "--cpu", str(cpus)],
                env,
                stage=1,
                grace_seconds=settings.drain_seconds + 45,
            ),
        ),
    )


def run(stack: Stack, on_ready: Callable[[Stack], None]) -> int:
    """Keeps the stack running until Ctrl-C or SIGTERM; returns the exit status."""
    supervisor = Supervisor(stack.programs, prefix=True)

    def announce() -> None:
        if wait_until_ready(stack.place):
            on_ready(stack)

    threading.Thread(target=announce, name="announce", daemon=True).start()
    return supervisor.run()


def wait_until_ready(place: Place, seconds: float = READY_SECONDS, alive: Callable[[], bool] = lambda: True) -> bool:
    """Whether API, database and storage answer within the time, and a worker is there."""
    deadline = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {place.api_key}"}
    while time.monotonic() < deadline and alive():
        try:
            ready = httpx.get(f"{place.url}/readyz", timeout=5.0).status_code == 200
            workers = (
                httpx.get(f"{place.url}/v1/workers", headers=headers, timeout=5.0).json()["items"] if ready else []
            )
            if any(worker["alive"] for worker in workers):
                return True
        except (httpx.HTTPError, ValueError, KeyError):
            pass
        time.sleep(0.1)
    return False


def _own_key(settings: Settings) -> str:
    """The key that an earlier `up` left, where it is still good, else a new one."""
    database = Database(settings.database, pool_size=1)
    try:
        with database.write() as tx:
            try:
                kept = find(url="-", home=settings.home).api_key if (settings.home / FILE).exists() else None
            except NightshiftClientError:
                kept = None
            if kept is not None and keys.by_token(tx, kept) is not None:
                return kept
            return keys.create(tx, f"nightshift up on {socket.gethostname()}", list(Scope))[1]
    finally:
        database.dispose()


def _see_to_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server does: what is left of connections that have ended keeps nobody out.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NightshiftClientError(
                f"port {port} of {host} cannot be had ({error.strerror}); is Nightshift up already? --port 0 takes a "
                "free one"
            ) from error


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
