"""Tiny encoder-decoders that read pictures, and what the builders of other families without hope share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import base

HIDDEN, VOCABULARY, SIDE, PATCH = 16, 64, 16, 8
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
}
TEXT = {**SIZES, **IDS, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
VISION = {**SIZES, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": PATCH}
GROUPED = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
BART = {
    **IDS,
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
}


def made(model: str, config: str, **how: Any) -> Callable[[], Any]:
    """The builder of transformers' class `model` with its `config`."""

    def build() -> Any:
        import transformers

        base.seed()
        settings = getattr(transformers, config)(**how, attn_implementation="eager")
        return getattr(transformers, model)(settings).eval()

    return build


def _vision_encoder_decoder() -> Any:
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    base.seed()
    decoder = GPT2Config(**IDS, vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=4, n_head=2, n_positions=64)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config._attn_implementation = "eager"
    return VisionEncoderDecoderModel(config).eval()


BUILDERS = {
    "florence2": made(
        "Florence2ForConditionalGeneration",
        "Florence2Config",
        text_config={**BART, "model_type": "bart"},
        vision_config={
            "depths": [1],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "embed_dim": [HIDDEN],
            "num_heads": [2],
            "num_groups": [2],
            "window_size": 4,
            "projection_dim": HIDDEN,
        },
        image_token_id=5,
    ),
    "pix2struct": made(
        "Pix2StructForConditionalGeneration",
        "Pix2StructConfig",
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 4,
            "num_heads": 2,
        },
        vision_config={
            "hidden_size": HIDDEN,
            "patch_embed_hidden_size": 3 * PATCH**2,
            "d_ff": 24,
            "d_kv": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "seq_len": 16,
        },
    ),
    "pp_formulanet": made(
        "PPFormulaNetForConditionalGeneration",
        "PPFormulaNetConfig",
        text_config=BART,
        vision_config={
            **VISION,
            "output_channels": 8,
            "window_size": 2,
            "global_attn_indexes": [0],
            "mlp_dim": 24,
            "post_conv_in_channels": 8,
            "post_conv_mid_channels": 8,
            "post_conv_out_channels": 16,
            "decoder_hidden_size": HIDDEN,
        },
    ),
    "t5gemma2": made(
        "T5Gemma2ForConditionalGeneration",
        "T5Gemma2Config",
        encoder={
            "text_config": {**GROUPED, "query_pre_attn_scalar": 8},
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": 5,
        },
        decoder={**GROUPED, "query_pre_attn_scalar": 8},
        image_token_index=5,
    ),
    "udop": made(
        "UdopForConditionalGeneration",
        "UdopConfig",
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=4,
        num_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    ),
    "vision-encoder-decoder": _vision_encoder_decoder,
}
