"""The registry of engines: what each is called, does and needs. Listing engines imports none of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from common import espeak
from common.errors import NightshiftError


class Kind(StrEnum):
    SEPARATION = "separation"
    SEGMENTATION = "segmentation"
    TTS = "tts"
    TRANSCRIPTION = "transcription"
    VOICE = "voice"
    CONVERSATION = "conversation"


REPEATABLE = frozenset({Kind.SEPARATION, Kind.SEGMENTATION, Kind.TTS, Kind.TRANSCRIPTION})
"""Kinds whose engines give the same result for the same input and parameters, to rounding, so that a job may take it
over from an earlier one. What a language model answers is another thing each time, and what is made of a recording for
a voice belongs to that voice."""

NAMES_INPUTS = frozenset({Kind.SEGMENTATION})
"""Kinds whose results hold the names of their inputs' files: another name gives another result."""


class Lane(StrEnum):
    """Which workers run an engine: those with a card, or any."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Weights:
    """Where an engine's weights come from: a folder below the models folder, a repository of the hub, or an address.

    url: of the one file; what has a repository or an address is fetched into the folder at first use.
    sha256: of that file as published, in hexadecimal; what arrives must have it.
    """

    folder: str
    files: tuple[str, ...]
    repository: str | None = None
    url: str = ""
    sha256: str = ""
    gated: bool = False
    licence_url: str = ""

    def missing(self, models: Path, *, token: bool) -> tuple[str, str] | None:
        """None where they are in their folder or can be fetched into it; else what is missing and how to get it."""
        folder = models / self.folder
        absent = [name for name in self.files if not (folder / name).is_file()]
        if not absent:
            return None
        if self.gated and not token:
            return (
                f"its weights are gated, and {folder} lacks {', '.join(absent)}",
                f"Accept the licence at {self.licence_url} and set NIGHTSHIFT_HF_TOKEN, or put the files there.",
            )
        if self.repository or self.url:
            return None
        return f"{folder} lacks {', '.join(absent)}", f"Put the weights there: {self.licence_url}"


@dataclass(frozen=True)
class EngineSpec:
    """What is known of an engine without importing it.

    target: `module:Class` of the worker's implementation.  vocabulary: the descriptions a separation engine
    understands, each with the stem it means; None: any text.  features: what else it can do, in words of its kind.
    voices: that a speaking engine brings.  packages: modules that must be importable.  anywhere: workers of every lane
    run it, for the lane of a job is that of the engines it asks for help.  language_server: needs one configured.
    deterministic: whether it does as its kind promises, see REPEATABLE.
    """

    name: str
    kind: Kind
    target: str
    lane: Lane
    summary: str
    licence: str
    packages: tuple[str, ...] = ()
    install: str = ""
    weights: Weights | None = None
    vocabulary: Mapping[str, str] | None = None
    spans: bool = False
    features: frozenset[str] = frozenset()
    voices: tuple[str, ...] = ()
    anywhere: bool = False
    language_server: bool = False
    deterministic: bool = True
    aliases: tuple[str, ...] = field(default=())

    @property
    def repeatable(self) -> bool:
        """Whether a job may take over what another has computed."""
        return self.deterministic and self.kind in REPEATABLE

    def missing(self, models: Path, *, token: bool = False) -> tuple[str, str] | None:
        """None where this process could load the engine; else what is missing and how to get it, as sentences.

        token: whether there is one for gated weights.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed", self.install
        return self.weights.missing(models, token=token) if self.weights else None


_SPEECH = (
    "speech", "voice", "voices", "human voice", "human speech", "speaking", "talking", "person speaking",
    "people speaking", "person talking", "people talking", "dialogue", "spoken word", "speaker",
)  # fmt: skip

# HDemucs was trained on singing; speech comes out with it.
_HDEMUCS = {
    "vocals": (*_SPEECH, "vocals", "vocal", "lead vocals", "singing", "singer", "singing voice", "person singing",
               "people singing"),
    "drums": ("drums", "drum", "drum kit", "drum set", "drumming", "percussion"),
    "bass": ("bass", "bass guitar", "electric bass", "bass line"),
    "other": ("other", "other instruments"),
    "music": ("music", "instrumental", "instruments", "accompaniment", "background music", "backing track"),
}  # fmt: skip

_MODELS = "pip install 'nightshift[models]'"


def _sam_audio(size: str, parameters: str) -> EngineSpec:
    repository = f"facebook/sam-audio-{size}"
    return EngineSpec(
        name=f"sam-audio-{size}",
        kind=Kind.SEPARATION,
        target=f"worker.separation.sam_audio.engine:SamAudio{size.capitalize()}",
        lane=Lane.GPU,
        summary=f"Any sound that words or time spans name; {parameters}, gated",
        licence="SAM License: commercial use allowed, some uses barred, weights not to be passed on under other terms",
        packages=("torch", "transformers", "huggingface_hub"),
        install=_MODELS,
        weights=Weights(
            folder=f"sam-audio-{size}",
            files=("config.json", "checkpoint.pt"),
            repository=repository,
            gated=True,
            licence_url=f"https://huggingface.co/{repository}",
        ),
        spans=True,
    )


def _sam(size: str, file: str, sha256: str, summary: str) -> EngineSpec:
    return EngineSpec(
        name=f"sam-vit-{size}",
        kind=Kind.SEGMENTATION,
        target=f"worker.segmentation.sam.engine:SamViT{size.upper()}",
        lane=Lane.GPU,
        summary=f"Objects by points, boxes or masks, or all of them; {summary}",
        licence="Apache-2.0, code and weights",
        packages=("torch", "torchvision", "segment_anything"),
        install=_MODELS,
        weights=Weights(
            folder=f"sam-vit-{size}",
            files=(file,),
            url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
            sha256=sha256,
            licence_url="https://github.com/facebookresearch/segment-anything",
        ),
        features=frozenset({"points", "boxes", "masks", "multimask", "automatic", "grid"}),
    )


def _whisper(name: str, repository: str, lane: Lane, summary: str) -> EngineSpec:
    return EngineSpec(
        name=name,
        kind=Kind.TRANSCRIPTION,
        target=f"worker.transcription.engine:{''.join(part.capitalize() for part in name.split('-'))}",
        lane=lane,
        summary=f"What is said and when, in about a hundred languages; {summary}, fetched at first use",
        licence="Apache-2.0, code and weights; the original weights MIT",
        packages=("torch", "transformers", "huggingface_hub"),
        install=_MODELS,
        weights=Weights(
            folder=name,
            files=(
                "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
                "tokenizer_config.json", "model.safetensors",
            ),
            repository=repository,
            licence_url=f"https://huggingface.co/{repository}",
        ),
    )  # fmt: skip


REGISTRY: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="rnnoise",
            kind=Kind.SEPARATION,
            target="worker.separation.rnnoise:RNNoiseEngine",
            lane=Lane.CPU,
            summary="Speech against everything else, on any CPU; weights inside the package",
            licence="BSD-3-Clause",
            packages=("pyrnnoise",),
            install="pip install pyrnnoise",
            vocabulary=dict.fromkeys(_SPEECH, "speech"),
        ),
        EngineSpec(
            name="hdemucs",
            kind=Kind.SEPARATION,
            target="worker.separation.hdemucs:HDemucsEngine",
            lane=Lane.GPU,
            summary="Vocals, drums, bass or music out of songs, in stereo; 335 MB of weights, not gated",
            licence="Code BSD-2-Clause and MIT. The weights state no licence of their own; they were trained on "
            "MUSDB18-HQ, which is for non-commercial use, and on 150 songs made for Meta",
            packages=("torch", "torchaudio"),
            install=_MODELS,
            weights=Weights(
                folder="hdemucs",
                files=("hdemucs_high_trained.pt",),
                url="https://download.pytorch.org/torchaudio/models/hdemucs_high_trained.pt",
                licence_url="https://docs.pytorch.org/audio/stable/generated/"
                "torchaudio.pipelines.HDEMUCS_HIGH_MUSDB_PLUS.html",
            ),
            vocabulary={word: stem for stem, words in _HDEMUCS.items() for word in words},
        ),
        # What text and span prompts need of each in bfloat16.
        _sam_audio("small", "1.4 GB of weights on a card"),
        _sam_audio("base", "2.7 GB of weights on a card"),
        _sam_audio("large", "6.3 GB of weights on a card"),
        EngineSpec(
            name="grabcut",
            kind=Kind.SEGMENTATION,
            target="worker.segmentation.grabcut:GrabCutEngine",
            lane=Lane.CPU,
            summary="An object by a box, points or a rough mask, from its colours; or regions of one colour each",
            licence="Apache-2.0",
            packages=("cv2",),
            install="pip install opencv-python-headless",
            features=frozenset({"points", "boxes", "masks", "automatic"}),
        ),
        _sam(
            "b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            "91 M parameters, 375 MB of weights",
        ),
        _sam(
            "l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            "308 M parameters, 1.2 GB of weights",
        ),
        _sam(
            "h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            "636 M parameters, 2.6 GB of weights",
        ),
        EngineSpec(
            name="espeak",
            kind=Kind.TTS,
            target="worker.tts.espeak:EspeakEngine",
            lane=Lane.CPU,
            summary="Any text in some 130 languages, plainly synthetic, at once on any CPU; clones no voice",
            licence="GPL-3.0, in a process of its own",
            packages=("espeakng_loader",),
            install="pip install 'nightshift[espeak]'",
            features=frozenset({"speed", "variants"}),
            voices=espeak.VOICES,
        ),
        EngineSpec(
            name="csm-1b",
            kind=Kind.TTS,
            target="worker.tts.csm.engine:Csm1b",
            lane=Lane.GPU,
            summary="Natural speech and conversation in English, also in a voice of yours; 3.3 GB on a card, gated",
            licence="Apache-2.0, code and weights; not for imitating people who have not consented",
            packages=("torch", "transformers", "huggingface_hub"),
            install=_MODELS,
            weights=Weights(
                folder="csm-1b",
                files=(
                    "config.json",
                    "generation_config.json",
                    "preprocessor_config.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "chat_template.jinja",
                    "transformers.safetensors.index.json",
                    "transformers-00001-of-00002.safetensors",
                    "transformers-00002-of-00002.safetensors",
                ),
                repository="sesame/csm-1b",
                gated=True,
                licence_url="https://huggingface.co/sesame/csm-1b",
            ),
            features=frozenset({"cloning", "temperature", "context"}),
            voices=tuple(f"csm:{number}" for number in range(10)),
        ),
        _whisper("whisper", "openai/whisper-base", Lane.CPU, "on any CPU; 290 MB of weights"),
        _whisper("whisper-large", "openai/whisper-large-v3-turbo", Lane.GPU, "1.6 GB of weights"),
        EngineSpec(
            name="llm",
            kind=Kind.CONVERSATION,
            target="worker.conversation.engine:ServedConversation",
            lane=Lane.CPU,
            anywhere=True,
            language_server=True,
            summary="Answers by the language model at NIGHTSHIFT_LLM_URL: vLLM, llama.cpp, Ollama or the like",
            licence="Apache-2.0; the model's own",
        ),
        EngineSpec(
            name="llm-local",
            kind=Kind.CONVERSATION,
            target="worker.conversation.engine:LocalConversation",
            lane=Lane.GPU,
            summary="Answers by a chat model of transformers; 3.1 GB of weights, or others in its folder",
            licence="Apache-2.0, code and weights; another model's own",
            packages=("torch", "transformers", "huggingface_hub"),
            install=_MODELS,
            weights=Weights(
                folder="llm-local",
                files=("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"),
                repository="Qwen/Qwen2.5-1.5B-Instruct",
                licence_url="https://huggingface.co/Qwen/Qwen2.5-1.5B-Instruct",
            ),
        ),
        EngineSpec(
            name="excerpt",
            kind=Kind.VOICE,
            target="worker.voices.engine:ExcerptEngine",
            lane=Lane.CPU,
            summary="Prepares a voice: finds the seconds of a recording that models are to hear",
            licence="Apache-2.0",
        ),
    )
}

DEFAULTS: dict[Kind, str] = {
    Kind.SEPARATION: "rnnoise",
    Kind.SEGMENTATION: "grabcut",
    Kind.TTS: "espeak",
    Kind.TRANSCRIPTION: "whisper",
    Kind.VOICE: "excerpt",
    Kind.CONVERSATION: "llm",
}


def register(targets: Iterable[str]) -> None:
    """Adds engines of the operator's own, each `module:NAME` of an EngineSpec. Raises ValueError for what is none."""
    for target in targets:
        module, _, name = target.partition(":")
        spec = getattr(importlib.import_module(module), name, None)
        if not isinstance(spec, EngineSpec):
            raise ValueError(f"NIGHTSHIFT_EXTRA_ENGINES: {target} is not an EngineSpec (module:NAME)")
        REGISTRY[spec.name] = spec


def lookup(name: str, kind: Kind | None = None, pointer: str = "/engine") -> EngineSpec:
    """The engine of that name. Raises `unknown_engine`, naming those there are for the kind."""
    spec = REGISTRY.get(name)
    if spec is None or (kind is not None and spec.kind is not kind):
        names = sorted(n for n, s in REGISTRY.items() if kind is None or s.kind is kind)
        raise NightshiftError(
            "unknown_engine",
            f"There is no engine {name!r}" + (f" for {kind}." if kind else "."),
            hint=f"Use one of: {', '.join(names)}.",
            pointer=pointer,
        )
    return spec


def able(kind: Kind, description: str, *, spans: bool) -> list[str]:
    """Names of the engines that can separate `description`, with time spans where `spans`."""
    return sorted(
        spec.name
        for spec in REGISTRY.values()
        if spec.kind is kind
        and (spec.vocabulary is None or description.strip().lower() in spec.vocabulary)
        and (spec.spans or not spans)
    )


def featuring(kind: Kind, feature: str) -> list[str]:
    """Names of the engines of a kind that have a feature."""
    return sorted(spec.name for spec in REGISTRY.values() if spec.kind is kind and feature in spec.features)
