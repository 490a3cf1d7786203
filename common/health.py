"""`python -m common.health ROLE`: whether this host's process of a role does its work. For containers' health checks.

Exit status 0: it does. 1: it does not, or it cannot be told; a sentence on standard error says why. What serves HTTP is
asked over HTTP; the others write into the database every few seconds, and are found there by the name of their host.
"""

from __future__ import annotations

import argparse
import socket
import sys
import urllib.error
import urllib.request

from sqlalchemy.exc import SQLAlchemyError

from common.db import processes
from common.db.engine import Database
from common.settings import Settings, load

SERVING = ("api", "flower")
WRITING = ("worker", "scheduler", "deliverer")
_TIMEOUT_SECONDS = 5.0
# Addresses to listen on that are none to connect to.
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


def fault(settings: Settings, role: str, host: str) -> str | None:
    """Why the process of `role` on `host` does not do its work, as a sentence; None where it does."""
    if role in SERVING:
        return _silence(_address(settings, role))
    return _absence(settings, role, host)


def _address(settings: Settings, role: str) -> str:
    at = _ANYWHERE.get(settings.host, f"[{settings.host}]" if ":" in settings.host else settings.host)
    if role == "api":
        return f"http://{at}:{settings.port}/readyz"
    return f"http://{at}:{settings.flower_port}/healthcheck"


def _silence(url: str) -> str | None:
    # Never through a proxy: it is this host that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers {error.code}: {error.read(1000).decode(errors='replace').strip()}"
    except OSError as error:
        return f"{url} does not answer: {error}"


def _absence(settings: Settings, role: str, host: str) -> str | None:
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as tx:
            known = [p for p in processes.list_all(tx, settings.alive_seconds, role) if p.host == host]
    except SQLAlchemyError as error:
        return f"The database does not answer ({type(error).__name__})."
    finally:
        database.dispose()
    if any(process.alive for process in known):
        return None
    if known:
        last = max(process.seen_at for process in known)
        return f"No {role} of {host} was seen since {last:%Y-%m-%d %H:%M:%S} UTC."
    return f"No {role} of {host} has said that it is there."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m common.health", description="Is it well? For health checks.")
    parser.add_argument("role", choices=(*SERVING, *WRITING))
    role = parser.parse_args(arguments).role
    found = fault(load(), role, socket.gethostname())
    if found:
        sys.stderr.write(f"{found}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
