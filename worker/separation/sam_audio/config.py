"""What a checkpoint's `config.json` says of the network. Only what text and span prompts use is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from common.errors import NightshiftError

WATERMARK_BITS = 16
"""Length of the message that the decoder writes into the audio."""

WATERMARK_RATES = (8, 5, 4, 2)
"""By how much the watermark's signal is slowed down beside each of the decoder's blocks."""

ACTIVATIONS = frozenset({"relu", "gelu", "approx_gelu", "srelu", "silu"})


@dataclass(frozen=True)
class CodecConfig:
    """The audio codec: a variational autoencoder of waveforms at `sample_rate` Hz.

    encoder_dim, decoder_dim: channels at the wave's end of the encoder and at the latent's end of the decoder; both
    double, or halve, with each rate.  codebook_dim: channels of the latent.  latent_dim: channels beside it.
    """

    ignored: ClassVar[frozenset[str]] = frozenset({"n_codebooks", "codebook_size", "quantizer_dropout", "mean", "std"})

    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (2, 8, 10, 12)
    latent_dim: int = 1024
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (12, 10, 8, 2)
    codebook_dim: int = 128
    sample_rate: int = 48_000

    @property
    def hop(self) -> int:
        """Samples of a latent frame."""
        return math.prod(self.encoder_rates)


@dataclass(frozen=True)
class TextConfig:
    """The T5 encoder. name: a folder, or a repository of the hub.  max_length: tokens."""

    ignored: ClassVar[frozenset[str]] = frozenset({"pad_mode"})

    name: str = "t5-base"
    dim: int = 768
    max_length: int | None = 512


@dataclass(frozen=True)
class TransformerConfig:
    """The velocity field. Dropout is of training only."""

    ignored: ClassVar[frozenset[str]] = frozenset({"dropout", "context_embedder_dropout"})

    dim: int = 2048
    n_heads: int = 16
    n_layers: int = 16
    norm_eps: float = 1e-5
    qk_norm: bool = True
    fc_bias: bool = False
    ffn_exp: float = 4
    ffn_dim_multiplier: float = 1
    multiple_of: int = 64
    non_linearity: str = "swiglu"
    use_rope: bool = True
    max_positions: int = 10_000
    frequency_embedding_dim: int = 256
    timestep_non_linearity: str = "swiglu"
    t_block_non_linearity: str = "silu"
    t_block_bias: bool = True
    context_dim: int = 2048
    context_non_linearity: str = "swiglu"
    context_norm: bool = False
    out_channels: int = 256
    in_channels: int | None = None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layer: two thirds of it where a gate brings a third matrix, rounded up."""
        width = int(self.ffn_exp * self.dim)
        if self.non_linearity == "swiglu":
            width = int(2 * width / 3)
        width = int(self.ffn_dim_multiplier * width)
        return self.multiple_of * -(-width // self.multiple_of)


@dataclass(frozen=True)
class SamAudioConfig:
    in_channels: int = 768
    audio_codec: CodecConfig = field(default_factory=CodecConfig)
    text_encoder: TextConfig = field(default_factory=TextConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    video_dim: int = 1024
    num_anchors: int = 3
    anchor_embedding_dim: int = 128

    @property
    def latent_channels(self) -> int:
        return self.audio_codec.codebook_dim

    @property
    def state_channels(self) -> int:
        """Channels of the sampler's state: the target's latent, then the residual's."""
        return 2 * self.latent_channels

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.audio_codec.sample_rate / self.audio_codec.hop


def parse(values: Mapping[str, Any]) -> SamAudioConfig:
    """The configuration of a checkpoint. Raises `weights_invalid` for members that would make it another network."""
    parts: dict[str, Any] = {
        "audio_codec": _part(CodecConfig, values, "audio_codec"),
        "text_encoder": _part(TextConfig, values, "text_encoder"),
        "transformer": _part(TransformerConfig, values, "transformer"),
    }
    plain = {name: values[name] for name in ("in_channels", "num_anchors", "anchor_embedding_dim") if name in values}
    video = values.get("vision_encoder") or {}
    try:
        config = SamAudioConfig(video_dim=int(video.get("dim", 1024)), **plain, **parts)
        problems = list(_problems(config))
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise _invalid(f"a member of the wrong type ({error})") from error
    if problems:
        raise _invalid("; ".join(problems))
    return config


def read(folder: Path) -> SamAudioConfig:
    """The configuration of a checkpoint's folder. Raises `weights_missing`, `weights_invalid`."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NightshiftError("weights_missing", f"{folder} has no config.json.") from None
    except (OSError, ValueError) as error:
        raise NightshiftError("weights_invalid", f"{path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise NightshiftError("weights_invalid", f"{path} does not hold a JSON object.")
    return parse(values)


Part = TypeVar("Part", CodecConfig, TextConfig, TransformerConfig)


def _part(kind: type[Part], values: Mapping[str, Any], name: str) -> Part:
    given = values.get(name) or {}
    if not isinstance(given, Mapping):
        raise _invalid(f"{name} is not an object")
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(given) - known - kind.ignored)
    if unknown:
        raise _invalid(f"{name} has members this network does not know: {', '.join(unknown)}")
    kept: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key in known
    }
    return kind(**kept)


def _problems(config: SamAudioConfig) -> list[str]:
    """What makes a configuration one of a network that this is not."""
    codec, transformer = config.audio_codec, config.transformer
    said = []
    if len(codec.decoder_rates) != len(WATERMARK_RATES):
        said.append(f"audio_codec.decoder_rates must be {len(WATERMARK_RATES)}")
    if codec.decoder_dim % 96:
        # The watermark works at a third of the width, which halves four times, and then at half of that. The published
        # width is 1536, and the official code can do no other; smaller ones are for tests.
        said.append("audio_codec.decoder_dim must be a multiple of 96")
    if math.prod(codec.decoder_rates) != codec.hop:
        said.append("audio_codec.encoder_rates and decoder_rates must have one product")
    if any(rate < 1 or rate % 2 for rate in (*codec.encoder_rates, *codec.decoder_rates)):
        said.append("audio_codec's rates must be even")
    if codec.hop % math.prod(WATERMARK_RATES):
        said.append(f"audio_codec's hop must be a multiple of {math.prod(WATERMARK_RATES)}")
    if transformer.dim % transformer.n_heads or transformer.head_dim % 2:
        said.append("transformer.dim must be an even multiple of n_heads")
    if transformer.dim % 2 or transformer.frequency_embedding_dim % 2:
        said.append("transformer.dim and frequency_embedding_dim must be even")
    if transformer.context_dim != transformer.dim:
        said.append("transformer.context_dim must equal dim")
    if transformer.in_channels is not None:
        said.append("transformer.in_channels must be null")
    if transformer.out_channels != config.state_channels:
        said.append("transformer.out_channels must be twice audio_codec.codebook_dim")
    if config.in_channels != 3 * config.state_channels:
        said.append("in_channels must be six times audio_codec.codebook_dim")
    if config.num_anchors != 3:
        said.append("num_anchors must be 3")
    for name in ("non_linearity", "timestep_non_linearity", "context_non_linearity"):
        if getattr(transformer, name) not in ACTIVATIONS | {"swiglu"}:
            said.append(f"transformer.{name} is unknown")
    if transformer.t_block_non_linearity not in ACTIVATIONS:
        said.append("transformer.t_block_non_linearity is unknown")
    return said


def _invalid(detail: str) -> NightshiftError:
    return NightshiftError(
        "weights_invalid",
        f"The checkpoint's config.json is not one of a SAM-Audio this service knows: {detail}.",
        hint="Use a folder of facebook/sam-audio-small, -base or -large as it was published.",
    )
