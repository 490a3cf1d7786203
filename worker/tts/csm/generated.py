"""CSM checkpoints with generated weights, in the published layout: nothing gated, nothing downloaded.

For tests and measurements. What such a model says means nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

Size = Literal["tiny", "full"]

_BEGIN, _END, _AUDIO, _AUDIO_END = "<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>"
_SPECIAL = (_BEGIN, _END, _AUDIO, _AUDIO_END, "<|eot_id|>")
_TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}[{{ message['role'] }}]"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token }}"
    "{% for item in message['content'] %}{% if item['type'] == 'audio' %}"
    f"{_AUDIO}{_AUDIO_END}"
    "{% endif %}{% endfor %}{% endfor %}"
)


def write_checkpoint(folder: Path, size: Size = "tiny", seed: int = 0, codes: int = 16) -> None:
    """Writes the model, its processor and its generation config.

    size: `full` is that of csm-1b, 1.6 G parameters, in bfloat16.  codes: of a tiny codebook, a
    power of two; with few of them, ends come soon.
    """
    from transformers import CsmForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = CsmForConditionalGeneration(_config(size, tokenizer, codes)).eval()
    if size == "full":
        model.to(torch.bfloat16)
    else:
        _spread(model)
    _processor(tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)


def _spread(model: Any) -> None:
    """Weights large enough that different texts end in different codes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("codec_model.") and parameter.dim() > 1:
                parameter.normal_(0, 0.3)


def _config(size: Size, tokenizer: Any, codes: int) -> Any:
    from transformers import CsmConfig

    number = tokenizer.convert_tokens_to_ids
    marks = {
        "bos_token_id": number(_BEGIN),
        "pad_token_id": number(_AUDIO),
        "audio_token_id": number(_AUDIO),
        "audio_eos_token_id": number(_AUDIO_END),
    }
    if size == "full":
        return CsmConfig(**marks)
    depth = {
        "num_codebooks": 4, "backbone_hidden_size": 32, "vocab_size": codes + 3, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 5, "head_dim": 8,
    }  # fmt: skip
    # Encoding and decoding take no less than the published ratios of the codec: 1,920 samples a frame.
    codec = {
        "model_type": "mimi", "hidden_size": 16, "num_filters": 2, "codebook_size": codes, "codebook_dim": 8,
        "num_quantizers": 4, "vector_quantization_hidden_dimension": 8, "upsample_groups": 16, "num_hidden_layers": 1,
        "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        "sliding_window": 250,
    }  # fmt: skip
    return CsmConfig(
        num_codebooks=4, vocab_size=codes + 3, text_vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        codebook_pad_token_id=codes + 2, codebook_eos_token_id=0, depth_decoder_config=depth,
        codec_config=codec, **marks,
    )  # fmt: skip


def _tokenizer() -> Any:
    """Bytes, and nothing merged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_BEGIN, eos_token=_END, pad_token=_END, model_max_length=100_000
    )
    made.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    return made


def _processor(tokenizer: Any) -> Any:
    from transformers import CsmProcessor, EncodecFeatureExtractor

    return CsmProcessor(
        EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000), tokenizer, chat_template=_TEMPLATE
    )
