"""A language model of transformers on this machine: any causal model with a chat template and safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import NightshiftError
from worker import device as devices
from worker.conversation.language import Answer, Message


class LocalModel:
    """`worker.conversation.language.LanguageModel` from a folder as the hub has them.

    Raises `weights_invalid`, `gpu_oom`.
    """

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        self._device = device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
            raise _invalid(name, folder, " ".join(str(error).split())[:300]) from error
        if not self._tokenizer.chat_template:
            raise _invalid(name, folder, "its tokenizer has no chat template")
        network.eval().requires_grad_(False)
        devices.move(network, device, name)
        self._network = network
        self._memory = devices.size(network)
        # As the publisher calls it, where the folder says so.
        self.name = str(getattr(network.config, "_name_or_path", "") or name).rsplit("/", 1)[-1]
        with (folder / "model.safetensors").open("rb") as file:
            self.version = hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def answer(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float | None, check: Callable[[], None]
    ) -> Answer:
        """The seed is the question's: the same turn gets the same answer. Raises `llm_refused`, `gpu_oom`."""
        chat = [{"role": message.role, "content": message.content} for message in messages]
        prompt = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._device)
        length = prompt["input_ids"].shape[1]
        room = getattr(self._network.config, "max_position_embeddings", None)
        if room is not None and length + max_tokens > room:
            raise NightshiftError(
                "llm_refused",
                f"The conversation has {length} tokens, and {max_tokens} are asked for; the model holds {room}.",
                hint="Ask for fewer `max_tokens` or `history_turns`, or a shorter question.",
            )
        drawn: dict[str, Any] = {} if temperature is None else {"do_sample": temperature > 0}
        if temperature:
            drawn["temperature"] = temperature
        seed = int.from_bytes(hashlib.sha256(repr(chat).encode()).digest()[:8], "big") >> 1
        cards = [self._device] if self._device.type == "cuda" else []
        try:
            with (
                torch.inference_mode(),
                torch.random.fork_rng(cards),
                devices.interruptible(self._network, check),
            ):
                torch.manual_seed(seed)
                made = self._network.generate(
                    **prompt, **drawn, max_new_tokens=max_tokens, pad_token_id=self._tokenizer.eos_token_id
                )
        except RuntimeError as error:
            if not devices.out_of_memory(error):
                raise
            raise devices.does_not_fit(f"{self.name} does", self._device, self._memory) from error
        answered = made[0, length:]
        text = self._tokenizer.decode(answered, skip_special_tokens=True).strip()
        return Answer(text, self.name, len(answered) >= max_tokens, length, len(answered))

    def memory_bytes(self) -> int:
        return self._memory

    def close(self) -> None:
        del self._network
        devices.release(self._device)


def _invalid(name: str, folder: Path, reason: str) -> NightshiftError:
    return NightshiftError(
        "weights_invalid",
        f"{folder} does not hold a chat model for {name}: {reason}",
        hint="Put config.json, tokenizer.json, tokenizer_config.json with a chat template and model.safetensors there.",
    )
