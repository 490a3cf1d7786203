"""The most memory that a process has had."""

from __future__ import annotations

from pathlib import Path

import psutil


def peak_mb(process: psutil.Process) -> float:
    """The highest resident memory since its beginning; where the kernel does not tell it, the present one."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0
