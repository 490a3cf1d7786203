"""Descriptions as the network hears them: the states of a T5 encoder, one row of states per token."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import NightshiftError
from worker.separation.sam_audio.config import TextConfig

_REMEMBERED = 512


@dataclass(frozen=True)
class TextStates:
    """states: float32 [B, L, dim].  mask: bool [B, L], true on tokens; None where there is no padding."""

    states: Tensor
    mask: Tensor | None

    def rows(self, index: Tensor) -> TextStates:
        """The states of the descriptions at `index`, int64 [n]; for windows of several prompts in one batch."""
        return TextStates(self.states[index], None if self.mask is None else self.mask[index])


class TextEncoder:
    """T5 in float32: it runs once for each description. The states of the latest are kept."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int | None) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self._states: OrderedDict[str, Tensor] = OrderedDict()
        # Jobs that are done at once ask from threads of their own.
        self._lock = threading.Lock()

    @torch.inference_mode()
    def encode(self, descriptions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """All in one padded batch: states [B, L, dim] and the mask [B, L]. The states of padding mean nothing."""
        tokens = self.tokenizer(
            list(descriptions), truncation=True, max_length=self.max_length, padding="longest", return_tensors="pt"
        ).to(self.model.device)
        states = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return states, tokens["attention_mask"].bool()

    def __call__(self, descriptions: Sequence[str]) -> TextStates:
        """The states of each description, computed by itself, so that they do not depend on its company."""
        rows = [self._of(description) for description in descriptions]
        longest = max(row.shape[0] for row in rows)
        if all(row.shape[0] == longest for row in rows):
            return TextStates(torch.stack(rows), None)
        states = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=states.device)
        for index, row in enumerate(rows):
            states[index, : row.shape[0]] = row
            mask[index, : row.shape[0]] = True
        return TextStates(states, mask)

    def _of(self, description: str) -> Tensor:
        with self._lock:
            if description not in self._states:
                self._states[description] = self.encode([description])[0][0]
                if len(self._states) > _REMEMBERED:
                    self._states.popitem(last=False)
            self._states.move_to_end(description)
            return self._states[description]


def find_text_encoder(config: TextConfig, folder: Path) -> Path | str:
    """Where `config.name` is: below the checkpoint's folder, beside it, anywhere if absolute; else a hub repository."""
    for candidate in (folder / config.name, folder.parent / config.name, folder.parent / Path(config.name).name):
        if (candidate / "config.json").is_file():
            return candidate
    if Path(config.name).is_absolute():
        raise NightshiftError("weights_missing", f"There is no text encoder in {config.name}.")
    return config.name


def load_text_encoder(
    config: TextConfig, source: Path | str, device: str | torch.device = "cpu", token: str | None = None
) -> TextEncoder:
    """The encoder of a folder or of a hub repository, which is fetched once.

    Raises `weights_missing` where it cannot be had, `weights_invalid` where it lacks tensors or has another width.
    """
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()

    options: dict[str, Any] = {"local_files_only": True} if isinstance(source, Path) else {"token": token}
    try:
        model, told = T5EncoderModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise NightshiftError(
            "weights_missing",
            f"The text encoder {source} cannot be loaded: {str(error).splitlines()[0]}",
            hint=f"Put it beside the checkpoint, as a folder named {Path(config.name).name}.",
        ) from error
    # The embedding is stored under one of two names that mean one tensor.
    absent = sorted(set(told["missing_keys"]) - {"encoder.embed_tokens.weight"})
    if absent:
        raise NightshiftError("weights_invalid", f"The text encoder {source} lacks {', '.join(absent)}.")
    if model.config.d_model != config.dim:
        raise NightshiftError(
            "weights_invalid",
            f"The text encoder {source} is {model.config.d_model} wide; the checkpoint wants {config.dim}.",
        )
    return TextEncoder(model.to(device).eval().requires_grad_(False), tokenizer, config.max_length)
