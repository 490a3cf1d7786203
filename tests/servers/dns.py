"""DNS as a test wants it, put in at the edge: `socket.getaddrinfo`."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest


class Names:
    """Answers for names; one answer after the other, the last one for good. What is not named here is not found.

    Addresses written out still go to the system, so that its reading of `0x7f.1` and the like is the real one.
    """

    def __init__(self) -> None:
        self._answers: dict[str, list[list[str]]] = {}
        self._system = socket.getaddrinfo
        self.lookups: list[str] = []
        self.hanging: threading.Event | None = None

    def set(self, name: str, *answers: list[str]) -> None:
        self._answers[name] = [*answers]

    def hang(self) -> threading.Event:
        """From now on no look-up comes back before the event is set."""
        self.hanging = threading.Event()
        return self.hanging

    def getaddrinfo(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        self.lookups.append(host)
        if self.hanging:
            self.hanging.wait(30)
        if host not in self._answers:
            return self._system(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        answers = self._answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names
