"""Whole processors, where the test matrix makes prompts by hand or with a part that stands in."""

from __future__ import annotations

from typing import Any

from . import base, idefics_like, liquid_like, llava_like, llava_more, llava_tiles, qwen_like
from .grids import PATCH, SIZE
from .prompts import PATCH as PLAIN_PATCH
from .prompts import SIDE as PLAIN_SIDE

SMALL = {"height": llava_like.SMALL, "width": llava_like.SMALL}
CENTRE = {"size": {"shortest_edge": llava_like.SMALL}, "crop_size": SMALL}


def onevision() -> Any:
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SMALL, image_grid_pinpoints=llava_like.GRIDS),
        video_processor=LlavaOnevisionVideoProcessor(size=SMALL),
        tokenizer=base.tokenizer("<image>", "<video>"),
        num_image_tokens=(llava_like.SMALL // llava_like.PATCH) ** 2,
        vision_feature_select_strategy="full",
    )


def intern_vl(words: Any) -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    size: dict[str, Any] = {"size": {"height": llava_tiles.SIDE, "width": llava_tiles.SIDE}}
    size |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # ImageNet's
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**size, crop_to_patches=True, max_patches=2),
        video_processor=InternVLVideoProcessor(**size),
        tokenizer=words,
        image_seq_length=llava_tiles.TOKENS,
    )


def qwen_vl(processor: str, videos: str) -> Any:
    import transformers

    sizes: dict[str, Any] = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "size": SIZE}
    # As published checkpoints have it, alike for both: Qwen3-VL in vLLM takes those of pictures for clips too.
    sizes |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return getattr(transformers, processor)(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        video_processor=getattr(transformers, videos)(**sizes),
        tokenizer=base.tokenizer(**qwen_like.LAYOUT.tokens),
    )


def pixtral(spatial_merge_size: int = 1) -> Any:
    from transformers import PixtralImageProcessor, PixtralProcessor

    patch = PLAIN_PATCH // spatial_merge_size
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(
            size={"longest_edge": PLAIN_SIDE}, patch_size={"height": patch, "width": patch}
        ),
        tokenizer=base.tokenizer("<image>", "[BREAK]", "[END]"),
        patch_size=patch,
        spatial_merge_size=spatial_merge_size,
        image_token="<image>",
        image_break_token="[BREAK]",
        image_end_token="[END]",
    )


def fast() -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    return LlavaProcessor(
        image_processor=CLIPImageProcessor(**CENTRE),
        tokenizer=llava_more._PLAIN(),
        patch_size=llava_like.PATCH,
        vision_feature_select_strategy="full",
    )


def omni(stem: str) -> Any:
    import transformers

    whole = qwen_vl("Qwen2VLProcessor", "Qwen2VLVideoProcessor")
    tokens = qwen_like.LAYOUT.tokens
    named = {
        "image_token": tokens["image_token"],
        "video_token": tokens["video_token"],
        "vision_bos_token": tokens["vision_start_token"],
        "vision_eos_token": tokens["vision_end_token"],
        "audio_token": "<audio>",
        "audio_bos_token": "<audio_start>",
        "audio_eos_token": "<audio_end>",
    }
    return getattr(transformers, f"{stem}Processor")(
        image_processor=whole.image_processor,
        video_processor=whole.video_processor,
        feature_extractor=transformers.WhisperFeatureExtractor(feature_size=8),
        tokenizer=base.tokenizer(*tokens.values(), **named),
    )


def next_video() -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    return LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessor(**CENTRE, image_grid_pinpoints=llava_like.GRIDS),
        video_processor=LlavaNextVideoVideoProcessor(**CENTRE),
        tokenizer=base.tokenizer("<image>", "<video>"),
        patch_size=llava_like.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def video_llava() -> Any:
    from transformers import CLIPImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    return VideoLlavaProcessor(
        image_processor=CLIPImageProcessor(**CENTRE),
        video_processor=VideoLlavaVideoProcessor(**CENTRE),
        tokenizer=base.tokenizer("<image>", "<video>"),
        patch_size=llava_like.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def smolvlm() -> Any:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    size = {"longest_edge": idefics_like.SMOL}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size),
        tokenizer=base.tokenizer(
            *idefics_like.MARKS,
            image_token="<image>",
            fake_image_token=idefics_like.AROUND,
            global_image_token="<global-img>",
        ),
        image_seq_len=(idefics_like.SMOL // idefics_like.PATCH // 2) ** 2,
    )


def perception() -> Any:
    from transformers import PerceptionLMImageProcessor, PerceptionLMProcessor, PerceptionLMVideoProcessor

    return PerceptionLMProcessor(
        image_processor=PerceptionLMImageProcessor(tile_size=llava_like.SMALL, max_num_tiles=1),
        video_processor=PerceptionLMVideoProcessor(size=SMALL),
        tokenizer=base.tokenizer(image_token="<image>", video_token="<video>"),
        patch_size=4,
        pooling_ratio=2,
    )


def lfm2() -> Any:
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    return Lfm2VlProcessor(
        image_processor=Lfm2VlImageProcessor(
            encoder_patch_size=liquid_like.PATCH,
            downsample_factor=2,
            do_image_splitting=False,
            min_image_tokens=1,
            max_image_tokens=16,
            max_num_patches=64,
        ),
        tokenizer=base.tokenizer(
            image_token="<image>",
            image_start_token="<start>",
            image_end_token="<end>",
            image_thumbnail="<thumb>",
        ),
    )
