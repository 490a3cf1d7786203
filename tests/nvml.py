"""A machine with as many cards as a test wants."""

from __future__ import annotations

from types import SimpleNamespace


class NvmlFailure(Exception):
    pass


class FakeNvml:
    """Answers as `pynvml` does. broken: the call that raises."""

    NVMLError: type[Exception] = NvmlFailure

    def __init__(self, count: int, broken: str | None = None) -> None:
        self._count, self._broken = count, broken
        self.opened = 0

    def nvmlInit(self) -> None:
        self._fail("nvmlInit")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._fail("nvmlDeviceGetCount")
        return self._count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        assert self.opened == 1
        return 100 + index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        self._fail("nvmlDeviceGetUUID")
        return f"GPU-{handle - 100:04d}-aaaa"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._fail("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=(handle - 99) * 2**30)

    def _fail(self, call: str) -> None:
        if call == self._broken:
            raise NvmlFailure("Driver Not Loaded")
