"""Segment Anything with a network so small that a CPU is quick with it, and weights that no one trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from common.engines import REGISTRY
from worker.segmentation.sam.engine import SamEngine

SIDE, PATCH, CHANNELS = 128, 8, 32
TINY = replace(REGISTRY["sam-vit-b"], name="sam-tiny", target="tests.sam:TinyEngine")


def network() -> Sam:
    """The published layout at 128 pixels and 0.1 M parameters, with a layer that looks through windows and one that
    looks at everything."""
    grid = SIDE // PATCH
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIDE, patch_size=PATCH, embed_dim=CHANNELS, depth=2, num_heads=2, mlp_ratio=2,
            out_chans=CHANNELS, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            window_size=5, global_attn_indexes=(1,),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=CHANNELS, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE), mask_in_chans=8
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=64, num_heads=4),
            transformer_dim=CHANNELS, iou_head_depth=3, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random, but such that masks have edges, and scores lie in 0 to 1 and differ."""
    torch.manual_seed(seed)
    made = network()
    for name, tensor in made.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(tensor, std=0.2)
        elif "output_hypernetworks_mlps" in name or "output_upscaling" in name:
            tensor.data *= 3
        elif "mask_decoder.transformer" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
            # What is attended to shall depend on the prompt.
            tensor.data *= 6
    made.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix *= 0.5
    head = made.mask_decoder.iou_prediction_head.layers[-1]
    head.weight.data *= 2
    head.bias.data.fill_(0.6)
    return made.state_dict()


class TinyEngine(SamEngine):
    engine, size = "sam-vit-b", "tiny"

    @classmethod
    def build(cls) -> Sam:
        with torch.device("meta"):
            return network()


def write_weights(models: Path, seed: int = 0) -> Path:
    """Puts random weights where the engine looks for the published ones."""
    found = REGISTRY["sam-vit-b"].weights
    assert found is not None
    path = models / found.folder / found.files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights(seed), path)
    return path
