"""A tiny Whisper in a folder as the published ones have. Its weights are made so that it says the same lines in every
window of 30 seconds, whatever it hears; everything around the network is as ever."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from common.engines import REGISTRY, EngineSpec
from worker.transcription.engine import TranscriptionEngine

_LETTERS = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
# The 68 other bytes, as GPT-2's alphabet writes them; 0x20, the space, is the 33rd.
_OTHERS = [chr(256 + i) for i in range(68)]
_LANGUAGES = ("en", "de", "fr")
_STEPS = 1501


HEARD = "de"
"""The language it hears."""

LINES = ((0.0, 2.0, "Good evening."), (2.5, 4.5, "It rains, she says."))
"""Start and end, seconds of the window, and what is said."""


def write_weights(models: Path, name: str = "whisper-tiny", lines: Sequence[tuple[float, float, str]] = LINES) -> Path:
    """Three languages, and a token for every word of the lines; as wide as there is to say, 500 kB for a little."""
    positions = 16 * (1 + (8 + sum(len(re.findall(r"\w+|[^\w\s]", text)) + 2 for _, _, text in lines)) // 16)
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {letter: i for i, letter in enumerate([*_LETTERS, *_OTHERS])}
    merges: dict[tuple[str, str], None] = {}
    for word in (word for _, _, text in lines for word in _parts(text)):
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=list(merges))
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in _LANGUAGES)]
    special += [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([_instant(i * 0.02) for i in range(_STEPS)])
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in special}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, d_model=positions,
        max_source_positions=1500,
        max_target_positions=positions, pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    network = WhisperForConditionalGeneration(config)
    tokens: list[int] = []
    for begin, stop, text in lines:
        tokens.append(int(tokenizer.convert_tokens_to_ids(_instant(begin))))
        tokens += tokenizer.encode(f" {text}", add_special_tokens=False)
        tokens.append(int(tokenizer.convert_tokens_to_ids(_instant(stop))))
    _speak(network, ids[f"<|{HEARD}|>"], [*tokens, end])
    network.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in _LANGUAGES},
        task_to_id={"translate": ids["<|translate|>"], "transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        max_length=positions,
        prev_sot_token_id=ids["<|startofprev|>"],
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        return_timestamps=True,
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def _parts(text: str) -> list[str]:
    """Words with the space before them, as GPT-2's alphabet writes it; what is not a letter stays by itself."""
    return ["\u0120" + word for word in re.findall(r"[A-Za-z]+", text)]


def _instant(seconds: float) -> str:
    return f"<|{seconds:.2f}|>"


def _speak(network: WhisperForConditionalGeneration, language: int, tokens: Sequence[int]) -> None:
    """Every position of the decoder has a direction of its own, and a token lies where it is to be said: the first
    place tells the language, and after the three tokens of the prompt come the lines."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        decoder = network.model.decoder
        positions = decoder.embed_positions.weight.shape[0]
        decoder.embed_positions.weight.copy_(4000 * torch.eye(positions))
        decoder.embed_tokens.weight[language, 0] = 4.0
        for position, token in enumerate(tokens, start=2):
            assert position < positions, "too much to say"
            decoder.embed_tokens.weight[token, position] = 4.0


class Tiny(TranscriptionEngine):
    name = "whisper-tiny"


def tiny() -> EngineSpec:
    spec = REGISTRY["whisper"]
    assert spec.weights is not None
    return replace(
        spec,
        name=Tiny.name,
        target="tests.whisper:Tiny",
        weights=replace(spec.weights, folder=Tiny.name, repository=None),
    )


TINY = tiny()
