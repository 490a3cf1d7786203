"""Checkpoints: every tensor has its place, or its name is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import NightshiftError
from tests.sam_audio import GOLDEN, relative, tiny, tiny_config, tiny_folder, torch
from worker.separation.sam_audio import config as configuration
from worker.separation.sam_audio import generated, loading
from worker.separation.sam_audio.loading import SKIPPED, assemble, build, check, layout, open_checkpoint
from worker.separation.sam_audio.model import SamAudio

__all__ = ["tiny", "tiny_folder"]


def listed(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official checkpoint."""
    rows = json.loads((GOLDEN / size / "state_dict.json").read_text())
    return {name: tuple(shape) for name, shape, _ in rows}


CONFIGS = {
    "tiny": configuration.read(GOLDEN / "tiny"),
    "base": configuration.parse({"span_predictor": "pe-a-frame-large"}),
}


@pytest.mark.parametrize("size", CONFIGS)
def test_the_official_checkpoint_has_exactly_the_tensors_of_the_network(size: str) -> None:
    network = build(CONFIGS[size])
    assert all(parameter.is_meta for parameter in network.parameters())
    check(layout(network), listed(size))
    used = {name: shape for name, shape in listed(size).items() if not name.startswith(SKIPPED)}
    assert layout(network) == used
    assert {name.split(".")[0] for name in set(listed(size)) - set(used)} == {"vision_encoder"}


def test_base_is_as_large_as_it_should_be() -> None:
    shapes = layout(build(CONFIGS["base"]))
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(1_260e6, rel=0.001)


TINY = layout(build(CONFIGS["tiny"]))
names = st.sampled_from(sorted(TINY))


@given(names)
def test_a_missing_tensor_is_named(name: str) -> None:
    given = {key: shape for key, shape in listed("tiny").items() if key != name}
    with pytest.raises(NightshiftError, match="weights_invalid") as refused:
        check(TINY, given)
    assert f"{name} is missing" in refused.value.detail


@given(names, st.sampled_from(["x", ".weight", "_", ".0"]))
def test_a_renamed_tensor_is_named_both_ways(name: str, suffix: str) -> None:
    given = {key + suffix if key == name else key: shape for key, shape in listed("tiny").items()}
    with pytest.raises(NightshiftError) as refused:
        check(TINY, given)
    assert f"{name} is missing" in refused.value.detail
    assert f"{name}{suffix} is unexpected" in refused.value.detail


@given(st.sampled_from(["extra", "vision", "text_encoder.shared.weight", "span_predictor.x", "proj.weight2"]))
def test_an_added_tensor_is_named(name: str) -> None:
    with pytest.raises(NightshiftError) as refused:
        check(TINY, {**listed("tiny"), name: (1,)})
    assert f"{name} is unexpected" in refused.value.detail


@given(names, st.integers(0, 3))
def test_a_misshapen_tensor_is_named(name: str, axis: int) -> None:
    shape = list(TINY[name])
    shape[axis % len(shape)] += 1
    with pytest.raises(NightshiftError) as refused:
        check(TINY, {**listed("tiny"), name: tuple(shape)})
    assert f"{name} is {shape} instead of {list(TINY[name])}" in refused.value.detail


def test_many_differences_are_counted() -> None:
    with pytest.raises(NightshiftError) as refused:
        check(TINY, {})
    assert refused.value.extra == {"tensors": len(TINY)}
    assert f"and {len(TINY) - 20} more" in refused.value.detail


def test_visual_tensors_alone_are_skipped() -> None:
    assert SKIPPED == ("vision_encoder.",)
    check(TINY, {**TINY, "vision_encoder.anything": (3, 4)})


def part(name: str) -> str:
    """The part of the network that a tensor belongs to."""
    if name.startswith(("audio_codec.encoder.", "audio_codec.quantizer.in_proj.")):
        return "encoder"
    return "decoder" if name.startswith("audio_codec.") else "field"


def output(model: SamAudio, name: str) -> torch.Tensor:
    """What the part of the network that `name` belongs to computes."""
    generator = torch.Generator().manual_seed(1)
    match part(name):
        case "encoder":
            return model.encode(torch.randn(1, 1, 1920, generator=generator))
        case "decoder":
            return model.decode(torch.randn(1, 128, 1, generator=generator), torch.ones(1, 16))
    features = torch.randn(1, 3, 256, generator=generator)
    state = torch.randn(1, 3, 256, generator=generator)
    return model.velocity(state, 0.3, features, model.text(["dog"]), torch.tensor([[0, 1, 2]]))


def test_every_tensor_of_the_checkpoint_takes_part(tiny_folder: Path) -> None:
    """A tensor that changes must change an output; else it was loaded and forgotten."""
    model = SamAudio.load(tiny_folder)
    before = {part(name): output(model, name) for name, _ in model.network.named_parameters()}
    assert len(before) == 3
    ignored = []
    for name, parameter in model.network.named_parameters():
        kept = parameter.data.clone()
        parameter.data += torch.randn(kept.shape, generator=torch.Generator().manual_seed(2))
        model.network.settle()
        if relative(output(model, name), before[part(name)]) < 1e-6:
            ignored.append(name)
        parameter.data.copy_(kept)
    # It multiplies the zeros that stand for no video.
    assert ignored == ["align_masked_video.conv.weight"]
    model.network.settle()
    assert all(torch.equal(output(model, name), before[part(name)]) for name in ("proj", "audio_codec.decoder"))


def test_folded_weight_norm_is_the_weight_norm() -> None:
    from torch.nn.utils.parametrizations import weight_norm

    torch.manual_seed(0)
    for layer in (torch.nn.Conv1d(6, 10, 7), torch.nn.ConvTranspose1d(6, 10, 8, stride=4)):
        normed = weight_norm(layer)
        parts = normed.parametrizations.weight
        parts.original0.data.uniform_(0.5, 2.0)
        folded = loading._folded(parts.original0.data, parts.original1.data)
        assert relative(folded, normed.weight.data) < 1e-6


def test_gathered_heads_are_the_same_function(tiny: SamAudio) -> None:
    from worker.separation.sam_audio.transformer import Attention, Rotary

    torch.manual_seed(1)
    config = configuration.TransformerConfig(dim=48, n_heads=4, context_dim=48, max_positions=64)
    attention, rotary = Attention(config), Rotary(12, 64)
    x, memory = torch.randn(2, 9, 48), torch.randn(2, 5, 48)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None, :]
    with torch.inference_mode():
        published = attention(x, rotary=rotary), attention(x, memory, mask)
        attention.gather_heads()
        gathered = attention(x, rotary=rotary), attention(x, memory, mask)
        attention.gather_heads()
        again = attention(x, rotary=rotary)
    assert all(relative(a, b) < 1e-5 for a, b in zip(gathered, published, strict=True))
    assert torch.equal(again, gathered[0])
    assert all(layer.attention.gathered and layer.cross_attention.gathered for layer in tiny.network.transformer.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_dtype_that_was_asked_for(tiny_folder: Path, dtype: torch.dtype) -> None:
    config = configuration.read(tiny_folder)
    network = assemble(config, open_checkpoint(tiny_folder), dtype=dtype)
    assert network.transformer.layers[0].attention.wq.weight.dtype is dtype
    assert network.transformer.x_embedder.block.block1.project.weight.dtype is dtype
    assert network.transformer.y_embedder.projection.w1.weight.dtype is torch.float32
    assert {parameter.dtype for parameter in network.audio_codec.parameters()} == {torch.float32}
    assert network.transformer.norm.weight.dtype is torch.float32
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


def test_the_model_outlives_its_file(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_folder, folder)
    model = SamAudio.load(folder)
    before = output(model, "proj.weight")
    (folder / "checkpoint.pt").write_bytes(b"\0" * (folder / "checkpoint.pt").stat().st_size)
    assert torch.equal(output(model, "proj.weight"), before)


@pytest.mark.parametrize("absent", ["config.json", "checkpoint.pt", "t5"])
def test_what_a_folder_lacks_is_said(tiny_folder: Path, tmp_path: Path, absent: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_encoder"]["name"] = str(folder / "t5")
    (folder / "config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / absent) if absent == "t5" else (folder / absent).unlink()
    with pytest.raises(NightshiftError) as refused:
        SamAudio.load(folder)
    assert refused.value.code == "weights_missing"
    assert absent in refused.value.detail


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("kind", ["text", "truncated", "nested", "object", "list", "whole numbers"])
def test_a_file_that_is_no_checkpoint_is_refused(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    shutil.copy(tiny_folder / "config.json", tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = torch.load(tiny_folder / "checkpoint.pt", weights_only=True)
    match kind:
        case "text":
            path.write_text("<html>sign in</html>")
        case "truncated":
            path.write_bytes((tiny_folder / "checkpoint.pt").read_bytes()[:100_000])
        case "nested":
            torch.save({"state_dict": whole}, path)
        case "object":
            torch.save({"x": Harmful()}, path)
        case "list":
            torch.save(list(whole.values()), path)
        case "whole numbers":
            torch.save({**whole, "proj.bias": whole["proj.bias"].long()}, path)
    with pytest.raises(NightshiftError) as refused:
        assemble(configuration.read(tmp_path), open_checkpoint(tmp_path))
    assert refused.value.code == "weights_invalid"
    assert not Path("harmed").exists()


@settings(max_examples=20)
@given(names, st.integers(0, 2**32))
def test_generated_weights_depend_on_seed_and_name_alone(name: str, seed: int) -> None:
    shape = TINY[name] if torch.Size(TINY[name]).numel() < 100_000 else (3, 4)
    drawn = generated.weight(seed, name, shape)
    assert tuple(drawn.shape) == tuple(shape) and drawn.dtype is torch.float32
    assert torch.equal(drawn, generated.weight(seed, name, shape))
    if not name.endswith("gate"):
        assert not torch.equal(drawn, generated.weight(seed + 1, name, shape))


def test_a_text_encoder_of_another_width_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    generated.write_text_encoder(tmp_path / "wide", 64)
    with pytest.raises(NightshiftError, match="64 wide; the checkpoint wants 48"):
        SamAudio.load(tiny_folder, t5=tmp_path / "wide")


def test_a_text_encoder_that_lacks_a_tensor_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_folder / "t5", tmp_path / "t5")
    tensors = load_file(tmp_path / "t5" / "model.safetensors")
    lost = "encoder.block.1.layer.0.SelfAttention.q.weight"
    save_file({name: value for name, value in tensors.items() if name != lost}, tmp_path / "t5" / "model.safetensors")
    with pytest.raises(NightshiftError, match="weights_invalid") as refused:
        SamAudio.load(tiny_folder, t5=tmp_path / "t5")
    assert lost in refused.value.detail


def test_another_config_makes_another_network() -> None:
    smaller = build(configuration.parse(tiny_config(n_layers=1)))
    assert len(layout(smaller)) < len(TINY)
