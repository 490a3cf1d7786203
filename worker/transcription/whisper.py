"""Whisper, of transformers: a block of sound in, segments out.

A. Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022). Within a block transformers goes
from window to window of 30 seconds by the times it predicts (section 3.8 there), and tries again at higher temperatures
where a window comes out improbable or repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from common.errors import NightshiftError
from worker import device as devices
from worker.transcription.segments import Segment
from worker.transcription.sound import RATE

# As the published code decides: temperatures to try in turn; a window is tried again where it repeats itself or is
# improbable, and counts as empty where it is improbable and speech as well.
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_THRESHOLDS = {"compression_ratio_threshold": 1.35, "logprob_threshold": -1.0, "no_speech_threshold": 0.6}


class Whisper:
    """A loaded model on a device.

    Raises `weights_invalid` for a folder that does not hold one, `gpu_oom` where it does not fit.
    """

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        self.name, self.device = name, device
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        try:
            network = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=self._dtype)
            self._features = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
            self._tokenizer = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
            raise NightshiftError(
                "weights_invalid",
                f"{folder} does not hold the weights of {name}: {' '.join(str(error).split())[:300]}",
                hint="Delete the folder and let it be fetched again, or put the published files there.",
            ) from error
        network.eval().requires_grad_(False)
        devices.move(network, device, name)
        self._network: WhisperForConditionalGeneration | None = network
        self.memory_bytes = devices.size(network)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages it knows; empty for a model of English alone."""
        assert self._network is not None
        codes = getattr(self._network.generation_config, "lang_to_id", None) or {}
        return tuple(sorted(code.strip("<|>") for code in codes))

    def language_of(self, samples: np.ndarray, check: Callable[[], None]) -> str | None:
        """The language of the first half minute, as a code; None for a model of English alone."""
        if not self.languages:
            return None
        network = self._network
        assert network is not None
        features = self._heard(samples[: 30 * RATE], padding="max_length")
        with torch.inference_mode(), devices.interruptible(network, check):
            found = int(network.detect_language(input_features=features["input_features"])[0])
        codes = network.generation_config.lang_to_id
        return next(code.strip("<|>") for code, number in codes.items() if number == found)

    def hear(
        self, samples: np.ndarray, language: str | None, task: str, check: Callable[[], None], *, seed: int = 0
    ) -> list[Segment]:
        """What is said in float32 mono [n] at 16 kHz; times in seconds from its start, none of them checked.

        seed: of what is drawn where a window is tried again: the same block gives the same segments.
        """
        network = self._network
        assert network is not None, "the model was closed"
        features = self._heard(samples)
        spoken = {"language": language, "task": task} if self.languages else {}
        cards = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.inference_mode(), torch.random.fork_rng(cards), devices.interruptible(network, check):
                torch.manual_seed(seed)
                made = network.generate(
                    **features,
                    **spoken,
                    **_THRESHOLDS,
                    temperature=_TEMPERATURES,
                    condition_on_prev_tokens=False,
                    return_timestamps=True,
                    return_segments=True,
                )
        except RuntimeError as error:
            if not devices.out_of_memory(error):
                raise
            raise devices.does_not_fit(f"{self.name} does", self.device, self.memory_bytes) from error
        end = network.generation_config.eos_token_id
        end = end[0] if isinstance(end, list) else end
        return [
            Segment(
                float(segment["start"]),
                float(segment["end"]),
                # Every other token has a higher number: those of times, languages and tasks.
                self._tokenizer.decode([token for token in segment["tokens"].tolist() if token < end]).strip(),
            )
            for segment in made["segments"][0]
        ]

    def _heard(self, samples: np.ndarray, padding: str = "longest") -> dict[str, torch.Tensor]:
        """Log-mel frames, one for 10 ms. A short block is not filled up: its silence would be heard too."""
        made = self._features(
            samples,
            sampling_rate=RATE,
            return_tensors="pt",
            padding=padding,
            truncation=False,
            return_attention_mask=True,
        )
        return {
            "input_features": made.input_features.to(self.device, self._dtype),
            "attention_mask": made.attention_mask.to(self.device),
        }

    def close(self) -> None:
        self._network = None
        devices.release(self.device)
