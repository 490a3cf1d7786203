"""config.json: what makes it another network is refused, what is of training or of other prompts is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import NightshiftError
from tests.sam_audio import GOLDEN
from worker.separation.sam_audio.config import SamAudioConfig, parse, read


def test_the_defaults_are_base() -> None:
    config = parse({})
    assert config == SamAudioConfig()
    assert (config.transformer.dim, config.transformer.n_layers, config.transformer.ffn_dim) == (2048, 16, 5504)
    assert config.audio_codec.hop == 1920 and config.frame_rate == 25 and config.state_channels == 256


def test_members_of_training_and_of_other_prompts_do_not_matter() -> None:
    config = parse(
        {
            "audio_codec": {"n_codebooks": 9, "mean": 0.5},
            "text_encoder": {"pad_mode": "max_length"},
            "transformer": {"dropout": 0.5},
            "span_predictor": None,
            "text_ranker": {"kind": "clap"},
            "vision_encoder": {"name": "PE-Core-L14-336"},
        }
    )
    assert config == SamAudioConfig()


def test_lists_of_rates_are_read() -> None:
    config = parse({"audio_codec": {"encoder_rates": [2, 4, 8, 10], "decoder_rates": [10, 8, 4, 2]}})
    assert config.audio_codec.hop == 640 and config.frame_rate == 75


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"transformer": {"n_kv_heads": 2}}, "n_kv_heads"),
        ({"audio_codec": {"wm_rates": [2]}}, "wm_rates"),
        ({"transformer": {"dim": 1000}}, "n_heads"),
        ({"transformer": {"dim": 1024}}, "context_dim"),
        ({"transformer": {"in_channels": 3}}, "in_channels"),
        ({"transformer": {"out_channels": 128}}, "out_channels"),
        ({"transformer": {"non_linearity": "tanh"}}, "non_linearity"),
        ({"transformer": {"t_block_non_linearity": "swiglu"}}, "t_block_non_linearity"),
        ({"in_channels": 512}, "in_channels"),
        ({"num_anchors": 4}, "num_anchors"),
        ({"audio_codec": {"decoder_dim": 1000}}, "decoder_dim"),
        ({"audio_codec": {"decoder_rates": [12, 10, 16]}}, "decoder_rates"),
        ({"audio_codec": {"encoder_rates": [3, 8, 8, 10], "decoder_rates": [10, 8, 8, 3]}}, "must be even"),
        ({"audio_codec": {"encoder_rates": [2, 4], "decoder_rates": [2, 2, 2, 1]}}, "rates"),
        ({"transformer": {"dim": "2048"}}, "wrong type"),
        ({"transformer": {"n_heads": 0}}, "wrong type"),
        ({"transformer": [1]}, "not an object"),
        ({"vision_encoder": 3}, "wrong type"),
    ],
)
def test_another_network_is_refused(values: dict[str, Any], names: str) -> None:
    with pytest.raises(NightshiftError) as refused:
        parse(values)
    assert refused.value.code == "weights_invalid"
    assert names in refused.value.detail


def test_a_folder_is_read() -> None:
    config = read(GOLDEN / "tiny")
    assert config.transformer.dim == 64 and config.text_encoder.name == "t5" and config.video_dim == 40


@pytest.mark.parametrize(
    ("content", "code"), [(None, "weights_missing"), ("{", "weights_invalid"), ("[]", "weights_invalid")]
)
def test_a_config_that_cannot_be_read_is_said_so(tmp_path: Path, content: str | None, code: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(NightshiftError) as refused:
        read(tmp_path)
    assert refused.value.code == code and "config.json" in refused.value.detail
