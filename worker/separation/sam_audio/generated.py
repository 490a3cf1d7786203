"""Checkpoints with generated weights: any size of the network, with nothing gated and nothing downloaded.

For tests, parity and measurements. Each tensor is drawn from a seed and its own name, so that an implementation
elsewhere can draw the same. What such a model separates means nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.separation.sam_audio.config import parse
from worker.separation.sam_audio.loading import Weights, build, layout

Layout = Mapping[str, Sequence[int]]

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"


def weight(seed: int, name: str, shape: Sequence[int]) -> Tensor:
    """One tensor, float32: scaled so that signals keep their size through the network, gates half open."""
    size = tuple(shape)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    drawn: np.ndarray = rng.standard_normal(size).astype(np.float32)
    leaf = name.rpartition(".")[2]
    if leaf == "gate":
        drawn = np.full(size, 0.5, np.float32)
    elif leaf == "weight_g":
        drawn = 0.6 + 0.1 * np.abs(drawn)
    elif leaf == "alpha" or (len(size) == 1 and not leaf.startswith("bias")):
        drawn = 1 + 0.1 * drawn
    elif leaf.startswith("bias"):
        drawn = 0.02 * drawn
    else:
        drawn = drawn / np.sqrt(np.prod(size[1:]) or 1)
    return torch.from_numpy(np.asarray(drawn, np.float32))


def weights(seed: int, shapes: Layout) -> Weights:
    """Generated weights of these names and shapes, each drawn when it is read."""
    return Weights(
        {name: tuple(shape) for name, shape in shapes.items()}, lambda name: weight(seed, name, shapes[name])
    )


def write_checkpoint(folder: Path, config: Mapping[str, Any], seed: int = 0) -> None:
    """Writes config.json, checkpoint.pt and, where its name is a relative one, the text encoder's folder.

    config: as an official config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    parsed = parse(config)
    shapes = layout(build(parsed))
    torch.save({name: weight(seed, name, shape) for name, shape in shapes.items()}, folder / "checkpoint.pt")
    if not Path(parsed.text_encoder.name).is_absolute():
        write_text_encoder(folder / parsed.text_encoder.name, parsed.text_encoder.dim, seed)


def write_text_encoder(folder: Path, dim: int, seed: int = 0) -> None:
    """Writes a T5 encoder of two layers, `dim` wide, that reads characters. dim: a multiple of four."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    characters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: index for index, token in enumerate([_PAD, _END, _UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, vocabulary[_END])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END, unk_token=_UNKNOWN, model_max_length=512
    ).save_pretrained(folder)
    model = T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary), d_model=dim, d_kv=dim // 4, d_ff=2 * dim, num_layers=2, num_heads=4,
            dropout_rate=0.0, pad_token_id=vocabulary[_PAD], eos_token_id=vocabulary[_END],
        )
    )  # fmt: skip
    drawn = {name: weight(seed, f"t5.{name}", tuple(value.shape)) for name, value in model.named_parameters()}
    model.load_state_dict(drawn, strict=False)
    model.save_pretrained(folder)
