"""Tiny random models of the families that the plugin serves, written as checkpoints with their own processors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..hf.families import base, llava_like, llava_tiles, qwen_like
from ..hf.families.base import Sample
from ..hf.families.grids import PATCH, SIZE, build, rope

# Heads of 32, the narrowest that vLLM has on a CPU.
TEXT = {**base.TEXT, "hidden_size": 128, "intermediate_size": 96, "head_dim": 32, "initializer_range": 0.12}
TOWER = {**llava_like.TOWER, "hidden_size": 64, "image_size": llava_like.SMALL}
VOCABULARY: int = base.TEXT["vocab_size"]
FPS = 2.0
UNSAMPLED = {"do_sample_frames": False}


@dataclass(frozen=True)
class Tiny:
    """One family: builders of its model and its processor, and what stands for a picture and a clip in a prompt."""

    name: str
    build: Callable[[str], Any]
    processor: Callable[[], Any]
    image: str = "<image>"
    video: str = ""  # none: the family has no clips
    frames: int | None = None  # of every clip, where vLLM fails on clips of different lengths in one step

    def write(self, path: Path) -> Path:
        """Its checkpoint; it says ordinary words only."""
        model, processor = self.build("sdpa"), self.processor()
        words = processor.tokenizer
        special = [i for i in range(VOCABULARY) if i >= len(words) or i in words.all_special_ids]
        placeholders = model.generation_config.suppress_tokens
        model.generation_config.suppress_tokens = sorted({*special, *placeholders})
        model.save_pretrained(path)
        processor.save_pretrained(path)
        return path

    def text(self, sample: Sample) -> str:
        return sample.text.replace("<image>", self.image).replace("<video>", self.video)

    def samples(self) -> list[Sample]:
        """Prompts of one picture, of two of different sizes, of none, of a clip, of a picture and a clip."""
        clips = [
            replace(sample, videos=tuple(clip[: self.frames] for clip in sample.videos))
            for sample in base.CLIPS
        ]
        return [*base.SAMPLES[:3], *(clips if self.video else ())]

    def prompt(self, sample: Sample) -> dict[str, Any]:
        """As vLLM takes it."""
        data = {
            "image": list(sample.images),
            "video": [(clip, UNSAMPLED | metadata(clip)) for clip in sample.videos],
        }
        return {
            "prompt": self.text(sample),
            "multi_modal_data": {kind: items for kind, items in data.items() if items},
        }

    def inputs(self, processor: Any, sample: Sample) -> dict[str, Any]:
        """As transformers takes it."""
        more: dict[str, Any] = {}
        if sample.videos:
            clips = list(sample.videos)
            more = {"videos": clips, "video_metadata": [metadata(c) for c in clips], **UNSAMPLED}
        return dict(
            processor(
                text=[self.text(sample)], images=list(sample.images) or None, return_tensors="pt", **more
            )
        )


def spoken(path: Path) -> list[int]:
    """The token ids that a written model may say."""
    silent = json.loads((path / "generation_config.json").read_text())["suppress_tokens"]
    return [i for i in range(VOCABULARY) if i not in silent]


def metadata(clip: np.ndarray) -> dict[str, Any]:
    """Of a clip all of whose frames are used."""
    frames = len(clip)
    return {
        "fps": FPS,
        "duration": frames / FPS,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
    }


# --- LLaVA and its kin ------------------------------------------------------------------------------------------

SIDE = {"height": llava_like.SMALL, "width": llava_like.SMALL}


def _llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**TEXT)


def _qwen() -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**TEXT)


def _clip() -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(**TOWER, projection_dim=64)


def _siglip() -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(**TOWER, vision_use_head=False)


def _next() -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    images = LlavaNextImageProcessor(
        size={"shortest_edge": llava_like.SMALL}, crop_size=SIDE, image_grid_pinpoints=llava_like.GRIDS
    )
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=base.tokenizer("<image>", "<video>"),
        patch_size=llava_like.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _onevision() -> Any:
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=llava_like.GRIDS),
        video_processor=LlavaOnevisionVideoProcessor(size=SIDE),
        tokenizer=base.tokenizer("<image>", "<video>"),
        num_image_tokens=(llava_like.SMALL // llava_like.PATCH) ** 2,
        vision_feature_select_strategy="full",
    )


def _intern_config() -> dict[str, Any]:
    made = llava_tiles._intern("InternVL")()
    from transformers import InternVLVisionConfig

    vision = InternVLVisionConfig(
        **{**llava_tiles.TILE, "hidden_size": 64, "layer_scale_init_value": 1.0, "image_size": [64, 64]}
    )
    return {**made, "text_config": _qwen(), "vision_config": vision}


def _intern() -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    size = {"height": llava_tiles.SIDE, "width": llava_tiles.SIDE}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=2),
        video_processor=InternVLVideoProcessor(size=size),
        tokenizer=llava_tiles._INTERN(),
        image_seq_length=llava_tiles.TOKENS,
    )


# --- Qwen -------------------------------------------------------------------------------------------------------

WIDTH = {"out_hidden_size": 128}
VISION = {**qwen_like.VISION, "hidden_size": 64}
INTERLEAVED = rope(6, 5, 5, mrope_interleaved=True)
SECTIONS = rope(4, 6, 6)


def _qwen_vl(stem: str, text: dict[str, Any], vision: dict[str, Any]) -> Callable[[str], Any]:
    return partial(build, stem, qwen_like.LAYOUT, {**TEXT, **text}, {**VISION, **vision})


def _qwen_processor(processor: str, videos: str) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        sizes: dict[str, Any] = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2, "size": SIZE}
        # As published checkpoints have it, alike for both: Qwen3-VL in vLLM takes those of pictures for clips too.
        sizes |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return getattr(transformers, processor)(
            image_processor=transformers.Qwen2VLImageProcessor(**sizes),
            video_processor=getattr(transformers, videos)(**sizes),
            tokenizer=base.tokenizer(**qwen_like.LAYOUT.tokens),
        )

    return make


_QWEN: dict[str, str] = {"image": qwen_like.LAYOUT.image, "video": qwen_like.LAYOUT.video}
_TILES = {"image_grid_pinpoints": llava_like.GRIDS}
FAMILIES: Sequence[Tiny] = (
    Tiny("llava_next", llava_like._tiled("LlavaNext", _clip, _llama, **_TILES), _next),
    Tiny(
        "llava_onevision",
        llava_like._tiled("LlavaOnevision", _siglip, _qwen, **_TILES),
        _onevision,
        video="<video>",
        frames=4,
    ),
    Tiny(
        "qwen2_vl",
        _qwen_vl("Qwen2VL", SECTIONS, {"embed_dim": 64, "hidden_size": 128}),
        _qwen_processor("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
        **_QWEN,
    ),
    # One position a second: once a clip is longer than it is wide, transformers 5.19 lets the text after it go on from
    # its width, and vLLM from its end.
    Tiny(
        "qwen2_5_vl",
        _qwen_vl(
            "Qwen2_5_VL",
            SECTIONS,
            {**WIDTH, "window_size": 24, "fullatt_block_indexes": [1], "tokens_per_second": 1},
        ),
        _qwen_processor("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        **_QWEN,
    ),
    Tiny(
        "qwen3_vl",
        _qwen_vl("Qwen3VL", INTERLEAVED, {**qwen_like.STACKED, **WIDTH}),
        _qwen_processor("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        **_QWEN,
    ),
    Tiny(
        "internvl",
        llava_tiles.built("InternVL", llava_tiles._INTERN(), _intern_config, "<img> </img> <ctx> <video>"),
        _intern,
        image="<ctx>",
        video="<video>",
    ),
)
