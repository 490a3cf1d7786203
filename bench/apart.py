"""Work in a process of its own: its memory is its own, and its end gives all of it back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

import psutil

from bench.peak import peak_mb

P = ParamSpec("P")
R = TypeVar("R")


def apart(work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """What a function of a module gives in a fresh interpreter; raises what it raises there.

    Raises `concurrent.futures.process.BrokenProcessPool` where the process dies, as for want of memory.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def own_peak_mb() -> float:
    """The highest resident memory of this process since it began, MB (the kernel's VmHWM, getrusage's ru_maxrss)."""
    return peak_mb(psutil.Process())
