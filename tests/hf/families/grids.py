"""Prompts of families whose pictures are rows of patches with a grid of their own, as Qwen2-VL's are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import base
from .base import Sample

PATCH = 6
SIZE = {"shortest_edge": 500, "longest_edge": 10000}  # in pixels: pictures keep theirs, to a multiple of 12


@dataclass(frozen=True)
class Layout:
    """A family's special tokens, by the names its tokenizer has for them, and what stands for a picture, a clip."""

    tokens: dict[str, str]
    image: str
    video: str = ""

    def ids(self) -> dict[str, int]:
        """As its config wants them: `image_token_id` and so on."""
        words = base.tokenizer(**self.tokens)
        return {f"{name}_id": words.convert_tokens_to_ids(word) for name, word in self.tokens.items()}


class Clips:
    """Stands in for a video processor, all of which need torchvision: each frame is patched as a picture.

    Where the image processor repeats a picture in time, as many frames as that share their patches.
    """

    fps = None
    model_input_names = ("pixel_values_videos", "video_grid_thw")

    def __init__(self, images: Any, temporal_patch_size: int | None = None) -> None:
        self.images = images
        self.merge_size = images.merge_size
        self.temporal_patch_size = temporal_patch_size or images.temporal_patch_size
        self.valid_kwargs = images.valid_kwargs

    def __call__(self, videos: Any, **kwargs: Any) -> dict[str, Any]:
        from transformers.video_utils import VideoMetadata

        together = self.images.temporal_patch_size
        rows, grids, metadata = [], [], []
        for clip in videos:
            frames = self.images(images=list(clip), return_tensors="pt")
            height, width = frames["image_grid_thw"][0, 1:].tolist()
            still = frames["pixel_values"].view(len(clip), height * width, 3, together, -1)[:, :, :, 0]
            moving = still.view(-1, together, *still.shape[1:]).permute(0, 2, 3, 1, 4)
            rows.append(moving.reshape(len(moving) * height * width, -1))
            grids.append([len(moving), height, width])
            every = list(range(len(clip)))
            metadata.append(VideoMetadata(total_num_frames=len(clip), fps=1.0, frames_indices=every))
        return {
            "pixel_values_videos": torch.cat(rows),
            "video_grid_thw": torch.tensor(grids),
            "video_metadata": metadata,
        }


def unchecked(processor: type) -> type:
    """The processor without the check of its parts' classes, which needs torchvision."""
    return type(processor.__name__, (processor,), {"check_argument_for_proper_class": lambda *args: None})


def grid_prompts(
    samples: Sequence[Sample], layout: Layout, processor: type, images: Any, clips: Any = None
) -> dict[str, Any]:
    """Through a family's own processor and image processor; clips through a stand-in."""
    parts = {"video_processor": clips or Clips(images)} if layout.video else {}
    make = unchecked(processor)(image_processor=images, tokenizer=base.tokenizer(**layout.tokens), **parts)
    given = {"images": [image for sample in samples for image in sample.images] or None}
    if parts:
        given["videos"] = [video for sample in samples for video in sample.videos] or None
    texts = [s.text.replace("<image>", layout.image).replace("<video>", layout.video) for s in samples]
    return dict(make(text=texts, padding=True, return_tensors="pt", **given))


def build(
    stem: str,
    layout: Layout,
    text: dict[str, Any],
    vision: dict[str, Any],
    attention: str,
    model: str = "",
    **more: Any,
) -> Any:
    """A model of the classes that begin with `stem`, or with `model` where only the config does."""
    import transformers

    base.seed()
    ids = layout.ids()
    config = getattr(transformers, f"{stem}Config")(
        text_config={**base.TEXT, **text},
        vision_config=vision,
        **ids,
        **more,
        attn_implementation=attention,
    )
    made = getattr(transformers, f"{model or stem}ForConditionalGeneration")(config)
    return base.finish(made, *ids.values())


def rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary positions on three axes."""
    axes = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}
    return {"rope_parameters": {**axes, **more}}
