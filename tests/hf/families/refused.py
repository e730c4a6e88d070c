"""Families that cannot be pruned by nature, as tiny random models: each is refused with a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sparsesight.families import FAMILIES, UNSUPPORTED_LAYERS

from . import base, encoder_decoders, glm_like, llava_more, qwen_like, rest_moe, rest_sparse
from .encoder_decoders import GROUPED, HIDDEN, IDS, PATCH, SIDE, SIZES, TEXT, VISION, VOCABULARY, made


@dataclass(frozen=True)
class Refused:
    """A family that cannot work.

    Attributes:
        name: the `model_type` of its config.
        build: -> tiny random model with eager attention.
        layers: the type of its decoder layers that is to blame, if it is not the family as a whole.
    """

    name: str
    build: Callable[[], Any]
    layers: str = ""

    @property
    def why(self) -> str:
        """The library's own reason."""
        return UNSUPPORTED_LAYERS[self.layers] if self.layers else FAMILIES[self.name].unsupported

    @property
    def missing(self) -> str:
        return base.missing(self.name)


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


_SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
_PALIGEMMA = {
    "model_type": "paligemma",
    "text_config": {**GROUPED, "model_type": "gemma"},
    "vision_config": _SIGLIP,
    "projection_dim": HIDDEN,
    "image_token_id": 5,
}
_QWEN = {
    "model_type": "qwen2_vl",
    "text_config": {**GROUPED, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
    "vision_config": {
        "depth": 2,
        "embed_dim": HIDDEN,
        "hidden_size": HIDDEN,
        "num_heads": 2,
        "patch_size": PATCH,
        "mlp_ratio": 1,
    },
    "image_token_id": 5,
}
_MODERNVBERT = {
    "text_config": {**TEXT, "model_type": "modernbert"},
    "vision_config": _SIGLIP,
    "image_token_id": 5,
    "pixel_shuffle_factor": 1,
}
_GEMMA4_VISION = {
    **SIZES,
    "model_type": "gemma4_vision",
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "patch_size": PATCH,
}

REFUSED = (
    Refused(
        "blip",
        made(
            "BlipForConditionalGeneration",
            "BlipConfig",
            text_config={**TEXT, "encoder_hidden_size": HIDDEN},
            vision_config=VISION,
        ),
    ),
    Refused(
        "blip-2",
        _qformer("Blip2ForConditionalGeneration", "Blip2Config", image_token_index=5),
    ),
    Refused(
        "instructblip",
        _qformer("InstructBlipForConditionalGeneration", "InstructBlipConfig", image_token_index=5),
    ),
    Refused(
        "instructblipvideo",
        _qformer("InstructBlipVideoForConditionalGeneration", "InstructBlipVideoConfig", video_token_index=5),
    ),
    Refused(
        "git",
        made("GitForCausalLM", "GitConfig", vision_config=VISION, **TEXT),
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
    ),
    Refused(
        "kosmos-2",
        _kosmos("Kosmos2ForConditionalGeneration", "Kosmos2Config", VISION),
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
    ),
    *(Refused(name, build) for name, build in encoder_decoders.BUILDERS.items()),
    Refused(
        "pi0",
        made(
            "PI0ForConditionalGeneration",
            "PI0Config",
            vlm_config=_PALIGEMMA,
            dit_config={**GROUPED, "model_type": "gemma"},
            chunk_size=4,
        ),
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
            vision_config=_GEMMA4_VISION,
            image_token_id=5,
            canvas_length=8,
        ),
    ),
    Refused("colpali", made("ColPaliForRetrieval", "ColPaliConfig", vlm_config=_PALIGEMMA, embedding_dim=8)),
    Refused("colqwen2", made("ColQwen2ForRetrieval", "ColQwen2Config", vlm_config=_QWEN, embedding_dim=8)),
    Refused(
        "colmodernvbert",
        made(
            "ColModernVBertForRetrieval",
            "ColModernVBertConfig",
            vlm_config={"model_type": "modernvbert", **_MODERNVBERT},
            embedding_dim=8,
        ),
    ),
    Refused("modernvbert", made("ModernVBertForMaskedLM", "ModernVBertConfig", **_MODERNVBERT)),
    Refused(
        "embedding_gemma2",
        made(
            "EmbeddingGemma2Model",
            "EmbeddingGemma2Config",
            text_config=GROUPED,
            vision_config=_GEMMA4_VISION,
            audio_config=None,
            image_token_id=5,
        ),
    ),
    Refused(
        "neomme", made("NeoMMEForRetrieval", "NeoMMEConfig", **{**GROUPED, "head_dim": 16}, embedding_rank=8)
    ),
    # Families that would do but for some of their layers.
    Refused("mistral_large4", partial(llava_more.mistral_large4, "eager"), "indexed_attention"),
    Refused("glm5_next", partial(glm_like.glm5_next, "eager"), "indexed_attention"),
    Refused("qwen4_exp", partial(qwen_like.qwen4_exp, "eager"), "indexed_attention"),
    Refused("dots3_note", partial(rest_sparse.dots3_note, "eager"), "indexed_attention"),
    Refused("hy_v4_vl", partial(rest_sparse.hunyuan4, "eager"), "indexed_attention"),
    Refused("minimax_m3_vl", partial(rest_sparse.minimax_sparse, "eager"), "minimax_m3_sparse"),
    Refused("unlimited_ocr", partial(rest_moe.unlimited_ocr, "eager"), "reference_sliding_attention"),
    Refused("inkling_mm_model", partial(rest_moe.inkling, "eager"), "hybrid"),
    Refused("inkling2", partial(rest_moe.inkling2, "eager"), "hybrid"),
    Refused("inkling2_loop", partial(rest_moe.inkling2_loop, "eager"), "hybrid"),
)
