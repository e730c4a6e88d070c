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
from ..hf.families.grids import build, rope
from ..hf.families.own_processors import intern_vl, onevision, qwen_vl

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
    side: int = 0  # of every picture and frame, where vLLM resizes by other rules than transformers
    asked: str = ""  # what stands for a picture in vLLM, if not `image`
    served: Callable[[Path], Path] | None = None  # rewrites the checkpoint for vLLM

    def write(self, path: Path) -> Path:
        """Its checkpoint; it says ordinary words only."""
        model, processor = self.build("sdpa"), self.processor()
        words = processor.tokenizer
        added = words.added_tokens_decoder
        special = [i for i in range(VOCABULARY) if i >= len(words) or (i in added and added[i].special)]
        placeholders = model.generation_config.suppress_tokens
        model.generation_config.suppress_tokens = sorted({*special, *placeholders})
        model.save_pretrained(path)
        processor.save_pretrained(path)
        return path

    def text(self, sample: Sample) -> str:
        return sample.text.replace("<image>", self.image).replace("<video>", self.video)

    def samples(self) -> list[Sample]:
        """Prompts of one picture, of two of different sizes, of none, of a clip, of a picture and a clip."""
        samples = [*base.SAMPLES[:3], *(base.CLIPS if self.video else ())]
        return [self._fitted(seed, sample) for seed, sample in enumerate(samples)]

    def _fitted(self, seed: int, sample: Sample) -> Sample:
        images, videos = sample.images, tuple(clip[: self.frames] for clip in sample.videos)
        if side := self.side:
            images = tuple(base.picture(10 * seed + i, side, side) for i in range(len(images)))
            videos = tuple(base.clip(10 * seed, len(clip), side, side) for clip in videos)
        return replace(sample, images=images, videos=videos)

    def prompt(self, sample: Sample) -> dict[str, Any]:
        """As vLLM takes it."""
        data = {
            "image": list(sample.images),
            "video": [(clip, UNSAMPLED | metadata(clip)) for clip in sample.videos],
        }
        return {
            "prompt": replace(self, image=self.asked or self.image).text(sample),
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


def _intern_config() -> dict[str, Any]:
    from transformers import InternVLVisionConfig

    image = _intern_words().convert_tokens_to_ids("<IMG_CONTEXT>")
    vision = InternVLVisionConfig(
        **{**llava_tiles.TILE, "hidden_size": 64, "layer_scale_init_value": 1.0, "image_size": [64, 64]}
    )
    return {
        "vision_config": vision,
        "text_config": _qwen(),
        "image_token_id": image,
        "image_seq_length": llava_tiles.TOKENS,
    }


def _intern_words() -> Any:
    return base.tokenizer(
        "<image>",
        "<|video_pad|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )


def _intern() -> Any:
    return intern_vl(_intern_words())


def _chat(path: Path) -> Path:
    from .intern_chat import rewrite

    return rewrite(path)


# --- Qwen -------------------------------------------------------------------------------------------------------

WIDTH = {"out_hidden_size": 128}
VISION = {**qwen_like.VISION, "hidden_size": 64}
INTERLEAVED = rope(6, 5, 5, mrope_interleaved=True)
SECTIONS = rope(4, 6, 6)


def _qwen_vl(stem: str, text: dict[str, Any], vision: dict[str, Any]) -> Callable[[str], Any]:
    return partial(build, stem, qwen_like.LAYOUT, {**TEXT, **text}, {**VISION, **vision})


_QWEN: dict[str, str] = {"image": qwen_like.LAYOUT.image, "video": qwen_like.LAYOUT.video}
_INTERNVL = llava_tiles.built(
    "InternVL", _intern_words(), _intern_config, "<img> </img> <IMG_CONTEXT> <video>"
)
_TILES = {"image_grid_pinpoints": llava_like.GRIDS}
FAMILIES: Sequence[Tiny] = (
    Tiny("llava_next", llava_like._tiled("LlavaNext", _clip, _llama, **_TILES), _next),
    Tiny(
        "llava_onevision",
        llava_like._tiled("LlavaOnevision", _siglip, _qwen, **_TILES),
        onevision,
        video="<video>",
        frames=4,
    ),
    Tiny(
        "qwen2_vl",
        _qwen_vl("Qwen2VL", SECTIONS, {"embed_dim": 64, "hidden_size": 128}),
        partial(qwen_vl, "Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
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
        partial(qwen_vl, "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        **_QWEN,
    ),
    Tiny(
        "qwen3_vl",
        _qwen_vl("Qwen3VL", INTERLEAVED, {**qwen_like.STACKED, **WIDTH}),
        partial(qwen_vl, "Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
        **_QWEN,
    ),
    Tiny("internvl", _INTERNVL, _intern, image="<IMG_CONTEXT>", video="<video>"),
    Tiny(
        "internvl_chat",
        _INTERNVL,
        _intern,
        image="<IMG_CONTEXT>",
        video="<video>",
        side=llava_tiles.SIDE,
        asked="<image>",
        served=_chat,
    ),
)
