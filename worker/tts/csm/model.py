"""CSM (the conversational speech model of Sesame) as a network: prompts in, codes of the Mimi codec out, sound of them.

The published implementation's own loop draws all rows from one generator, goes on after a row's end, and cannot be
stopped; this one is held to its greedy output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import NightshiftError
from worker import device as devices
from worker.tts.csm.sampling import Dice, draw

RATE = 24_000
FRAME = 1_920
"""Samples of a frame: 12.5 a second."""

_TELL_FRAMES = 10
_SAMPLED_CHUNKS = 64
_SAMPLED_BYTES = 1 << 16


@dataclass(frozen=True)
class Prompt:
    """embeddings: [positions, width].  cap: frames at most.  seed, attempt: of what is drawn."""

    embeddings: Tensor
    cap: int
    seed: int
    attempt: int = 0


@dataclass(frozen=True)
class Codes:
    """codes: int64 [frames, codebooks].  ended: whether the model came to an end by itself, not by its cap."""

    codes: Tensor
    ended: bool


class Csm:
    """The network on its device. dtype: of the two transformers; the codec stays in float32."""

    def __init__(self, network: Any, processor: Any, device: torch.device, version: str) -> None:
        self.network, self.processor, self.device, self.version = network, processor, device, version
        self.config = network.config
        self.codebooks: int = self.config.num_codebooks
        self.positions: int = self.config.max_position_embeddings
        self._real_codes: int = self.config.codec_config.codebook_size

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype, name: str) -> Csm:
        """The checkpoint of a folder, strictly: every tensor has its place. Nothing is fetched.

        Raises `weights_invalid`, `gpu_oom`.
        """
        from transformers import AutoProcessor, CsmForConditionalGeneration

        _check_kind(folder)
        try:
            network, told = CsmForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
            )
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            # Whatever a damaged file makes the library raise, it is the files.
            if isinstance(error, MemoryError) or devices.out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [""])[0][:300]
            raise NightshiftError(
                "weights_invalid",
                f"{folder} does not hold a CSM checkpoint: {type(error).__name__}: {reason}",
                hint="Fetch it again; it may be damaged or of another release.",
            ) from error
        _check_complete(folder, told)
        _check_processor(folder, processor, network.config)
        # In bfloat16 its convolutions meet float32 sound and fail.
        network.codec_model.float()
        network.eval().requires_grad_(False)
        devices.move(network, device, name)
        kind = str(dtype).rpartition(".")[2]
        return cls(network, processor, device, f"{fingerprint(folder)}-{kind}")

    @property
    def bytes(self) -> int:
        return devices.size(self.network)

    @property
    def position_bytes(self) -> int:
        """Memory that one position of one row takes in the backbone's cache."""
        config = self.config
        width = config.num_key_value_heads * config.head_dim
        return 2 * config.num_hidden_layers * width * self.network.dtype.itemsize

    # --- Prompts ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> Tensor:
        """Sound as codes, int64 [frames, codebooks]. samples: float32 [n] at 24 kHz."""
        sound = torch.from_numpy(np.ascontiguousarray(samples)).to(self.device)[None, None]
        codes: Tensor = self.network.codec_model.encode(sound).audio_codes[0, : self.codebooks]
        return codes.T.contiguous()

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> np.ndarray:
        """Codes [frames, codebooks] as sound, float32 [frames * 1920]; of no frames no sound."""
        if not len(codes):
            return np.zeros(0, np.float32)
        sound = self.network.codec_model.decode(codes.T[None].contiguous()).audio_values[0, 0]
        made: np.ndarray = sound.float().cpu().numpy()
        return made

    def tokens(self, turns: Sequence[tuple[int, str, int | None]]) -> Tensor:
        """A conversation as the checkpoint's template has it, int64 [positions].

        turns: speaker, text, and how many frames its sound has; None for the one to be spoken, the last.
        """
        conversation = [
            {
                "role": str(speaker),
                "content": [{"type": "text", "text": text}] + ([{"type": "audio"}] if frames is not None else []),
            }
            for speaker, text, frames in turns
        ]
        written = self.processor.apply_chat_template(conversation, tokenize=False)
        # One mark a turn stands for all its frames.
        parts = written.split(self.processor.audio_token)
        counts = [frames for _, _, frames in turns if frames is not None]
        if len(parts) != len(counts) + 1:
            raise NightshiftError("engine_failed", "The text holds a mark that belongs to the model.")
        whole = parts[0]
        for count, part in zip(counts, parts[1:], strict=True):
            whole += self.processor.audio_token * count + part
        ids = self.processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, device=self.device)

    @torch.inference_mode()
    def embed(self, tokens: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """The conversation as the backbone takes it, [positions, width]. codes: of each sound in it, in order."""
        network, config = self.network, self.config
        embedded: Tensor = network.embed_text_tokens(tokens)
        if codes:
            sounds = network.backbone_model.embed_tokens(torch.cat(list(codes))[None])[0]
            embedded[tokens == config.audio_token_id] = sounds
            end = torch.full((1, 1, self.codebooks), config.codebook_eos_token_id, device=self.device)
            embedded[tokens == config.audio_eos_token_id] = network.backbone_model.embed_tokens(end)[0, 0]
        return embedded

    # --- Generation ---------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[Prompt], temperature: float, check: Callable[[], None]
    ) -> Generator[float, None, list[Codes]]:
        """Speaks the prompts side by side. Yields how much is done, 0 to 1, and returns the codes of each.

        check: called before every frame. A prompt and its cap must fit into `positions`.
        """
        rows = _Rows(self, prompts, temperature)
        while rows.busy:
            check()
            rows.step()
            if rows.frame % _TELL_FRAMES == 0:
                yield rows.share
        return rows.results()

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the first codebook, float32 [B, codes]."""
        return self._possible(self.network.lm_head(hidden))

    def frame(self, hidden: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
        """The codes of a frame, int64 [B, codebooks].

        hidden: of the backbone, [B, width].  noise: [B, codebooks, TOP].
        """
        from transformers import DynamicCache

        decoder = self.network.depth_decoder
        codes = [draw(self.logits(hidden), None if noise is None else noise[:, 0], temperature)]
        cache = DynamicCache(config=decoder.config)
        # The first place holds the backbone's state, each other the code before.
        first = decoder.model.embed_tokens(codes[0])
        inputs = torch.stack([hidden.to(first.dtype), first], dim=1)
        for book in range(1, self.codebooks):
            out = decoder.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
            weight = decoder.codebooks_head.weight[book - 1]
            logits = self._possible(out.last_hidden_state[:, -1] @ weight)
            codes.append(draw(logits, None if noise is None else noise[:, book], temperature))
            inputs = decoder.model.embed_tokens(codes[-1] + book * decoder.config.vocab_size)[:, None]
        return torch.stack(codes, dim=1)

    def _possible(self, logits: Tensor) -> Tensor:
        """Without the codes that mean no sound and that the codec has no entry for."""
        logits = logits.float()
        logits[:, self._real_codes :] = -torch.inf
        return logits


class _Rows:
    """Prompts that are spoken side by side; rows that have ended leave."""

    def __init__(self, model: Csm, prompts: Sequence[Prompt], temperature: float) -> None:
        from transformers import DynamicCache

        longest = max(len(prompt.embeddings) for prompt in prompts)
        if any(len(prompt.embeddings) + prompt.cap > model.positions for prompt in prompts):
            raise ValueError(f"a prompt and its frames take more than {model.positions} positions")
        self._model, self._temperature = model, temperature
        self._caps = [prompt.cap for prompt in prompts]
        self._codes: list[list[Tensor]] = [[] for _ in prompts]
        self._ended = [False] * len(prompts)
        self._alive = list(range(len(prompts)))
        self.frame = 0
        with torch.inference_mode():
            self._noise = _noise(model, prompts) if temperature else None
            first = prompts[0].embeddings
            embedded = first.new_zeros((len(prompts), longest, first.shape[1]))
            self._mask = torch.zeros((len(prompts), longest), dtype=torch.long, device=model.device)
            for row, prompt in enumerate(prompts):
                embedded[row, longest - len(prompt.embeddings) :] = prompt.embeddings
                self._mask[row, longest - len(prompt.embeddings) :] = 1
            self._cache = DynamicCache(config=model.config)
            self._places = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
            self._next = embedded

    @property
    def busy(self) -> bool:
        return bool(self._alive)

    @property
    def share(self) -> float:
        """Of the frames that may be needed at most."""
        return min(1.0, self.frame / max(self._caps))

    @torch.inference_mode()
    def step(self) -> None:
        model = self._model
        out = model.network.backbone_model(
            inputs_embeds=self._next, attention_mask=self._mask, position_ids=self._places,
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        noise = None if self._noise is None else self._noise[:, self.frame]
        codes = model.frame(out.last_hidden_state[:, -1], noise, self._temperature)
        self.frame += 1
        ends = (codes[:, :-1] == model.config.codebook_eos_token_id).all(dim=1).tolist()
        kept = []
        for place, row in enumerate(self._alive):
            if ends[place]:
                self._ended[row] = True
                continue
            self._codes[row].append(codes[place])
            if len(self._codes[row]) < self._caps[row]:
                kept.append(place)
        self._go_on(codes, kept)

    def results(self) -> list[Codes]:
        none = torch.zeros((0, self._model.codebooks), dtype=torch.long, device=self._model.device)
        return [
            Codes(torch.stack(codes) if codes else none, ended)
            for codes, ended in zip(self._codes, self._ended, strict=True)
        ]

    def _go_on(self, codes: Tensor, kept: list[int]) -> None:
        if len(kept) < len(self._alive):
            self._alive = [self._alive[place] for place in kept]
            if not kept:
                return
            chosen = torch.tensor(kept, device=codes.device)
            codes, self._mask, self._places = codes[chosen], self._mask[chosen], self._places[chosen]
            self._noise = None if self._noise is None else self._noise[chosen]
            self._cache.batch_select_indices(chosen)
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(kept), 1))], dim=1)
        self._places = self._places[:, -1:] + 1
        self._next = self._model.network.backbone_model.embed_tokens(codes[:, None])


def _noise(model: Csm, prompts: Sequence[Prompt]) -> Tensor:
    """[B, frames, codebooks, TOP]; rows with fewer frames of their own never ask for more."""
    most = max(prompt.cap for prompt in prompts)
    dice = [Dice(p.seed, p.attempt, p.cap, model.codebooks, model.device).noise for p in prompts]
    return torch.stack([torch.nn.functional.pad(noise, (0, 0, 0, 0, 0, most - len(noise))) for noise in dice])


def fingerprint(folder: Path) -> str:
    """Tells one checkpoint from another: a digest of its small files, and of samples from all over its large ones."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for chunk in range(_SAMPLED_CHUNKS):
                file.seek(max(0, (size - _SAMPLED_BYTES) * chunk // (_SAMPLED_CHUNKS - 1)))
                digest.update(file.read(_SAMPLED_BYTES))
                if size <= _SAMPLED_BYTES:
                    break
    return digest.hexdigest()[:16]


def _check_kind(folder: Path) -> None:
    """Before the library builds the largest model it knows for a config that says nothing of one."""
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NightshiftError("weights_invalid", f"{folder / 'config.json'} is no config of a CSM: {error}.") from error
    if kind != "csm":
        raise NightshiftError("weights_invalid", f"{folder} holds a model of the kind {kind!r}, not csm.")


def _check_complete(folder: Path, told: dict[str, Any]) -> None:
    said = [
        f"{what}: {', '.join(sorted(map(str, told[key]))[:10])}"
        for key, what in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "of another shape"),
            ("error_msgs", "not read"),
        )
        if told.get(key)
    ]
    if said:
        raise NightshiftError(
            "weights_invalid",
            f"The checkpoint in {folder} does not fit its config.json: {'; '.join(said)}.",
            hint="Fetch it again; it may be damaged or of another release.",
        )


def _check_processor(folder: Path, processor: Any, config: Any) -> None:
    known = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    if known != config.audio_token_id or not processor.chat_template:
        raise NightshiftError(
            "weights_invalid",
            f"The tokenizer in {folder} does not belong to the model: its mark for sound is {known} instead of "
            f"{config.audio_token_id}, or it has no template.",
            hint="Fetch tokenizer.json, tokenizer_config.json and chat_template.jinja again.",
        )
