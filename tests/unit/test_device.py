"""Where torch engines compute, and what they say where they cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from common.engines import REGISTRY  # noqa: E402
from common.errors import NightshiftError  # noqa: E402
from worker import compose, device  # noqa: E402
from worker.engine import Host  # noqa: E402

CPU = Host("cpu", Path("/nowhere"))


def test_an_engine_made_for_a_card_runs_on_a_cpu_only_when_told_so() -> None:
    with pytest.raises(NightshiftError) as raised:
        device.choose(CPU, "big")
    assert raised.value.code == "device_missing"
    assert "NIGHTSHIFT_MODELS_ON_CPU=1" in raised.value.hint
    assert device.choose(replace(CPU, models_on_cpu=True), "big") == torch.device("cpu")


def test_a_card_that_is_not_there_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.choose(Host("cuda:0", Path("/nowhere")), "big") == torch.device("cuda:0")
    with pytest.raises(NightshiftError) as raised:
        device.choose(Host("cuda:1", Path("/nowhere")), "big")
    assert raised.value.code == "device_missing"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NightshiftError, match="sees 0 cards"):
        device.choose(Host("cuda:0", Path("/nowhere"), models_on_cpu=True), "big")


@pytest.mark.parametrize(
    ("told", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_matrices_are_short_where_the_cpu_has_units_for_them(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert device.matrix_dtype(torch.device("cpu")) == dtype
    assert device.matrix_dtype(torch.device("cuda:0")) == torch.bfloat16


def test_an_older_torch_does_not_tell_what_a_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert device.matrix_dtype(torch.device("cpu")) == torch.float32


def test_workers_tell_whether_they_can_run_what_is_made_for_a_card() -> None:
    spec = REGISTRY["hdemucs"]
    told = compose.readiness(spec, CPU)
    assert not told["ready"]
    assert "card" in str(told["missing"])
    assert "NIGHTSHIFT_MODELS_ON_CPU=1" in str(told["hint"])
    assert compose.readiness(spec, replace(CPU, models_on_cpu=True)) == {"ready": True}
    assert compose.readiness(spec, Host("cuda:0", Path("/nowhere"))) == {"ready": True}
    absent = replace(spec, packages=("torch", "no_such_package"))
    told = compose.readiness(absent, replace(CPU, models_on_cpu=True))
    assert told == {
        "ready": False,
        "missing": "the package no_such_package is not installed",
        "hint": "pip install 'nightshift[models]'",
    }


def test_the_size_of_a_network_is_that_of_its_tensors() -> None:
    assert device.size(nn.Linear(10, 5)) == 4 * (50 + 5)
    assert device.size(nn.BatchNorm1d(3).half()) == 2 * 4 * 3 + 8


def test_weights_that_do_not_fit_a_card_are_an_error_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(nn.Linear):
        def to(self, where: object) -> object:  # type: ignore[override]
            if where != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self

    there = device.Memory(1, 2)
    monkeypatch.setattr(device, "memory", lambda _: there)
    monkeypatch.setattr(device, "name", lambda device: "Card")
    monkeypatch.setattr(device, "release", lambda device: None)
    with pytest.raises(NightshiftError) as raised:
        device.move(Large(10, 10), torch.device("cuda:0"), "big")
    assert raised.value.code == "gpu_oom"
    assert raised.value.extra == {"bytes_needed": 440, "bytes_free": 1, "bytes_total": 2}


def test_every_layer_asks_whether_to_go_on() -> None:
    class Cancelled(Exception):
        pass

    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Cancelled

    with device.interruptible(network, check):
        network(torch.zeros(1, 2))
    assert asked == 3
    network(torch.zeros(1, 2))
    assert asked == 3, "the hooks are gone"
    with pytest.raises(Cancelled), device.interruptible(network, check):
        network(torch.zeros(1, 2))
    network(torch.zeros(1, 2))
    assert asked == 5
