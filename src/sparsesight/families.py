"""Everything that must be known of a model family and that neither its config nor its processor tells: one row each.

A family without a row works by what transformers says of it. Keys are ``model_type`` values. Counts such as
``frame_tokens`` are functions of the model's config, so that a row holds for every size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

Config = Any
Layout = Literal["tiles", "anyres", "by_size", "by_grid"]
Alone = Literal["tiles", "pictures", "frames", ""]


@dataclass(frozen=True)
class Family:
    """What is particular about a family.

    Attributes:
        unsupported: why it cannot be pruned; "" if it can.
        unrotated: which full-attention layers have no rotary positions although their modules do not say so: all, or
            those beside windowed layers.
        run_is_frame: whether each run of video ids is one frame, as text or markers stand between frames.
        encoded_by_frame: whether the encoder gives features by the frame, not by the clip.
        frame_tokens: tokens of one frame where a clip's frames follow each other with nothing between them.
        encoded_alone: what the vision tower encodes without looking at the rest of its input, so that equal ones can be
            encoded once: ``tiles``, entries of pixels [n, ..., 3, h, w]; ``pictures`` or single ``frames``, of patches
            that come in one sequence. "": nothing, or it is not known whose its rows are.
        layout: the order of a picture's tokens: ``tiles`` of one size; ``anyres``, LLaVA-NeXT's; ``by_size``,
            Pixtral's; ``by_grid``, Qwen2-VL's. None: not known, so there is no picture of what was kept.
        merge: patches along one side that become one token, for ``tiles``.
        processor_calls: ways in which the family's own processor may have called its image processor.
        pictures_together: whether several pictures of a prompt are prepared otherwise than one.
        clips_drawn: whether it is known which part of a frame a token of ``frame_tokens`` stands for.
        before_frame, after_clip: tokens that stand for no part of a frame.
        clip_is_pictures: whether a clip is a sequence of pictures to the model.
        vllm: the classes of vLLM's that serve it: architecture -> module and class in vllm.model_executor.models.
    """

    unsupported: str = ""
    unrotated: Literal["", "all", "beside windows"] = ""
    run_is_frame: bool = False
    encoded_by_frame: bool = False
    frame_tokens: Callable[[Config], int] | None = None
    encoded_alone: Alone = "tiles"
    layout: Layout | None = None
    merge: Callable[[Config], float] = lambda config: 1
    processor_calls: tuple[Mapping[str, Any], ...] = ({},)
    pictures_together: bool = False
    clips_drawn: bool = False
    before_frame: int = 0
    after_clip: int = 0
    clip_is_pictures: bool = False
    vllm: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def patch_size(config: Config) -> int:
    """Pixels along one side of a patch of the vision tower."""
    size = config.vision_config.patch_size
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _side(config: Config) -> int:
    """Patches along one side of a square picture; 0 if that is not in the config."""
    vision = config.vision_config
    return int(getattr(vision, "image_size", 0)) // int(getattr(vision, "patch_size", 1))


def _served(architecture: str, module: str, name: str = "") -> dict[str, tuple[str, str]]:
    return {architecture: (module, name or architecture)}


_CROSS = "pictures enter by cross-attention, so the decoder's sequence has no visual tokens"
_SEQ2SEQ = (
    "an encoder-decoder has its visual tokens in the encoder, which the decoder reads by cross-attention"
)
_QUERIES = (
    "a Q-Former has already made few tokens of a picture, and generate() hands the language model no ids; "
    "pass the language model and visual_mask=... to prune it all the same"
)
_MASKED = "a mask instead of placeholder ids tells where its visual tokens are; pass its text model and visual_mask=..."
_RETRIEVAL = (
    "it answers with an embedding of every token, those of pictures too, so that none can be dropped; pool the "
    "embeddings instead"
)
_CROPS: tuple[Mapping[str, Any], ...] = ({"crop_to_patches": True}, {"crop_to_patches": False})

FAMILIES: dict[str, Family] = {
    "aya_vision": Family(
        layout="tiles", merge=lambda config: config.downsample_factor, processor_calls=_CROPS
    ),
    "blip": Family(unsupported=_CROSS),
    "blip-2": Family(unsupported=_QUERIES),
    "cohere2": Family(unrotated="all"),
    "cohere2_moe": Family(unrotated="all"),
    "cohere2_vision": Family(layout="tiles", merge=lambda config: config.downsample_factor),
    "cohere_compass": Family(run_is_frame=True, encoded_alone="frames"),
    "colmodernvbert": Family(unsupported=_RETRIEVAL),
    "colpali": Family(unsupported=_RETRIEVAL),
    "colqwen2": Family(unsupported=_RETRIEVAL),
    "cosmos3_edge": Family(encoded_alone="frames"),
    "cosmos3_omni": Family(encoded_alone="frames"),
    "diffusion_gemma": Family(
        unsupported="it refines its whole answer by diffusion, over visual tokens only in an encoder's cache"
    ),
    "embedding_gemma2": Family(unsupported=_RETRIEVAL),
    "ernie4_5_vl_moe": Family(encoded_alone="frames"),
    "evolla": Family(unsupported="it reads proteins, which enter by cross-attention, and no pictures"),
    "exaone4": Family(unrotated="beside windows"),
    "exaone4_5": Family(encoded_alone="frames"),
    "exaone_moe": Family(unrotated="beside windows"),
    "florence2": Family(unsupported=_SEQ2SEQ),
    "gemma3": Family(
        layout="tiles",
        merge=lambda config: (
            config.vision_config.image_size // patch_size(config) / isqrt(config.mm_tokens_per_image)
        ),
    ),
    "gemma4": Family(run_is_frame=True),
    "gemma4_unified": Family(run_is_frame=True),
    "git": Family(
        unsupported="its decoder itself puts a picture's tokens before the text, and no placeholder ids stand for them"
    ),
    "glm46v": Family(run_is_frame=True, encoded_alone="frames"),
    "glm4v": Family(run_is_frame=True, encoded_alone="frames", layout="by_grid"),
    "glm4v_moe": Family(run_is_frame=True, encoded_alone="frames"),
    "glm_ocr": Family(encoded_alone="frames"),
    "glmga": Family(encoded_alone="frames"),
    "hyperclovax_vision_v2": Family(encoded_alone="frames"),
    "idefics": Family(unsupported=_CROSS),
    "idefics3": Family(layout="tiles", merge=lambda config: config.scale_factor),
    "instructblip": Family(unsupported=_QUERIES),
    "instructblipvideo": Family(unsupported=_QUERIES),
    "internvl": Family(
        layout="tiles",
        merge=lambda config: 1 / config.downsample_ratio,
        processor_calls=_CROPS,
        clip_is_pictures=True,
        vllm={
            **_served("InternVLChatModel", "internvl"),
            **_served("InternVLForConditionalGeneration", "interns1", "InternS1ForConditionalGeneration"),
        },
    ),
    "kimi_k25": Family(encoded_alone="pictures"),
    "kosmos-2": Family(unsupported=_MASKED),
    "kosmos-2.5": Family(unsupported=_MASKED),
    "lfm3_vl": Family(run_is_frame=True, encoded_alone="frames"),
    "lighton_ocr": Family(encoded_alone="", layout="by_size"),
    "llava": Family(layout="tiles", vllm=_served("LlavaForConditionalGeneration", "llava")),
    "llava_next": Family(layout="anyres", vllm=_served("LlavaNextForConditionalGeneration", "llava_next")),
    "llava_next_video": Family(
        frame_tokens=lambda config: (_side(config) // 2) ** 2, layout="anyres", clips_drawn=True
    ),
    "llava_onevision": Family(
        frame_tokens=lambda config: (-(-_side(config) // 2)) ** 2,
        layout="anyres",
        pictures_together=True,
        clips_drawn=True,
        after_clip=1,
        vllm=_served("LlavaOnevisionForConditionalGeneration", "llava_onevision"),
    ),
    "minicpm_ocr": Family(run_is_frame=True, encoded_by_frame=True),
    "minicpmv4_6": Family(run_is_frame=True, encoded_by_frame=True),
    "minicpmv4_7": Family(run_is_frame=True, encoded_by_frame=True),
    "minimax_m3_vl": Family(run_is_frame=True),
    "mistral3": Family(encoded_alone="", layout="by_size"),
    "mllama": Family(unsupported=_CROSS),
    "modernvbert": Family(unsupported=_RETRIEVAL),
    "muse_glimmer": Family(run_is_frame=True, encoded_alone="frames"),
    "muse_spark": Family(run_is_frame=True, encoded_alone="frames"),
    "neomme": Family(unsupported=_RETRIEVAL),
    "paddleocr_vl": Family(encoded_alone="frames"),
    "paligemma": Family(layout="tiles"),
    "perception_lm": Family(
        encoded_by_frame=True,
        frame_tokens=lambda config: (_side(config) // int(config.projector_pooling_ratio)) ** 2,
    ),
    "pi0": Family(
        unsupported="it makes a robot's actions with a second model that reads the first one's cache"
    ),
    "pix2struct": Family(unsupported=_SEQ2SEQ),
    "pp_formulanet": Family(unsupported=_SEQ2SEQ),
    "qianfan_ocr": Family(
        layout="tiles", merge=lambda config: 1 / config.downsample_ratio, processor_calls=_CROPS
    ),
    "qwen2_5_omni_thinker": Family(encoded_alone="frames"),
    "qwen2_5_vl": Family(
        encoded_alone="frames",
        layout="by_grid",
        vllm=_served("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl"),
    ),
    "qwen2_vl": Family(
        encoded_alone="frames", layout="by_grid", vllm=_served("Qwen2VLForConditionalGeneration", "qwen2_vl")
    ),
    "qwen3_5": Family(run_is_frame=True, encoded_alone="frames", layout="by_grid"),
    "qwen3_5_moe": Family(run_is_frame=True, encoded_alone="frames", layout="by_grid"),
    "qwen3_omni_moe_thinker": Family(encoded_alone="frames"),
    "qwen3_vl": Family(
        run_is_frame=True,
        encoded_alone="frames",
        layout="by_grid",
        vllm=_served("Qwen3VLForConditionalGeneration", "qwen3_vl"),
    ),
    "qwen3_vl_moe": Family(run_is_frame=True, encoded_alone="frames", layout="by_grid"),
    "smolvlm": Family(layout="tiles", merge=lambda config: config.scale_factor),
    "t5gemma2": Family(unsupported=_SEQ2SEQ),
    "udop": Family(unsupported=_SEQ2SEQ),
    "video_llama_3": Family(run_is_frame=True, encoded_alone="frames"),
    "video_llava": Family(
        encoded_by_frame=True,
        frame_tokens=lambda config: _side(config) ** 2 + 1,
        clips_drawn=True,
        before_frame=1,
    ),
    "vipllava": Family(layout="tiles"),
    "vision-encoder-decoder": Family(unsupported=_SEQ2SEQ),
}
_NONE = Family()

_PICKED = "which keys a query sees is picked by their place in the cache, and pruning moves them"
# Types of decoder layers that cannot be pruned, whichever family has them, and why.
UNSUPPORTED_LAYERS = {
    "hybrid": "attention biases are counted over cache places, which pruning moves",
    "hybrid_sliding": "attention biases are counted over cache places, which pruning moves",
    "indexed_attention": _PICKED,
    "minimax_m3_sparse": _PICKED,
    "qwen_sparse_attention": _PICKED,
    "reference_sliding_attention": "a window over generated tokens alone needs a cache of its own",
}


def family_of(config: Config) -> Family:
    """The row of a model's family, from its config; the plain one for a family that needs none."""
    kind = getattr(config, "model_type", "")
    tower = getattr(getattr(config, "vision_config", None), "model_type", "")
    if kind == "llava" and tower == "pixtral":  # its tokens lie as Mistral 3's do
        kind = "mistral3"
    return FAMILIES.get(kind, _NONE)
