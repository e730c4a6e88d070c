"""Families that cannot be pruned by nature, as tiny random models: each is refused with a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import encoder_decoders
from .encoder_decoders import GROUPED, HIDDEN, IDS, PATCH, SIDE, SIZES, TEXT, VISION, VOCABULARY, made


@dataclass(frozen=True)
class Refused:
    """A family that cannot work.

    Attributes:
        name: the `model_type` of its config.
        build: -> tiny random model with eager attention.
        why: one sentence.
    """

    name: str
    build: Callable[[], Any]
    why: str


def _qformer(model: str, config: str, **how: Any) -> Callable[[], Any]:
    qformer = {**SIZES, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "encoder_hidden_size": HIDDEN}
    opt = {**IDS, "model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "ffn_dim": 24}
    opt |= {"num_hidden_layers": 4, "num_attention_heads": 2, "word_embed_proj_dim": HIDDEN}
    opt["max_position_embeddings"] = 64
    return made(
        model,
        config,
        vision_config=VISION,
        qformer_config=qformer,
        text_config=opt,
        num_query_tokens=8,
        **how,
    )


def _kosmos(model: str, config: str, vision: dict[str, Any]) -> Callable[[], Any]:
    text = {**IDS, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "embed_dim": HIDDEN, "layers": 4}
    text |= {"ffn_dim": 24, "attention_heads": 2}
    return made(model, config, text_config=text, vision_config=vision, latent_query_num=8)


CROSS = "Pictures enter by cross-attention: the decoder's sequence has no visual tokens."
QUERIES = (
    "A Q-Former has already made few tokens of a picture, and generate runs the language model without ids."
)
MASKED = (
    "A mask, not placeholder ids, tells where a picture's tokens are, and generate runs the text model alone."
)
SEQ2SEQ = "An encoder-decoder: visual tokens are in the encoder, which the decoder reads by cross-attention."

REFUSED = (
    Refused(
        "blip",
        made(
            "BlipForConditionalGeneration",
            "BlipConfig",
            text_config={**TEXT, "encoder_hidden_size": HIDDEN},
            vision_config=VISION,
        ),
        CROSS,
    ),
    Refused(
        "blip-2",
        _qformer("Blip2ForConditionalGeneration", "Blip2Config", image_token_index=5),
        QUERIES,
    ),
    Refused(
        "instructblip",
        _qformer("InstructBlipForConditionalGeneration", "InstructBlipConfig", image_token_index=5),
        QUERIES,
    ),
    Refused(
        "instructblipvideo",
        _qformer("InstructBlipVideoForConditionalGeneration", "InstructBlipVideoConfig", video_token_index=5),
        QUERIES,
    ),
    Refused(
        "git",
        made("GitForCausalLM", "GitConfig", vision_config=VISION, **TEXT),
        "The decoder itself puts a picture's tokens before the text: no placeholder ids stand for them.",
    ),
    Refused(
        "idefics",
        made(
            "IdeficsForVisionText2Text",
            "IdeficsConfig",
            **TEXT,
            cross_layer_interval=2,
            vision_config={
                "embed_dim": HIDDEN,
                "image_size": SIDE,
                "patch_size": PATCH,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
        ),
        CROSS,
    ),
    Refused(
        "mllama",
        made(
            "MllamaForConditionalGeneration",
            "MllamaConfig",
            text_config={**TEXT, "num_key_value_heads": 1, "cross_attention_layers": [1, 3]},
            vision_config={
                "hidden_size": HIDDEN,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "vision_output_dim": 2 * HIDDEN,
                "intermediate_layers_indices": [0],
                "image_size": SIDE,
                "patch_size": PATCH,
                "max_num_tiles": 2,
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
            image_token_index=5,
        ),
        CROSS,
    ),
    Refused(
        "kosmos-2",
        _kosmos("Kosmos2ForConditionalGeneration", "Kosmos2Config", VISION),
        MASKED,
    ),
    Refused(
        "kosmos-2.5",
        _kosmos(
            "Kosmos2_5ForConditionalGeneration",
            "Kosmos2_5Config",
            {
                **SIZES,
                "num_hidden_layers": 2,
                "head_dim": 8,
                "patch_embed_hidden_size": 3 * PATCH**2,
                "max_num_patches": 16,
            },
        ),
        MASKED,
    ),
    Refused(
        "evolla",
        made(
            "EvollaForProteinText2Text",
            "EvollaConfig",
            **{key: value for key, value in GROUPED.items() if key != "head_dim"},
            protein_encoder_config={**SIZES, "vocab_size": VOCABULARY, "num_hidden_layers": 2},
            aligner_num_add_layers=2,
            resampler_depth=1,
            resampler_dim_head=8,
            resampler_heads=2,
            resampler_num_latents=4,
        ),
        "It reads proteins, which enter by cross-attention, and no pictures.",
    ),
    *(Refused(name, build, SEQ2SEQ) for name, build in encoder_decoders.BUILDERS.items()),
    Refused(
        "pi0",
        made(
            "PI0ForConditionalGeneration",
            "PI0Config",
            vlm_config={
                "model_type": "paligemma",
                "text_config": {**GROUPED, "model_type": "gemma"},
                "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
                "projection_dim": HIDDEN,
                "image_token_id": 5,
            },
            dit_config={**GROUPED, "model_type": "gemma"},
            chunk_size=4,
        ),
        "It makes a robot's actions, not text, with a second model over the first one's cache.",
    ),
    Refused(
        "diffusion_gemma",
        made(
            "DiffusionGemmaForBlockDiffusion",
            "DiffusionGemmaConfig",
            text_config={
                **GROUPED,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "global_head_dim": 8,
                "num_experts": 4,
                "top_k_experts": 2,
                "moe_intermediate_size": 8,
            },
            vision_config={
                **SIZES,
                "model_type": "gemma4_vision",
                "num_hidden_layers": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "patch_size": PATCH,
            },
            image_token_id=5,
            canvas_length=8,
        ),
        "It refines all of its answer at once by diffusion: visual tokens are only in an encoder's cache.",
    ),
)
