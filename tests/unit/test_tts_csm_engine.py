"""The engine `csm-1b` where something is missing, and how it leaves the memory it took."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from common import engines  # noqa: E402
from common.engines import REGISTRY, lookup  # noqa: E402
from common.errors import NightshiftError  # noqa: E402
from tests import csm  # noqa: E402
from worker.card import load  # noqa: E402
from worker.engine import Host  # noqa: E402
from worker.tts.csm.engine import Csm1b, CsmEngine  # noqa: E402
from worker.tts.pipeline import SpeechEngine  # noqa: E402


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    csm.write(tmp_path)
    monkeypatch.setitem(engines.REGISTRY, csm.NAME, csm.TINY)
    return Host("cpu", tmp_path, models_on_cpu=True)


def test_without_a_card_it_is_refused_unless_the_operator_allows_it(tiny: Host) -> None:
    with pytest.raises(NightshiftError) as refused:
        load(csm.TINY, Host("cpu", tiny.models))
    assert refused.value.code == "device_missing" and "NIGHTSHIFT_MODELS_ON_CPU" in refused.value.hint
    engine = load(csm.TINY, tiny)
    assert isinstance(engine, SpeechEngine) and engine.name == csm.NAME


def test_without_weights_and_token_it_says_where_to_accept_the_licence(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError) as refused:
        load(REGISTRY["csm-1b"], Host("cpu", tmp_path, models_on_cpu=True))
    assert refused.value.code == "engine_not_ready"
    assert "https://huggingface.co/sesame/csm-1b" in refused.value.hint and "NIGHTSHIFT_HF_TOKEN" in refused.value.hint


def test_the_registered_class_is_the_one_that_is_loaded() -> None:
    spec = lookup("csm-1b")
    assert spec.target == f"{Csm1b.__module__}:{Csm1b.__name__}" and Csm1b.registered == spec.name
    assert issubclass(Csm1b, CsmEngine)


def test_its_version_tells_weights_and_precision_apart(tiny: Host, tmp_path: Path) -> None:
    from worker.tts.csm.engine import synthesizer

    first = load(csm.TINY, tiny).version
    assert load(csm.TINY, tiny).version == first
    half = synthesizer(csm.NAME, tiny.models / csm.NAME, tiny, torch.bfloat16)
    assert SpeechEngine(half).version != first
    other = csm.write(tmp_path / "other", seed=1)
    assert SpeechEngine(synthesizer(csm.NAME, other, tiny)).version != first


def test_closing_it_frees_the_memory_it_told_of(tiny: Host) -> None:
    engine = load(csm.TINY, tiny)
    network = engine.synthesizer.model.network  # type: ignore[attr-defined]
    assert engine.memory_bytes() >= sum(p.numel() * p.element_size() for p in network.parameters()) > 200_000
    engine.close()
    assert all(parameter.device.type == "meta" for parameter in network.parameters())
