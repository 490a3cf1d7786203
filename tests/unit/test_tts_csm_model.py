"""CSM's own loop on a tiny network: equal to the published one, stoppable, and each row by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from common.errors import NightshiftError  # noqa: E402
from tests import csm  # noqa: E402
from worker.tts.csm.model import FRAME, Csm, Prompt, fingerprint  # noqa: E402

CPU = torch.device("cpu")
SUPPRESSED = [16, 17, 18]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return csm.write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Csm:
    return Csm.load(folder, CPU, torch.float32, "tiny")


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def prompt(
    model: Csm, text: str, cap: int = 12, seed: int = 0, heard: tuple[tuple[int, str, np.ndarray], ...] = ()
) -> Prompt:
    codes = [model.encode(samples) for _, _, samples in heard]
    turns = [(speaker, said, len(c)) for (speaker, said, _), c in zip(heard, codes, strict=True)]
    return Prompt(model.embed(model.tokens([*turns, (0, text, None)]), codes), cap, seed)


def spoken(model: Csm, *prompts: Prompt, temperature: float = 0.9) -> list[Any]:
    return csm.finish(model.generate(prompts, temperature, lambda: None))


def published(model: Csm, heard: tuple[tuple[int, str, np.ndarray], ...], text: str, frames: int) -> Any:
    """What the library's own loop gives, greedily."""
    conversation = [
        {"role": str(speaker), "content": [{"type": "text", "text": said}, {"type": "audio", "path": samples}]}
        for speaker, said, samples in heard
    ]
    conversation.append({"role": "0", "content": [{"type": "text", "text": text}]})
    inputs = model.processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
    return model.network.generate(
        **inputs, do_sample=False, depth_decoder_do_sample=False, max_new_tokens=frames, output_audio=False,
        suppress_tokens=SUPPRESSED, depth_decoder_suppress_tokens=SUPPRESSED,
    )[0]  # fmt: skip


HEARD = ((0, "My own words.", sound(30_000)), (1, "Another's.", sound(50_001, 1)))


def test_it_is_the_published_loop_alone_and_in_a_batch(model: Csm) -> None:
    first, second = published(model, HEARD, "Hello there", 12), published(model, (), "Hi", 9)
    one, two = spoken(model, prompt(model, "Hello there", 12, heard=HEARD), prompt(model, "Hi", 9), temperature=0)
    assert torch.equal(one.codes, first) and torch.equal(two.codes, second)
    assert len(np.unique(one.codes)) > 5, "a constant would prove nothing"


def test_a_row_is_the_same_whatever_is_spoken_beside_it(tmp_path: Path) -> None:
    # With four codes a row's end comes soon.
    model = Csm.load(csm.write(tmp_path, codes=4), CPU, torch.float32, "tiny")
    prompts = [prompt(model, f"Text number {i}" * (i + 1), 60, seed=i, heard=HEARD[: i % 3]) for i in range(6)]
    alone = [spoken(model, one, temperature=2)[0] for one in prompts]
    together = spoken(model, *prompts, temperature=2)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.codes, other.codes) and one.ended == other.ended
    assert len({len(one.codes) for one in alone}) > 1, "rows are to end at different frames"
    assert any(one.ended for one in alone), "and some by themselves"
    for one in alone:
        assert not (one.codes[:, :-1] == 0).all(dim=1).any(), "nothing of a row is kept from its end on"


def test_seeds_and_attempts_decide_what_is_drawn(model: Csm) -> None:
    def codes(seed: int, attempt: int) -> Any:
        made = prompt(model, "Hello", 20, seed)
        return spoken(model, Prompt(made.embeddings, 20, seed, attempt))[0].codes.tolist()

    assert codes(1, 0) == codes(1, 0)
    assert codes(1, 0) != codes(2, 0) and codes(1, 0) != codes(1, 1)


def test_drawing_leaves_nothing_behind(model: Csm) -> None:
    made = prompt(model, "Hello", 15)
    greedy = spoken(model, made, temperature=0)[0].codes
    spoken(model, made, temperature=1.9)
    assert torch.equal(spoken(model, made, temperature=0)[0].codes, greedy)


def test_codes_without_an_entry_in_the_codec_are_never_drawn(folder: Path) -> None:
    model = Csm.load(folder, CPU, torch.float32, "tiny")
    # As it is, a third of the first codes would be among them.
    model.network.lm_head.weight[16:] *= 10
    model.network.depth_decoder.codebooks_head.weight[..., 16:] *= 10
    (made,) = spoken(model, prompt(model, "Hello", 40))
    assert made.codes.max() < 16 and np.isfinite(model.decode(made.codes)).all()


def test_an_end_on_the_first_frame_is_no_sound(folder: Path) -> None:
    model = Csm.load(folder, CPU, torch.float32, "tiny")
    model.network.lm_head.weight.zero_()
    model.network.depth_decoder.codebooks_head.weight.zero_()
    (made,) = spoken(model, prompt(model, "Hello", 40), temperature=0)
    assert made.ended and made.codes.shape == (0, 4)
    assert model.decode(made.codes).shape == (0,)


def test_a_frame_is_1920_samples(model: Csm) -> None:
    assert model.encode(sound(10 * FRAME)).shape == (10, 4)
    assert model.encode(sound(10 * FRAME + 1)).shape == (11, 4), "begun frames count"
    assert model.decode(model.encode(sound(10 * FRAME))).shape == (10 * FRAME,)


def test_the_cap_and_the_positions_hold(model: Csm) -> None:
    (made,) = spoken(model, prompt(model, "Hello", 3), temperature=0)
    assert len(made.codes) == 3 and not made.ended
    with pytest.raises(ValueError, match="2048 positions"):
        spoken(model, prompt(model, "Hello", 2048))


def test_a_check_that_raises_ends_it_within_a_frame(model: Csm) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Stop

    steps = model.generate([prompt(model, "Hello", 300)], 0.0, check)
    with pytest.raises(Stop):
        csm.finish(steps)
    assert asked == 4


def test_progress_is_told_on_the_way(model: Csm) -> None:
    told = list(model.generate([prompt(model, "Hello", 50)], 0.0, lambda: None))
    assert len(told) >= 1 and told == sorted(told) and 0 < told[0] < 1


def test_in_bfloat16_the_codec_stays_in_float32(folder: Path) -> None:
    model = Csm.load(folder, CPU, torch.bfloat16, "tiny")
    assert model.network.dtype is torch.bfloat16
    assert {parameter.dtype for parameter in model.network.codec_model.parameters()} == {torch.float32}
    (made,) = spoken(model, prompt(model, "Hello", 10, heard=HEARD))
    waves = model.decode(made.codes)
    assert waves.dtype == np.float32 and waves.size == len(made.codes) * FRAME and np.isfinite(waves).all()


# --- Loading ----------------------------------------------------------------------------------------------------------


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_one_more(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.bias": torch.zeros(19)}, folder / "model.safetensors", {"format": "pt"})


def of_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.zeros(19, 8)}, folder / "model.safetensors", {"format": "pt"})


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def of_another_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def with_other_marks(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "audio_token_id": 5}))


def without_a_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (without_a_tensor, "missing: lm_head.weight"),
        (with_one_more, "unexpected: lm_head.bias"),
        (of_another_shape, "lm_head"),
        (truncated, "does not hold a CSM checkpoint"),
        (of_another_model, "'bert', not csm"),
        (with_other_marks, "tokenizer"),
        (without_a_template, "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "CSM checkpoint"),
        (lambda folder: (folder / "config.json").write_text("{"), "no config of a CSM"),
    ],
    ids=["missing", "unexpected", "shape", "truncated", "model", "marks", "template", "no-tokenizer", "no-json"],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    folder: Path, tmp_path: Path, harm: Callable[[Path], object], says: str
) -> None:
    damaged = tmp_path / "csm"
    shutil.copytree(folder, damaged)
    harm(damaged)
    with pytest.raises(NightshiftError) as refused:
        Csm.load(damaged, CPU, torch.float32, "tiny")
    assert refused.value.code == "weights_invalid" and says in refused.value.detail, refused.value.detail


def test_another_checkpoint_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "same")
    assert fingerprint(tmp_path / "same") == fingerprint(folder)
    csm.write(tmp_path, seed=1)
    assert fingerprint(tmp_path / csm.NAME) != fingerprint(folder)
